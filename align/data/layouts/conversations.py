"""Layouts that hold whole conversations: ShareGPT's, and OpenAI's for preferences."""

from collections.abc import Mapping
from typing import Any

from align.records import Demonstration, Message, Preference, Prompt, Record, RecordError, Text, shown

Row = Mapping[str, Any]

CONVERSATION_FIELDS = ("conversations", "preferred_output", "non_preferred_output")
ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
}
"""What data sets call who speaks -> the role in a chat template."""


def from_turns(turns: Any, wanted: str, field: str) -> list[Record]:
    """A conversation: its last message, the assistant's, is the completion; whole for language_modeling.

    Raises:
        RecordError: `field` has nothing to answer, or no answer.
    """
    if not isinstance(turns, list):
        raise RecordError(field, f"is {shown(turns)}, not a list of messages")
    conversation = Text.from_row({"messages": [plain(turn) for turn in turns]})
    skipped = bool(turns) and turns[-1].get("weight") == 0
    turns = conversation.content
    if wanted == "language_modeling":
        return [conversation]
    if wanted == "prompt_only" and turns[-1]["role"] != "assistant":
        return [Prompt(turns)]
    if turns[-1]["role"] != "assistant":
        raise RecordError(field, f"do not end with the assistant's ({shown(turns[-1])}): there is no completion")
    if skipped and wanted != "prompt_only":
        raise RecordError(field, "end with an answer of weight 0, which says that it is not to be learnt")
    if len(turns) == 1:
        raise RecordError(field, f"have nothing before the assistant's ({shown(turns[0])}): there is no prompt")
    return [Demonstration.from_row({"prompt": turns[:-1], "completion": turns[-1:]})]


def plain(turn: Any) -> Any:
    """An OpenAI message as a chat template takes it: its parts of text joined, without the weight of fine-tuning."""
    if not isinstance(turn, Mapping):
        return turn
    parts = turn.get("content")
    kept = {key: value for key, value in turn.items() if key != "weight"}
    if isinstance(parts, list) and parts and all(_is_text(part) for part in parts):
        return {**kept, "content": "".join(part["text"] for part in parts)}
    return kept


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def sharegpt(row: Row, wanted: str) -> list[Record]:
    """ShareGPT's `conversations` of `from` and `value`; with chosen and rejected turns beside them, a preference."""
    turns = _turns(row.get("conversations"), "conversations")
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns = [{"role": "system", "content": row["system"]}, *turns]
    if row.get("chosen") is None and row.get("rejected") is None:
        return from_turns(turns, wanted, "conversations")
    sides = {"prompt": turns} | {side: _side(row.get(side), side) for side in ("chosen", "rejected")}
    sides = {name: [plain(turn) for turn in side] for name, side in sides.items()}
    return [Preference.from_row({**sides, "margin": row.get("margin")})]


def openai_preference(row: Row, wanted: str) -> list[Record]:
    """OpenAI's preference fine-tuning: `input.messages`, `preferred_output`, `non_preferred_output`."""
    given = row.get("input")
    prompt = given.get("messages") if isinstance(given, Mapping) else None
    if not isinstance(prompt, list):
        raise RecordError("input.messages", f"is {shown(prompt)}, not a list of messages")
    sides = {"prompt": prompt, "chosen": row.get("preferred_output"), "rejected": row.get("non_preferred_output")}
    mended = {name: [plain(turn) for turn in side] if isinstance(side, list) else side for name, side in sides.items()}
    return [Preference.from_row(mended)]


def _side(value: Any, field: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return _turns([value] if isinstance(value, Mapping) else value, field)


def _turns(value: Any, field: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RecordError(field, f"is {shown(value)}, not a list of turns" if value is not None else "is missing")
    turns = []
    for position, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            raise RecordError(f"{field}[{position}]", f"is {shown(turn)}, not a turn with from and value")
        speaker = turn.get("from", turn.get("role"))
        role = ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
        if role is None:
            known = ", ".join(sorted(ROLES))
            raise RecordError(f"{field}[{position}].from", f"is {shown(speaker)}, not one of {known}")
        kept = {key: item for key, item in turn.items() if key not in ("from", "role", "value", "content")}
        turns.append({"role": role, "content": turn.get("value", turn.get("content")), **kept})
    return turns

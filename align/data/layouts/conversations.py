"""Layouts that hold whole conversations: ShareGPT's and ms-swift's, OpenAI's messages and its preferences."""

import json
from collections.abc import Mapping
from typing import Any

from align.data.layouts.answers import labelled
from align.data.layouts.columns import find
from align.data.layouts.prompts import ROLES, joined, system_of
from align.records import Demonstration, Message, Preference, Prompt, Record, RecordError, Text, shown

Row = Mapping[str, Any]

CONVERSATION_FIELDS = ("conversations", "preferred_output", "non_preferred_output", "rejected_response")
REJECTED = ("rejected", "rejected_response", "response_rejected", "rejected_answer")
"""The columns that may hold the worse answer, where the better one ends the conversation."""
CALLS = ("function_call", "tool_call")
RESULTS = ("function", "function_response", "tool_response", "observation")
MEDIA = ("image", "audio", "video")


def from_turns(turns: Any, wanted: str, field: str, row: Row | None = None) -> list[Record]:
    """A conversation: its last message, the assistant's, is the completion; whole for language_modeling.

    Args:
        turns: the messages.
        wanted: the format to be made.
        field: the column they are from, for messages.
        row: the columns next to them: a system message, a label, a rejected answer.

    Raises:
        RecordError: `field` has nothing to answer, or no answer.
    """
    row = row or {}
    if not isinstance(turns, list):
        raise RecordError(field, f"is {shown(turns)}, not a list of messages")
    skipped = bool(turns) and isinstance(turns[-1], Mapping) and turns[-1].get("weight") == 0
    conversation = Text.from_row({"messages": joined(system_of(row), messages_of(turns, field))})
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
    column, worse = find(row, REJECTED if row.get("chosen") is None else REJECTED[1:])
    if column is not None and worse not in ("", []):
        several = worse if isinstance(worse, list) and all(isinstance(text, str) for text in worse) else [worse]
        return [_preference(turns, side(text, column), row) for text in several]
    return [labelled(Demonstration.from_row({"prompt": turns[:-1], "completion": turns[-1:]}), row, wanted)]


def messages(row: Row, wanted: str) -> list[Record]:
    """OpenAI's chat `messages`: the last, the assistant's, is the completion; whole for language_modeling.

    With ms-swift's `rejected_response` or `rejected_messages` a preference, with a `label` an unpaired one.
    """
    if row.get("messages") is None:
        raise RecordError("messages", f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    worse = row.get("rejected_messages")
    if not worse:
        return from_turns(row["messages"], wanted, "messages", row)
    if not isinstance(row["messages"], list) or not isinstance(worse, list):
        raise RecordError("rejected_messages", f"is {shown(worse)}, not a list of messages")
    chosen = joined(system_of(row), messages_of(row["messages"], "messages"))
    return [_preference(chosen, messages_of(worse, "rejected_messages"), row)]


def sharegpt(row: Row, wanted: str) -> list[Record]:
    """ShareGPT's `conversations` of `from` and `value`, or of human and assistant; also with chosen and rejected."""
    column, given = find(row, ("conversations", "conversation"))
    turns = _turns(given, column or "conversations")
    if row.get("chosen") is None or row.get("rejected") is None:
        if row.get("chosen") is not None:
            raise RecordError("rejected", "is missing, and there is a chosen answer")
        return from_turns(turns, wanted, column or "conversations", row)
    prompt = joined(system_of(row), messages_of(turns, column or "conversations"))
    sides = {"prompt": prompt} | {name: side(row[name], name) for name in ("chosen", "rejected")}
    return [Preference.from_row({**sides, "margin": row.get("margin")})]


def openai_preference(row: Row, wanted: str) -> list[Record]:
    """OpenAI's preference fine-tuning: `input.messages`, `preferred_output`, `non_preferred_output`."""
    given = row.get("input")
    prompt = given.get("messages") if isinstance(given, Mapping) else None
    if not isinstance(prompt, list):
        raise RecordError("input.messages", f"is {shown(prompt)}, not a list of messages")
    sides = {"prompt": prompt, "chosen": row.get("preferred_output"), "rejected": row.get("non_preferred_output")}
    read = {name: messages_of(turns, name) if isinstance(turns, list) else turns for name, turns in sides.items()}
    return [Preference.from_row(read)]


def explicit_prompt(row: Row) -> Row:
    """A preference row whose sides are whole conversations, with what they share taken out as the prompt.

    A row that already has its prompt outside comes back as it is. Raises RecordError where the sides share nothing.
    """
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
            remedy = 'transcripts with "\\n\\nHuman:" turns need layout: hh_rlhf'
            raise RecordError("prompt", f"is missing, and chosen and rejected are strings ({remedy})")
        return row
    if isinstance(prompt, list):
        repeated = prompt and chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt
        return {**row, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]} if repeated else row
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    shared = chosen[:length]
    if length == min(len(chosen), len(rejected)):
        raise RecordError("rejected", f"and chosen are one conversation, or one begins the other ({shown(shared)})")
    if not shared:
        raise RecordError("prompt", "is missing: chosen and rejected share no prompt, their first messages differ")
    said = [message.get("content") for message in shared if isinstance(message, Mapping)]
    if isinstance(prompt, str) and prompt.strip() not in [text.strip() for text in said if isinstance(text, str)]:
        raise RecordError("prompt", f"is not in the conversations of chosen and rejected ({shown(prompt)})")
    return {**row, "prompt": shared, "chosen": chosen[length:], "rejected": rejected[length:]}


def messages_of(turns: list[Any], field: str) -> list[Any]:
    """Messages as a chat template takes them: calls of tools as `tool_calls`, calls in a row in one message.

    Raises:
        RecordError: a call is not the JSON of a call, or a message holds a picture or a sound.
    """
    found: list[Any] = []
    for position, turn in enumerate(turns):
        message = _message(turn, f"{field}[{position}]")
        called = isinstance(turn, Mapping) and turn.get("role") in CALLS
        if called and found and isinstance(turns[position - 1], Mapping) and turns[position - 1].get("role") in CALLS:
            found[-1] = {**found[-1], "tool_calls": [*found[-1]["tool_calls"], *message["tool_calls"]]}
        else:
            found.append(message)
    return found


def side(value: Any, field: str) -> list[Message]:
    """One answer, as text, as a turn or as turns, as messages. Raises RecordError."""
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    return messages_of(_turns([value] if isinstance(value, Mapping) else value, field), field)


def tool_calls(value: Any, field: str) -> list[dict[str, Any]]:
    """The calls of a turn that calls tools: `{"name": ..., "arguments": {...}}`, one or a list, also as JSON text.

    Raises:
        RecordError: it is not the JSON of a call.
    """
    given = value
    if isinstance(value, str):
        try:
            given = json.loads(value)
        except (ValueError, RecursionError):
            raise RecordError(field, f"is {shown(value)}, not the JSON of a call with name and arguments") from None
    calls = []
    for call in given if isinstance(given, list) and given else [given]:
        call = call.get("function", call) if isinstance(call, Mapping) else call
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise RecordError(field, f"is {shown(value)}, not the JSON of a call with name and arguments")
        arguments = call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments) if arguments.strip() else {}
            except (ValueError, RecursionError):
                raise RecordError(field, f"has the arguments {shown(arguments)}, which are not JSON") from None
        calls.append({"type": "function", "function": {"name": call["name"], "arguments": arguments}})
    return calls


def _preference(turns: list[Message], worse: list[Message], row: Row) -> Preference:
    """The conversation's last answer against a worse one, which may also repeat the conversation before it."""
    sides = {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": worse}
    if not isinstance(worse[0], Mapping) or worse[0].get("role") != "assistant":
        sides = explicit_prompt({"chosen": turns, "rejected": joined(system_of(row), worse)})
    return Preference.from_row({**sides, "margin": row.get("margin")})


def _message(turn: Any, field: str) -> Any:
    if not isinstance(turn, Mapping):
        return turn
    message = {key: value for key, value in turn.items() if key != "weight"}
    role, content = message.get("role"), message.get("content")
    if role in CALLS:
        return {"role": "assistant", "tool_calls": tool_calls(content, f"{field}.content")}
    if role in RESULTS:
        message["role"] = "tool"
    if message.get("function_call") is not None and not message.get("tool_calls"):
        call = message.pop("function_call")  # OpenAI's older field
        message["tool_calls"] = tool_calls(call, f"{field}.function_call")
    if isinstance(content, list) and content:
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(kind, str) and any(medium in kind for medium in MEDIA):
                raise RecordError(
                    f"{field}.content", f"has a part of type {kind}: only text can be read ({shown(part)})"
                )
        if all(_is_text(part) for part in content):
            message["content"] = "".join(part["text"] for part in content)
    return message


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _turns(value: Any, field: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RecordError(field, f"is {shown(value)}, not a list of turns" if value is not None else "is missing")
    turns = []
    for position, turn in enumerate(value):
        place = f"{field}[{position}]"
        if not isinstance(turn, Mapping):
            raise RecordError(place, f"is {shown(turn)}, not a turn with from and value")
        if turn.keys() >= {"human", "assistant"}:  # ms-swift, MOSS: both sides of an exchange in one turn
            turns += [{"role": "user", "content": turn["human"]}, {"role": "assistant", "content": turn["assistant"]}]
            continue
        speaker = turn.get("from", turn.get("role"))
        role = speaker.lower() if isinstance(speaker, str) else None
        if role not in ROLES:
            known = ", ".join(sorted(ROLES))
            raise RecordError(f"{place}.from", f"is {shown(speaker)}, not one of {known}")
        kept = {key: item for key, item in turn.items() if key not in ("from", "role", "value", "content")}
        content = turn.get("value", turn.get("content"))
        turns.append({"role": role if role in CALLS else ROLES[role], "content": content, **kept})
    return turns

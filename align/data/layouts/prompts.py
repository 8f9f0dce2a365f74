"""A prompt under the names that data sets give it: system message, history, context, question and its input."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from align.data.layouts.columns import find
from align.records import Message, RecordError, shown

Row = Mapping[str, Any]

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
    "tool_call": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "observation": "tool",
}
"""What data sets call who speaks -> the role in a chat template."""

QUESTIONS = ("question", "query", "instruction", "dialogue", "document", "article", "prompt", "input")
SYSTEMS = ("system", "system_prompt", "system_message", "meta_instruction")
HISTORIES = ("history", "chat_history", "conversation_history")
CONTEXTS = ("context", "contexts", "passages", "passage")
_SIDES = (("human", "assistant"), ("user", "assistant"), ("question", "answer"), ("query", "response"))


def prompt_of(row: Row, questions: Sequence[str] = QUESTIONS) -> list[Message]:
    """The messages to be answered: the system's, earlier turns, and the question after its context.

    A question that is a list of messages is taken as it is, after the system message and the history; one that is an
    Anthropic transcript ("\\n\\nHuman: ...\\n\\nAssistant: ") is cut into its turns.

    Args:
        row: the row.
        questions: the names that the question may have, the first that has a value is taken.

    Raises:
        RecordError: there is no question, or a part of it is not text.
    """
    column, question = find(row, questions)
    if column is None:
        raise RecordError(questions[0], f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    before = [*system_of(row), *history_of(row)]
    if isinstance(question, list):
        if not all(isinstance(turn, Mapping) for turn in question) or not question:
            raise RecordError(column, f"is {shown(question)}, neither text nor a list of messages")
        return joined(before, question)
    if not isinstance(question, str) or not question.strip():
        raise RecordError(column, f"is {shown(question)}, not a question")
    if is_transcript(question):
        turns = transcript(question, column)
        if turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
            turns = turns[:-1]
        return joined(before, turns)
    more = find(row, ("input",))[1] if column.lower() != "input" else ""
    if not isinstance(more or "", str):
        raise RecordError("input", f"is {shown(more)}, not a string")
    parts = [context_of(row), question, more or ""]
    return [*before, {"role": "user", "content": "\n\n".join(part for part in parts if part.strip())}]


def joined(before: list[Message], turns: list[Message]) -> list[Message]:
    """`turns` after what came before; a system message that both have is kept once.

    Raises:
        RecordError: the two system messages differ.
    """
    if before and turns and before[0].get("role") == turns[0].get("role") == "system":
        if before[0]["content"] != turns[0].get("content"):
            raise RecordError("system", f"is {shown(before[0]['content'])}, and the conversation has another one")
        before = before[1:]
    return [*before, *turns]


def system_of(row: Row) -> list[Message]:
    """The system message of a row, none where there is none or it is empty. Raises RecordError."""
    column, said = find(row, SYSTEMS)
    if column is None:
        return []
    if not isinstance(said, str):
        raise RecordError(column, f"is {shown(said)}, not a string")
    return [{"role": "system", "content": said}] if said.strip() else []


def history_of(row: Row) -> list[Message]:
    """Earlier turns: pairs of a question and its answer, or messages; also as JSON text. Raises RecordError."""
    column, given = find(row, HISTORIES)
    if column is None:
        return []
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.strip() else []
        except (ValueError, RecursionError):
            raise RecordError(column, f"is {shown(given)}, not a list of questions and answers") from None
    if not isinstance(given, list):
        raise RecordError(column, f"is {shown(given)}, not a list of questions and answers")
    turns: list[Message] = []
    for position, turn in enumerate(given):
        turns += _turns(turn, f"{column}[{position}]")
    return turns


def _turns(turn: Any, field: str) -> list[Message]:
    """A pair of a question and an answer as two messages; a message as itself."""
    if isinstance(turn, list | tuple) and len(turn) == 2:
        return _exchange(turn, field)
    if isinstance(turn, Mapping):
        if (speaker := turn.get("role", turn.get("from"))) is not None:
            role = ROLES.get(speaker.lower()) if isinstance(speaker, str) else None
            if role is None:
                raise RecordError(field, f"is {shown(turn)}, and nobody is called {shown(speaker)}")
            return [{"role": role, "content": turn.get("content", turn.get("value"))}]
        for sides in _SIDES:
            if turn.keys() >= set(sides):
                return _exchange([turn[side] for side in sides], field)
    raise RecordError(field, f"is {shown(turn)}, not a question and its answer")


def _exchange(pair: Sequence[Any], field: str) -> list[Message]:
    if not all(isinstance(said, str) for said in pair):
        raise RecordError(field, f"is {shown(list(pair))}, not a question and its answer")
    return [{"role": role, "content": said} for role, said in zip(("user", "assistant"), pair, strict=True)]


def context_of(row: Row) -> str:
    """What a question is about: `context`, or the lines of `passages` and of `contexts`."""
    _, given = find(row, CONTEXTS)
    return "\n\n".join(_flat(given)) if given is not None else ""


def _flat(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list):
        return (
            ["\n".join(text for part in value for text in _flat(part))]
            if value and all(isinstance(part, str) for part in value)
            else [text for part in value for text in _flat(part)]
        )
    return []


_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def is_transcript(text: str) -> bool:
    """Whether a prompt is a transcript that waits for the Assistant's answer."""
    return text.startswith("\n\nHuman:") and text.rstrip().endswith("\n\nAssistant:")


def transcript(text: Any, field: str) -> list[Message]:
    """The turns of a "\\n\\nHuman: ...\\n\\nAssistant: ..." transcript, without the white space around them."""
    if not isinstance(text, str):
        raise RecordError(field, f"is {shown(text)}, not a transcript" if text is not None else "is missing")
    before, *parts = _TURN.split(text)
    if not parts or before.strip():
        raise RecordError(field, f'does not start with a "\\n\\nHuman:" turn ({shown(text)})')
    return [
        {"role": _SPEAKERS[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]

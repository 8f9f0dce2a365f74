"""The nouns of alignment data. What one becomes of another is in align/data/conversions.py.

A record's `format` is TRL's word for it and `to_row()` is TRL's row: see TRL's "Dataset formats and types". Each of
prompt, completion, chosen and rejected is either a string (TRL's *standard* kind) or a list of messages,
`{"role": ..., "content": ...}` (its *conversational* kind); a message keeps its other keys, such as `tool_calls`, and
a record the definitions of the `tools` that may be called, which its chat template renders.

What else a row holds, such as the `answer` that a completion is checked against, are the record's `columns`: TRL's
online trainers hand them to reward functions, and stage evaluate to the judge.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

Message = dict[str, Any]
Content = str | list[Message]
Tools = list[dict[str, Any]]  # JSON schemas, as transformers' chat templates take them
LATER_TURNS = "later_turns"  # the field of a prompt with more than one question
Columns = dict[str, Any]  # name -> text, a number, a boolean, or a list of one of them; None where a row has none


class RecordError(ValueError):
    """A row that is no record: `field` names what is wrong, `why` says how and shows the value."""

    def __init__(self, field: str, why: str):
        super().__init__(f"{field} {why}")
        self.field = field
        self.why = why


_HIDDEN = re.compile("[\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""What would hide, turn round or break the text around it, or is no character."""


def readable_json(value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """`value` as JSON for people: every script as it is, and what could harm a terminal or a file escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=default)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_LIMITS = (30, 40, 60, 160, 200)  # that `shown` is called with


def shown(value: Any, limit: int = 60) -> str:
    """`value` as one short line, for a message."""
    text = readable_json(value, default=repr)
    return text if len(text) <= limit else text[: limit - 3] + "..."


_NUMBER = re.compile(
    r"\b(is|are|has|have|holds|for|of|at|turn|offset|character|row|byte) "
    r"(?:-?\d[\w.]*|(?<=is )(?:true|false|null|NaN|-?Infinity)|(?<=holds )(?:true|false|null))(?=\W|$)"
)


def without_values(text: str) -> str:
    """A sentence without the values that `shown` put into it: sentences of one kind become equal."""
    parts, at = [], 0
    while at < len(text):
        end = _value_end(text, at) if text[at] in '"[{' and (at == 0 or text[at - 1] in " (") else at
        parts.append("…" if end > at else text[at])
        at = max(end, at + 1)
    return _NUMBER.sub(r"\1 …", "".join(parts)).replace(" (…)", "")


def _value_end(text: str, start: int) -> int:
    """Where a value that `shown` wrote at `start` ends; `start` where there is none."""
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        pass
    # one that was cut: it has a limit's length and ends in three points
    ends = [start + limit for limit in _LIMITS if text[start + limit - 3 : start + limit] == "..."]
    return ends[0] if ends else start


def _string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise RecordError(field, f"is {_kind_name(value)} ({shown(value)}), not a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            field, f"holds half a surrogate pair at character {error.start}, which no UTF-8 text can"
        ) from None
    return value


def _kind_name(value: Any) -> str:
    names = {
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _blank(message: Message) -> bool:
    return not (message.get("content") or "").strip() and not message.get("tool_calls")


def _message(value: Any, field: str) -> Message:
    if not isinstance(value, Mapping):
        raise RecordError(field, f"is {_kind_name(value)} ({shown(value)}), not a message with role and content")
    message = {key: item for key, item in value.items() if item is not None}
    if "role" not in message:
        raise RecordError(field, f"has no role ({shown(value)})")
    if not _string(message["role"], f"{field}.role").strip():
        raise RecordError(f"{field}.role", f"is empty ({shown(value)})")
    if "content" in message:
        _string(message["content"], f"{field}.content")
    elif not message.get("tool_calls"):
        raise RecordError(field, f"has no content ({shown(value)})")
    return message


def _content(row: Mapping[str, Any], field: str) -> Content:
    """The field's string or messages, with some text in it."""
    value = row.get(field)
    if value is None:
        fields = ", ".join(str(key) for key, item in row.items() if item is not None) or "nothing"
        raise RecordError(field, f"is missing (the row has {shown(fields)[1:-1]})")
    if isinstance(value, str):
        if not value.strip():
            raise RecordError(field, f"is empty ({shown(value)})")
        return _string(value, field)
    if not isinstance(value, list):
        raise RecordError(field, f"is {_kind_name(value)} ({shown(value)}), neither a string nor a list of messages")
    messages = [_message(item, f"{field}[{position}]") for position, item in enumerate(value)]
    if all(_blank(message) for message in messages):
        raise RecordError(field, f"is empty ({shown(value)})")
    return messages


def _completion(row: Mapping[str, Any], field: str, prompt: Content) -> Content:
    """What answers `prompt`: of the same kind, and its last message says something as an assistant would."""
    value = _content(row, field)
    if kind_of(value) != kind_of(prompt):
        names = {"standard": "a string", "conversational": "a list of messages"}
        raise RecordError(
            field, f"is {names[kind_of(value)]} where prompt is {names[kind_of(prompt)]} ({shown(value)})"
        )
    if isinstance(value, list):
        if value[-1]["role"] in ("user", "system"):
            raise RecordError(field, f"ends with a message of role {value[-1]['role']} ({shown(value[-1])})")
        if _blank(value[-1]):
            raise RecordError(field, f"is empty: its last message says nothing ({shown(value[-1])})")
    return value


def _label(row: Mapping[str, Any]) -> bool:
    value = row.get("label")
    if value is None:
        raise RecordError("label", "is missing")
    if (label := as_label(value)) is None:
        raise RecordError("label", f"is {_kind_name(value)} ({shown(value)}), not true or false")
    return label


def _margin(row: Mapping[str, Any]) -> float | None:
    value = row.get("margin")
    if value is None or value == "":
        return None
    try:
        margin = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        margin = math.nan
    if not math.isfinite(margin):
        raise RecordError("margin", f"is {shown(value)}, not a finite number")
    return margin


def _later_turns(row: Mapping[str, Any], prompt: Content) -> tuple[str, ...]:
    value = row.get(LATER_TURNS)
    if not value:
        return ()
    if not isinstance(value, list) or not all(isinstance(turn, str) and turn.strip() for turn in value):
        raise RecordError(LATER_TURNS, f"is {shown(value)}, not a list of what the user says next")
    if isinstance(prompt, str):
        raise RecordError(LATER_TURNS, f"is {shown(value)}, and prompt is a string: later turns need a conversation")
    return tuple(_string(turn, f"{LATER_TURNS}[{position}]") for position, turn in enumerate(value))


def as_tools(value: Any, field: str = "tools") -> Tools | None:
    """A list of tool definitions, also as JSON text; None where there are none. Raises RecordError."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RecordError(field, f"is {shown(value)}, not a list of tool definitions") from None
    if not value:
        return None
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise RecordError(field, f"is {shown(value)}, not a list of tool definitions")
    return [dict(one) for one in value]


def as_label(value: Any) -> bool | None:
    """True or false for what data files write for it (true, 1, "true", "1", ...); None for anything else."""
    if isinstance(value, (bool, int)):
        return {0: False, 1: True}.get(value)
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    return None


def kind_of(content: Content) -> str:
    """TRL's word for the kind of a prompt or a completion: `standard` or `conversational`."""
    return "standard" if isinstance(content, str) else "conversational"


@dataclass(frozen=True)
class Text:
    """Plain text, or one whole conversation, to be modelled as it is."""

    format: ClassVar[str] = "language_modeling"
    content: Content
    tools: Tools | None = None

    def to_row(self) -> dict[str, Any]:
        return _row(self, **{"text" if isinstance(self.content, str) else "messages": self.content})

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """`text` (a string) or `messages` (a list). Raises RecordError."""
        field = "messages" if row.get("text") is None and row.get("messages") is not None else "text"
        content = _content(row, field)
        if kind_of(content) != ("standard" if field == "text" else "conversational"):
            raise RecordError(field, f"is {_kind_name(row[field])} ({shown(row[field])})")
        return cls(content, as_tools(row.get("tools")))


@dataclass(frozen=True)
class Prompt:
    """Something to be answered.

    `later_turns` are what the user says next, each after the model's own answer to the turn before (MT-Bench's second
    question); only stage evaluate asks them.
    """

    format: ClassVar[str] = "prompt_only"
    prompt: Content
    tools: Tools | None = None
    columns: Columns | None = None
    later_turns: tuple[str, ...] = ()

    def to_row(self) -> dict[str, Any]:
        row = _row(self, prompt=self.prompt)
        return row | {LATER_TURNS: list(self.later_turns)} if self.later_turns else row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Raises RecordError."""
        prompt, tools = _content(row, "prompt"), as_tools(row.get("tools"))
        return cls(prompt, tools, later_turns=_later_turns(row, prompt))


@dataclass(frozen=True)
class Demonstration:
    """A prompt and an answer worth imitating."""

    format: ClassVar[str] = "prompt_completion"
    prompt: Content
    completion: Content
    tools: Tools | None = None
    columns: Columns | None = None

    def to_row(self) -> dict[str, Any]:
        return _row(self, prompt=self.prompt, completion=self.completion)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Raises RecordError."""
        prompt = _content(row, "prompt")
        return cls(prompt, _completion(row, "completion", prompt), as_tools(row.get("tools")))


@dataclass(frozen=True)
class Preference:
    """A prompt, the answer that was preferred and the one that was not; `margin`, 0 or more, is by how much."""

    format: ClassVar[str] = "preference"
    prompt: Content
    chosen: Content
    rejected: Content
    margin: float | None = None
    tools: Tools | None = None
    columns: Columns | None = None

    def to_row(self) -> dict[str, Any]:
        row = _row(self, prompt=self.prompt, chosen=self.chosen, rejected=self.rejected)
        return row if self.margin is None else {**row, "margin": self.margin}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Raises RecordError, also where both sides are the same, or the margin is negative."""
        prompt = _content(row, "prompt")
        chosen, rejected = (_completion(row, side, prompt) for side in ("chosen", "rejected"))
        if chosen == rejected:
            raise RecordError("rejected", f"is the same as chosen ({shown(rejected)})")
        margin = _margin(row)
        if margin is not None and margin < 0:
            raise RecordError("margin", f"is {shown(margin)}, below 0, which would make rejected the better answer")
        return cls(prompt, chosen, rejected, margin, as_tools(row.get("tools")))


@dataclass(frozen=True)
class UnpairedPreference:
    """A prompt, an answer, and whether the answer is a good one."""

    format: ClassVar[str] = "unpaired_preference"
    prompt: Content
    completion: Content
    label: bool
    tools: Tools | None = None
    columns: Columns | None = None

    def to_row(self) -> dict[str, Any]:
        return _row(self, prompt=self.prompt, completion=self.completion, label=self.label)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Raises RecordError."""
        prompt = _content(row, "prompt")
        return cls(prompt, _completion(row, "completion", prompt), _label(row), as_tools(row.get("tools")))


@dataclass(frozen=True)
class Answer:
    """One of several answers to a prompt, and whose it is."""

    content: Content
    model: str | None = None  # the ref of the model that gave it
    author: str | None = None  # the handle of the person who wrote it
    score: float | None = None  # a reward model's


@dataclass(frozen=True)
class Comparison:
    """A prompt and two answers or more that nobody has judged yet."""

    prompt: Content
    answers: tuple[Answer, ...]
    tools: Tools | None = None

    def to_row(self) -> dict[str, Any]:
        answers = [
            {"completion": one.content} | {k: v for k, v in vars(one).items() if k != "content" and v is not None}
            for one in self.answers
        ]
        return _row(self, prompt=self.prompt, answers=answers)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Raises RecordError, also where there are not two answers."""
        prompt = _content(row, "prompt")
        given = row.get("answers")
        if not isinstance(given, list) or len(given) < 2:
            raise RecordError("answers", f"is {shown(given)}, not a list of two answers or more")
        answers = tuple(_answer(one, f"answers[{at}]", prompt) for at, one in enumerate(given))
        return cls(prompt, answers, as_tools(row.get("tools")))


def _answer(value: Any, field: str, prompt: Content) -> Answer:
    if not isinstance(value, Mapping):
        raise RecordError(field, f"is {_kind_name(value)} ({shown(value)}), not an object with a completion")
    try:
        content = _completion(value, "completion", prompt)
        named = {key: _string(value[key], key) for key in ("model", "author") if value.get(key) is not None}
        score = _margin({"margin": value.get("score")})
    except RecordError as error:
        raise RecordError(f"{field}.{error.field}", error.why) from None
    return Answer(content, score=score, **named)


Record = Text | Prompt | Demonstration | Preference | UnpairedPreference


def columns_of(record: Record | Comparison) -> Columns:
    """The columns of a record, none for a text."""
    return getattr(record, "columns", None) or {}


def with_columns(record: Record, columns: Columns | None) -> Record:
    """The record with these columns in place of its own; a text has none."""
    if isinstance(record, Text) or (columns or {}) == columns_of(record):
        return record
    return replace(record, columns=columns or None)


def without_columns(record: Record) -> Record:
    """What the record says, without its columns."""
    return with_columns(record, {})


def _row(record: Record | Comparison, **fields: Any) -> dict[str, Any]:
    row = fields if record.tools is None else fields | {"tools": record.tools}
    return row | columns_of(record)


FORMATS: dict[str, type[Record]] = {
    record.format: record for record in (Text, Demonstration, Preference, UnpairedPreference, Prompt)
}
"""TRL's name of a format -> its record."""

FIELDS: dict[str, tuple[str, ...]] = {
    "language_modeling": ("text",),
    "prompt_completion": ("prompt", "completion"),
    "preference": ("prompt", "chosen", "rejected"),
    "unpaired_preference": ("prompt", "completion", "label"),
    "prompt_only": ("prompt",),
}
"""TRL's name of a format -> the fields a row of it must have (language_modeling: or `messages`)."""


def kind(record: Record) -> str:
    """`standard` or `conversational`."""
    return kind_of(record.content if isinstance(record, Text) else record.prompt)


def prompt_key(record: Record) -> str:
    """What makes two records' prompts the same: roles and words, not white space.

    A string and a single user message of the same words have one key, so the splits of different formats agree.
    For a text it is the whole text; for a conversation, what comes before its last assistant message.
    """
    content = record.content if isinstance(record, Text) else record.prompt
    if isinstance(content, str):
        return " ".join(content.split())
    if isinstance(record, Text):
        last = max((i for i, message in enumerate(content) if message["role"] == "assistant"), default=0)
        content = content[:last] or content
    turns = [(message["role"], " ".join((message.get("content") or "").split())) for message in content]
    if len(turns) == 1 and turns[0][0] == "user":
        return turns[0][1]
    return json.dumps(turns, ensure_ascii=False)

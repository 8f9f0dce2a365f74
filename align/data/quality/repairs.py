"""What an import may change: stated repairs of text and stated reasons to leave a record out, each written down.

Every change keeps what was there before in `repairs.jsonl`, so that it can be undone; nothing else changes a record.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from align.data.quality import patterns
from align.data.quality.text_scan import PERSONAL
from align.data.record_texts import column_texts, flat, role_problem, sides_of
from align.data.tools import uses_tools
from align.errors import UserError
from align.records import FORMATS, Content, Record, Text, columns_of, with_columns


def _control(text: str) -> str:
    return patterns.CONTROL.sub("", text)


def _mojibake(text: str) -> str:
    return (patterns.unmix(text) or text) if patterns.MOJIBAKE.search(text) else text


def _line_ends(text: str) -> str:
    return patterns.LINE_END.sub("\n", text)


def _end_markers(text: str) -> str:
    while found := patterns.END_MARKER.search(text):
        text = text[: found.start()]
    return text


FIXES: dict[str, tuple[str, Callable[[str], str]]] = {
    "control": ("takes out control and invisible characters", _control),
    "mojibake": ("undoes UTF-8 that was read as Windows-1252", _mojibake),
    "line_ends": ("ends every line with a line feed", _line_ends),
    "end_markers": ("takes end-of-text markers off the end of answers", _end_markers),
    "space": ("takes white space off both ends of messages; plain strings keep theirs, it is part of them", str.strip),
}
"""A repair's name -> what it does, and the function of a text."""

_PATTERNS = {
    "turn_markers": patterns.TURN_MARKER,
    "control_characters": patterns.CONTROL,
    "secrets": patterns.SECRET,
    "emails": patterns.EMAIL,
    "phones": patterns.PHONE,
    "identity_numbers": patterns.IDENTITY,
    "mojibake": patterns.MOJIBAKE,
}
DROPS: dict[str, str] = {
    "duplicates": "records that repeat an earlier one",
    "contradictions": "records that say the opposite of another, and that other",
    "overlap": "train records whose prompt is in eval, and records that share words with a benchmark (--against)",
    "refusals": "records whose chosen answer, or completion, refuses",
    "tools": "records that name tools or call them",
    "replacement_characters": "records with U+FFFD",
    "role_order": "conversations whose roles do not take turns",
    **{name: f"records with {name.replace('_', ' ')}" for name in _PATTERNS},
}
"""A reason to leave a record out -> what that leaves out."""


def check_names(names: Iterable[str], known: Iterable[str], option: str) -> tuple[str, ...]:
    """The names; UserError for one that is not known."""
    names = tuple(names)
    for name in names:
        if name not in known:
            raise UserError(f"{option} {name}: there is no such rule; there are {', '.join(known)}")
    return names


def repair(record: Record, fixes: Sequence[str]) -> tuple[Record, list[dict[str, Any]]]:
    """`record` after the repairs, and each change: side, rule, before, after.

    Raises:
        RecordError: nothing is left of a side.
    """
    changes: list[dict[str, Any]] = []
    sides = sides_of(record)
    for name in fixes:
        repaired = {side: _repair(content, name, side) for side, content in sides.items()}
        for side, content in repaired.items():
            if content != sides[side]:
                changes.append({"side": side, "fix": name, "before": sides[side], "after": content})
        sides = repaired
    if not changes:
        return record, changes
    row = record.to_row() | sides
    if isinstance(record, Text) and isinstance(record.content, list):
        row = {**record.to_row(), "messages": sides["text"]}
    return with_columns(FORMATS[record.format].from_row(row), columns_of(record)), changes


def _repair(content: Content, name: str, side: str) -> Content:
    change = FIXES[name][1]
    if isinstance(content, str):
        return (
            content if name == "space" or (name == "end_markers" and side in ("prompt", "text")) else change(content)
        )
    return [
        {**message, "content": change(message["content"])} if isinstance(message.get("content"), str) else message
        for message in content
    ]


def unwanted(record: Record, drops: Sequence[str]) -> str | None:
    """The first of the reasons that can be told from the record alone, if any, to leave it out."""
    texts = {side: flat(content) for side, content in sides_of(record).items()}
    columns = column_texts(record).values()
    for name in drops:
        searched = [*texts.values(), *(columns if name in PERSONAL else ())]
        if name in _PATTERNS and any(_PATTERNS[name].search(text) for text in searched):
            return name
        if name == "replacement_characters" and any("\ufffd" in text for text in texts.values()):
            return name
        answer = texts.get("chosen", texts.get("completion"))
        if name == "tools" and uses_tools(record):
            return name
        if name == "refusals" and answer is not None and patterns.refusal(answer):
            return name
        content = sides_of(record).get("prompt", getattr(record, "content", None))
        if name == "role_order" and isinstance(content, list):
            sides = sides_of(record)
            answer_turns = next((sides[side] for side in ("completion", "chosen") if side in sides), [])
            if role_problem(content + answer_turns):
                return name
    return None

"""Records as a trainer's table, and as lines of a file."""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import UserError
from align.records import LATER_TURNS, Record, columns_of

if TYPE_CHECKING:
    import datasets


def to_dataset(records: Sequence[Record]) -> "datasets.Dataset":
    """A `datasets.Dataset` with TRL's columns and the records' own; tools are JSON text in it, as TRL takes them.

    A column that only some records have is null in the others.

    Raises:
        UserError: only some preferences have a margin.
    """
    import datasets

    rows = [record.to_row() for record in records]
    columns = set().union(*rows) if rows else set()
    extra = sorted({name for record in records for name in columns_of(record)} | columns & {LATER_TURNS})
    if extra:
        rows = [dict.fromkeys(extra) | row for row in rows]
    if "tools" in columns:
        texts = (None if row.get("tools") is None else json.dumps(row["tools"], ensure_ascii=False) for row in rows)
        rows = [{**row, "tools": text} for row, text in zip(rows, texts, strict=True)]
    for column in sorted(columns):
        lacking = next((number for number, row in enumerate(rows) if column not in row), None)
        if lacking is not None:
            raise UserError(f"record {lacking} has no {column}, others have: give it to every row or to none")
    return datasets.Dataset.from_list(rows, features=_features(rows, columns, extra))


def _features(rows: Sequence[dict[str, Any]], columns: set[str], extra: Collection[str]) -> "datasets.Features | None":
    """None, told from the rows, but where messages have more than role and content.

    Arrow gives every message the keys of all of them, and so every tool call the arguments of all, empty ones that a
    template would write out: such columns are JSON.
    """
    import datasets

    def more(content: Any) -> bool:
        return isinstance(content, list) and any(message.keys() != {"role", "content"} for message in content)

    uneven = {name for name in columns - {*extra} if any(more(row[name]) for row in rows)}
    if not uneven:
        return None
    told = datasets.Dataset.from_list([{name: row[name] for name in columns - uneven} for row in rows]).features
    return datasets.Features({**told, **{name: datasets.List(datasets.Json()) for name in sorted(uneven)}})


def write_jsonl(records: Iterable[Record], path: Path) -> None:
    """One JSON object a line, UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json_line(record.to_row()) for record in records)


def json_line(row: dict[str, Any]) -> str:
    """A row as one line of JSON; what other readers take for a line's end is escaped."""
    line = json.dumps(row, ensure_ascii=False)
    for character in "\x85\u2028\u2029":
        line = line.replace(character, f"\\u{ord(character):04x}")
    return line + "\n"

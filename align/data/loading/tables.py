"""Records as a trainer's table, and as lines of a file."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.errors import UserError
from align.records import LATER_TURNS, Record, columns_of

if TYPE_CHECKING:
    import datasets


def to_dataset(records: Sequence[Record]) -> "datasets.Dataset":
    """A `datasets.Dataset` in memory with TRL's columns and the records' own; tools are JSON text, as TRL takes them.

    A column that only some records have is null in the others.

    Raises:
        UserError: only some preferences have a margin.
    """
    import datasets
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    write_table(records, sink)
    return datasets.Dataset.from_buffer(sink.getvalue())


def write_table(records: Sequence[Record], file: Any) -> None:
    """Write the table of `to_dataset` to a binary file, a thousand records at a time.

    Raises:
        UserError: only some preferences have a margin.
    """
    from datasets.arrow_writer import ArrowWriter

    columns = _Columns(records)
    with ArrowWriter(features=columns.features(), stream=file) as writer:
        for rows in columns.batches():
            writer.write_batch({name: [row[name] for row in rows] for name in rows[0]})
        writer.finalize()


class _Columns:
    """The columns of a table, found in a first pass over its records, and its rows in batches.

    Arrow gives every message the keys of all of them, and so every tool call the arguments of all, empty ones that a
    template would write out: columns whose messages have more than role and content are JSON.
    """

    def __init__(self, records: Sequence[Record]):
        self.records = records
        self.names: dict[str, None] = {}  # in the order in which they are met
        self.extra: set[str] = set()  # those that a record may lack
        self.json: set[str] = set()
        missing: dict[str, int] = {}  # column -> the first record without it
        for number, record in enumerate(records):
            row, carried = record.to_row(), columns_of(record)
            self.extra |= carried.keys() | row.keys() & {LATER_TURNS, "tools"}
            for name in row.keys() - self.names.keys():
                self.names[name] = None
                if number:
                    missing[name] = 0
            for name in self.names.keys() - row.keys():
                missing.setdefault(name, number)
            self.json |= {name for name in row.keys() - carried.keys() if name != "tools" and _has_more(row[name])}
        for name in sorted(missing.keys() - self.extra):
            raise UserError(f"record {missing[name]} has no {name}, others have: give it to every row or to none")

    def batches(self, size: int = 1000) -> Iterator[list[dict[str, Any]]]:
        """The rows, each with every column."""
        rows = map(self._row, self.records)
        while batch := list(islice(rows, size)):
            yield batch

    def features(self) -> "datasets.Features":
        """The types of the columns, of all rows together."""
        import datasets
        import pyarrow as pa

        plain = [name for name in self.names if name not in self.json]
        schema = pa.schema([])
        for rows in self.batches():
            table = pa.table({name: pa.array([row[name] for row in rows]) for name in plain})
            schema = pa.unify_schemas([schema, table.schema], promote_options="permissive")
        told = datasets.Features.from_arrow_schema(schema)
        return datasets.Features(
            {name: datasets.List(datasets.Json()) if name in self.json else told[name] for name in self.names}
        )

    def _row(self, record: Record) -> dict[str, Any]:
        row = dict.fromkeys(self.names) | record.to_row()
        if row.get("tools") is not None:
            row["tools"] = json.dumps(row["tools"], ensure_ascii=False)
        return row


def _has_more(content: Any) -> bool:
    """Whether a conversation has messages with more than role and content."""
    return isinstance(content, list) and any(
        isinstance(message, dict) and message.keys() != {"role", "content"} for message in content
    )


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

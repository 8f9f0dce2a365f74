"""From rows to records: how they are read, and what became of each; every row is accounted for."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from align.data.conversions import NoConversion, convert
from align.data.layouts.carried import Carrier, keep_columns
from align.data.layouts.detect import UndefinedLabels, as_row
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.labels import Label, is_number, labels_of
from align.data.layouts.mapping import Names
from align.data.layouts.trees import GATHERED, gather, is_flat
from align.data.layouts.verdicts import UndefinedLabel
from align.data.readers.files import Source
from align.data.readers.row import Row, Unreadable
from align.data.tools import tools_of
from align.records import Record, RecordError, Text, kind, with_columns, without_values


@dataclass(frozen=True)
class Reading:
    """How rows become records."""

    layout: str
    format: str
    names: Names = Names()
    why: str = ""  # how the layout was told
    keep: tuple[str, ...] | None = None  # columns that stay with the records; None: all that the layout does not read


@dataclass(frozen=True)
class Refusal:
    """A row that gave no record, and why."""

    file: str
    row: int
    field: str | None
    why: str

    def __str__(self) -> str:
        line = f" (line {self.row + 1})" if self.file.endswith(".jsonl") else ""
        return f"{self.file}: row {self.row}{line}: {f'{self.field} ' if self.field else ''}{self.why}"


@dataclass(frozen=True)
class Outcome:
    """What became of one row: records, or a refusal. `raw` is the row as the layout saw it."""

    file: str
    row: int
    raw: Row
    records: list[Record]
    refusal: Refusal | None = None
    rows: int = 1  # of the file that this one stands for: more where flat messages became a tree
    held: Record | None = None  # the first record as the row held it, before it became the format wanted
    labels: tuple[Label, ...] = ()  # how the labels of the row were read
    error: RecordError | None = None  # behind the refusal
    not_carried: Mapping[str, str] = field(default_factory=dict)  # column that was not read and is not kept -> why


def read_outcomes(sources: Iterable[Source], reading: Reading) -> Iterator[Outcome]:
    """Every row of every source and what became of it: nothing is left out, and one kind is kept to.

    Raises:
        UndefinedLabels: a row has a number as its label that nothing defines, which leaves the others open too.
    """
    first: tuple[str, str, int] | None = None
    carrier = Carrier(lambda row: held_records(row, reading), reading.keep)
    for source in sources:
        for number, row in _rows(source, reading):
            outcome = _outcome(source.name, number, row, reading, carrier)
            if isinstance(outcome.error, UndefinedLabel) and is_number(outcome.error.value):
                rows, column = prepared_rows(source, reading.names), outcome.error.column
                raise UndefinedLabels(source.name, rows, reading.layout, column)
            if isinstance(row, dict) and reading.layout == "message_tree":
                outcome = replace(outcome, rows=row.get(GATHERED, 1))
            if outcome.records:
                found = kind(outcome.records[0])
                first = first or (found, source.name, number)
                if found != first[0]:
                    where = f"row {first[2]}" if source.name == first[1] else f"{first[1]} row {first[2]}"
                    why = f"is {found}, {where} is {first[0]}: a set has one kind"
                    outcome = replace(outcome, records=[], refusal=Refusal(source.name, number, "prompt", why))
            yield outcome


TIE = "verdict is a tie: no answer is better than another"
"""The reason of rows that give no record because no answer is better: they are not malformed."""


def reason(refusal: Refusal) -> str:
    """A refusal without the values of its row, to count by: `label is …, not true or false`."""
    text = without_values(re.sub(r"\[\d+\]", "[]", f"{refusal.field or 'row'} {refusal.why}"))
    return text if len(text) <= 160 else text[:157] + "..."


def _rows(source: Source, reading: Reading) -> Iterator[tuple[int, Any]]:
    rows = source.rows()
    if reading.layout != "message_tree":
        return rows
    head = list(islice(rows, 1))
    flat = head and isinstance(head[0][1], Mapping) and is_flat(head[0][1])
    # a flat list is put together into trees: as many rows come out as there are first messages
    return gather(source.rows()) if flat else source.rows()


def outcomes_of(name: str, rows: Iterable[tuple[int, Row]], reading: Reading) -> Iterator[Outcome]:
    """What becomes of each of some numbered rows; `name` is their file's."""
    carrier = Carrier(lambda row: held_records(row, reading), reading.keep)
    return (_outcome(name, number, row, reading, carrier) for number, row in rows)


def _outcome(file: str, number: int, row: Row, reading: Reading, carrier: Carrier) -> Outcome:
    row = prepare(row, reading.names)
    if isinstance(row, Unreadable):
        return Outcome(file, number, row, [], Refusal(file, number, None, row.why))
    raw = row if isinstance(row, dict) else {}
    labels = tuple(labels_of(reading.layout, raw))
    try:
        if isinstance(row, RecordError):
            raise row
        held = held_records(row, reading)
        columns, not_carried = ({}, {}) if isinstance(held[0], Text) else carrier.take(row, held)
        records = [
            keep_columns(made, row, reading.keep)
            for record in held
            for made in convert(with_columns(record, columns), reading.format)
        ]
        return Outcome(file, number, row, records, held=held[0], labels=labels, not_carried=not_carried)
    except RecordError as error:
        refusal = Refusal(file, number, error.field, error.why)
        return Outcome(file, number, raw, [], refusal, labels=labels, error=error)
    except NoConversion as error:
        why = f"is {error.have}, which does not become {error.need}"
        return Outcome(file, number, row, [], Refusal(file, number, None, why), held=held[0], labels=labels)
    except RecursionError:
        return Outcome(file, number, {}, [], Refusal(file, number, None, "is nested too deep"))


def held_records(row: Mapping[str, Any], reading: Reading) -> list[Record]:
    """The records of a row as its layout reads them, with the tools it names. Raises RecordError."""
    held, tools = LAYOUTS[reading.layout](row, reading.format), tools_of(row)
    return held if tools is None else [replace(record, tools=tools) for record in held]


def prepared_rows(source: Source, names: Names) -> Iterator[Mapping[str, Any]]:
    """The rows of a source in our words, without those that cannot be read."""
    rows = (prepare(row, names) for _, row in source.rows())
    return (row for row in rows if isinstance(row, Mapping))


def prepare(row: Row, names: Names) -> Any:
    """A row in our words; a RecordError where a column is missing."""
    row = as_row(row)
    if isinstance(row, Unreadable):
        return row
    try:
        return names.apply(row)
    except RecordError as error:
        return error

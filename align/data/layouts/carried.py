"""Carried columns: what a layout does not read of a row stays with the record, for reward functions and judges.

A column is text, a number, a boolean, or a list of one of them, of one kind in all rows. A name that the records or
TRL's trainers use for themselves is reserved.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from align.data.layouts.annotations import SCORES
from align.data.layouts.columns import SetAside
from align.errors import UserError
from align.records import FIELDS, LATER_TURNS, Columns, Record, RecordError, columns_of, shown, with_columns

Row = Mapping[str, Any]

OWN = {"messages", "margin", "tools", "functions", LATER_TURNS, "id", "agreement", *SCORES}.union(*FIELDS.values())
"""Names that a record, or a row of a dataset artifact, uses for itself."""
TRAINERS = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}
TRAINERS |= {"image", "images"}
"""Names that TRL's online trainers give another meaning."""
RESERVED = OWN | TRAINERS
_KINDS = {str: "text", bool: "true or false", int: "numbers", float: "numbers"}

TRIES = 30  # rows in which a column is tried, then again whenever its rows have doubled


class Carrier:
    """Takes the columns of row after row, and measures which ones the layout reads: those are not carried.

    Args:
        held: the records of a row as the layout reads them; raises RecordError.
        keep: the names of the columns that are wanted; None for all that the layout does not read.
    """

    def __init__(self, held: Callable[[Row], Any], keep: Sequence[str] | None):
        self.held, self.keep = held, keep
        self._read: set[str] = set()
        self._rows: Counter[str] = Counter()

    def take(self, row: Row, records: Sequence[Record]) -> tuple[Columns, dict[str, str]]:
        """The columns that stay with the records of a row, and why each other unread one does not.

        Raises:
            RecordError: a column that `keep` names holds what a column cannot.
        """
        if self.keep is not None:
            return {name: _named(row, name) for name in self.keep if name in row}, {}
        columns: Columns = {}
        left_out: dict[str, str] = {}
        for key, value in row.items():
            name = key.column if isinstance(key, SetAside) else key
            if value is None or not isinstance(key, str) or name in OWN or self._reads(key, row, records):
                continue
            why = f"{name!r} is a name that TRL's trainers use" if name in TRAINERS else unfit(value)
            if why is None:
                columns[name] = value
            else:
                left_out[name] = why
        return columns, left_out

    def _reads(self, name: str, row: Row, records: Sequence[Record]) -> bool:
        if name in self._read:
            return True
        self._rows[name] += 1
        count = self._rows[name]
        if count > TRIES and count & (count - 1):
            return False
        if any(self._result(changed) != records for changed in (drop(row, name), spoil(row, name))):
            self._read.add(name)
        return name in self._read

    def _result(self, row: Row) -> Any:
        try:
            return self.held(row)
        except (RecordError, RecursionError):
            return None


def drop(row: Row, name: str) -> Row:
    """The row without a column."""
    return {column: value for column, value in row.items() if column != name}


def spoil(row: Row, name: str) -> Row:
    """The row with another value of the same kind in a column, one that no set has."""
    value = row[name]
    if isinstance(value, bool):
        other: Any = not value
    elif isinstance(value, int | float):
        other = 987_654_321
    else:
        other = f"{value} \u2042" if isinstance(value, str) else {"\u2042": 0}
    return {**row, name: other}


def stored_columns(row: Row) -> Columns:
    """The columns in a row of a dataset artifact, which has TRL's fields: whatever is not one of a record's own."""
    return {name: value for name, value in row.items() if name not in RESERVED and unfit(value) is None}


def keep_columns(record: Record, row: Row, keep: Sequence[str] | None) -> Record:
    """The record with the columns that `keep` names and no others; None is all. Raises RecordError where one lacks."""
    if keep is None:
        return record
    columns = columns_of(record)
    if missing := [name for name in keep if name not in columns]:
        raise RecordError(missing[0], f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    return with_columns(record, {name: columns[name] for name in keep})


def check_keep(keep: Sequence[str] | None, what: str) -> None:
    """Raises UserError where a column has a name that is reserved; `what` names the option."""
    for name in keep or ():
        if name in RESERVED:
            whose = "TRL's trainers use" if name in TRAINERS else "records use"
            raise UserError(
                f"{what}: {name} is a name that {whose} for themselves; give the column another name in the data "
                f"(reserved: {', '.join(sorted(RESERVED))})"
            )


def unfit(value: Any) -> str | None:
    """What a value is that no column can hold; None where it is text, a number, a boolean or a list of one of them."""
    if isinstance(value, list):
        kinds = {_KINDS.get(type(item)) for item in value}
        if None in kinds:
            return "a list of something other than text, numbers or booleans"
        if len(kinds) > 1:
            return "a list of " + " and ".join(sorted(kinds))
        return next((why for item in value if (why := unfit(item)) is not None), None)
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}, which is not a finite number"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "text with half a surrogate pair"
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "an integer of more than 64 bits"
    return None if type(value) in _KINDS else f"a {type(value).__name__}"


def settle_columns(
    records: Sequence[Record], keep: Sequence[str] | None, where: str
) -> tuple[Iterable[Record], dict[str, str]]:
    """Records whose columns are each of one kind, and why other columns were taken off.

    Args:
        keep: as `Carrier` takes it.
        where: the file, in messages.

    Raises:
        UserError: a column that `keep` names is not of one kind.
    """
    if keep is not None and not keep:
        return records, {}
    kinds: dict[str, dict[str, int]] = {}
    for number, record in enumerate(records):
        for name, value in columns_of(record).items():
            if (kind := _kind(value)) is not None:
                kinds.setdefault(name, {}).setdefault(kind, number)
    left_out = {}
    for name, first in kinds.items():
        if len(first) < 2:
            continue
        told = " and ".join(f"{kind} (record {number})" for kind, number in first.items())
        if keep is not None and name in keep:
            raise UserError(f"{where}: the column {name} holds {told}; write one kind in every row")
        left_out[name] = told
    if not left_out:
        return records, {}
    return (with_columns(record, _without(columns_of(record), left_out)) for record in records), left_out


def describe_columns(names: Iterable[str], left_out: Mapping[str, str]) -> str:
    """`columns answer, level; not carried: meta (an object)`; empty where there is neither."""
    parts = [f"columns {', '.join(names)}"] if (names := sorted(names)) else []
    if left_out:
        parts.append("columns not carried: " + ", ".join(f"{name} ({why})" for name, why in sorted(left_out.items())))
    return "; ".join(parts)


def _named(row: Row, name: str) -> Any:
    if row[name] is not None and (why := unfit(row[name])) is not None:
        raise RecordError(
            name, f"is {why} ({shown(row[name])}); a column holds text, numbers, booleans or a list of them"
        )
    return row[name]


def _kind(value: Any) -> str | None:
    """What a value is, None where it fits any kind."""
    if value is None or value == []:
        return None
    return f"lists of {_KINDS[type(value[0])]}" if isinstance(value, list) else _KINDS[type(value)]


def _without(columns: Columns, names: Mapping[str, str]) -> Columns:
    return {name: value for name, value in columns.items() if name not in names}

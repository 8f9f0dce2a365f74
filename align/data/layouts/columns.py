"""A row's columns found by name: whatever their case, spaces and hyphens, and pairs of them that hold two answers."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

Row = Mapping[str, Any]

ANSWER_NOUNS = ("output", "response", "answer", "completion", "conversation", "reply", "generation", "candidate")
ANSWER_NOUNS += ("summary", "solution")
SUFFIXES = (("0", "1"), ("1", "2"), ("a", "b"), ("one", "two"), ("first", "second"))
"""How two answers are told apart: `response_0` and `response_1`, `output_a` and `output_b`, `first_answer` ..."""
_NUMBERED = re.compile(rf"(?:model_)?({'|'.join(ANSWER_NOUNS)})_?(0|1|2|a|b|one|two|first|second)")
_ORDINAL = re.compile(rf"(first|second)_({'|'.join(ANSWER_NOUNS)})")


class SetAside(str):
    """The name of a column in whose place another one was mapped: no layout finds it; `column` is what it was."""

    column: str

    def __new__(cls, column: str) -> Self:
        name = super().__new__(cls, f"{column} (replaced by a mapped column)")
        name.column = column
        return name


@lru_cache(maxsize=4096)
def canonical(name: Any) -> str:
    """`Response A`, `responseA` and `response-a` as `response_a`."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name).strip())
    return re.sub(r"[\s\-./]+", "_", text).lower()


def columns_named(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    """The columns of a row that have one of the names, in the order of the names.

    Columns of exactly such a name go before those that are only spelt alike.
    """
    return _columns_named(tuple(row), tuple(names))


def find(row: Row, names: Sequence[str]) -> tuple[str | None, Any]:
    """The first of the names that the row has a value under, and the value; (None, None) where it has none."""
    for column in columns_named(row, names):
        if row[column] is not None:
            return column, row[column]
    return None, None


def column_of(row: Row, names: Sequence[str]) -> str | None:
    """The first of the names that the row has a value under."""
    return find(row, names)[0]


def answer_pair(row: Row) -> tuple[str, str] | None:
    """The two columns that hold two answers, the first one first; None where there are no two."""
    columns = tuple(name for name, value in row.items() if value is not None)
    return _answer_pair(columns)


def score_pair(row: Row, pair: tuple[str, str]) -> tuple[str, str] | None:
    """The columns that score each of two answers, `score_0` and `score_1` of `answer_0` and `answer_1`; None if none.

    Args:
        row: the row.
        pair: the columns of the answers.
    """
    suffixes = [number[1] for column in pair if (number := answer_number(column))]
    for noun in ("score", "rating", "reward"):
        columns = [find(row, (f"{noun}_{suffix}", f"{noun}{suffix}"))[0] for suffix in suffixes]
        if len(columns) == 2 and None not in columns:
            return columns[0], columns[1]
    return None


def answer_number(column: str) -> tuple[str, str] | None:
    """(noun, suffix) of the name of a column that holds one of several answers: `response`, `0` of `response_0`."""
    name = canonical(column)
    if match := _NUMBERED.fullmatch(name):
        return match[1], match[2]
    if match := _ORDINAL.fullmatch(name):
        return match[2], match[1]
    return None


@lru_cache(maxsize=4096)
def _columns_named(columns: tuple[Any, ...], names: tuple[str, ...]) -> tuple[Any, ...]:
    spelt: dict[str, Any] = {}
    for column in columns:
        spelt.setdefault(canonical(column), column)
    alike = (spelt.get(canonical(name)) for name in names)
    exact = (name for name in names if name in columns)
    return tuple(dict.fromkeys([*exact, *(column for column in alike if column is not None)]))


@lru_cache(maxsize=1024)
def _answer_pair(columns: tuple[Any, ...]) -> tuple[str, str] | None:
    numbered: dict[str, dict[str, str]] = {}
    for column in columns:
        if isinstance(column, str) and (found := answer_number(column)):
            numbered.setdefault(found[0], {}).setdefault(found[1], column)
    for noun in ANSWER_NOUNS:
        for first, second in SUFFIXES:
            if {first, second} <= numbered.get(noun, {}).keys():
                return numbered[noun][first], numbered[noun][second]
    return None

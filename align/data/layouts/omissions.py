"""What a layout leaves out of a row that gives records, or reads in a way that needs saying: the report tells it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from align.data.layouts.formats import is_boxed
from align.data.layouts.judged import read_order
from align.data.layouts.trees import answers_at

Row = Mapping[str, Any]


def _unused(row: Row, format: str) -> Counter[str]:
    """A tree's answers that are compared with no other; where demonstrations are made, all but the best."""
    told: Counter[str] = Counter()
    for answers in answers_at(row) if format in ("preference", "prompt_completion") else ():
        unranked = sum(type(one.get("rank")) is not int for one in answers)
        if format == "preference":
            told["alone" if len(answers) == 1 else "unranked"] += 1 if len(answers) == 1 else unranked
        else:
            told["not the best" if unranked < len(answers) else "unranked"] += len(answers) - 1
    return told


def _unscored(row: Row, format: str) -> Counter[str]:
    return Counter(unscored=sum(value is None for value in read_order(row)))


def _later_turns(row: Row, format: str) -> Counter[str]:
    return Counter(questions=len(row["turns"]) - 1)


def _boxed(row: Row, format: str) -> Counter[str]:
    return Counter(name for name, value in row.items() if is_boxed(value))


REMARKS: dict[str, tuple[str, Callable[[Row, str], Counter[str]], str]] = {
    "unused_answers": ("message_tree", _unused, "trees with answers that are in no record"),
    "unscored_answers": (
        "responses",
        _unscored,
        "rows with answers that nobody scored or ranked: they are in no pair",
    ),
    "later_turns": ("turns", _later_turns, "rows with questions after the first, which need an answer: left out"),
    "boxed_fields": ("alpaca", _boxed, "rows with fields that are lists of one string, read as that string"),
}
"""A finding's name -> the layout, how often what is in a row, and the finding's message."""


def remarks(layout: str, row: Row, format: str) -> Iterator[tuple[str, Counter[str]]]:
    """(name of the finding, what and how often) of a row that gave records of `format`."""
    for name, (of, count, _) in REMARKS.items():
        if of == layout and (told := +count(row, format)):
            yield name, told

"""What a layout leaves out of a row that gives records, or reads in a way that needs saying: the report says it."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from align.data.layouts.columns import canonical
from align.data.layouts.formats import is_boxed
from align.data.layouts.judged import read_order
from align.data.layouts.projects import later_questions
from align.data.layouts.trees import answers_at
from align.data.record_texts import strings_in

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


def _later_questions(row: Row, format: str) -> Counter[str]:
    question = row["question"]
    turns = len(question) - 1 if isinstance(question, list) and question and isinstance(question[0], list) else 0
    return Counter(turns=turns - len(later_questions(row)))


def _boxed(row: Row, format: str) -> Counter[str]:
    return Counter(name for name, value in row.items() if is_boxed(value))


def _media(row: Row, format: str) -> Counter[str]:
    """The pictures, sounds and films of a row: columns that hold them, and placeholders in its texts."""
    found: Counter[str] = Counter()
    for column, value in row.items():
        medium = _MEDIA.get(canonical(column))
        if medium and value not in (None, "", [], {}):
            found[medium] += 1
    if not found:
        texts = (text for text in strings_in(row) if "<" in text)
        found.update(f"placeholder {match[0]}" for text in texts for match in _PLACEHOLDER.finditer(text))
    return found


_MEDIA = {f"{medium}{end}": medium for medium in ("image", "audio", "video") for end in ("", "s", "_path", "_url")}
_PLACEHOLDER = re.compile(r"<image>|<\|(?:image|audio|video)(?:_pad)?\|>")  # <audio> and <video> are HTML too


@dataclass(frozen=True)
class Remark:
    """What is said of the rows of a layout, or of any where `layout` is None."""

    layout: str | None
    count: Callable[[Row, str], Counter[str]]  # a row and the format made of it -> what, and how often
    message: str
    severity: str = "info"


REMARKS: dict[str, Remark] = {
    "unused_answers": Remark("message_tree", _unused, "trees with answers that are in no record"),
    "unscored_answers": Remark(
        "responses", _unscored, "rows with answers that nobody scored or ranked: they are in no pair"
    ),
    "later_turns": Remark(
        "turns",
        _later_turns,
        "rows with questions after the first: stage evaluate asks them in turn, other stages the first alone",
    ),
    "later_questions": Remark(
        "bfcl", _later_questions, "rows with turns after the first that are not one message of the user: left out"
    ),
    "boxed_fields": Remark("alpaca", _boxed, "rows with fields that are lists of one string, read as that string"),
    "media": Remark(
        None,
        _media,
        "rows with an image, a sound or a video: only text is read, and a placeholder such as <image> stays in it",
        "warning",
    ),
}
"""A finding's name -> when it is made and what it says."""


def remarks(layout: str, row: Row, format: str) -> Iterator[tuple[str, Counter[str]]]:
    """(name of the finding, what and how often) of a row that gave records of `format`."""
    for name, remark in REMARKS.items():
        if remark.layout in (None, layout) and (found := +remark.count(row, format)):
            yield name, found

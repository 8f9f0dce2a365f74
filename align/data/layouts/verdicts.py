"""What was said of several answers to one prompt, and the pairs that are made of it in one way.

A tie is never a pair, nor are two answers of the same words, and a difference of scores is the pair's margin.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from align.data.layouts.columns import answer_number, canonical
from align.records import Content, Preference, Record, RecordError

# a word that says by itself which answer is better; a number does not, see as_outcome
_WORDS = {"a": 1, "b": 2, "first": 1, "second": 2, "model_a": 1, "model_b": 2}
_WORDS |= dict.fromkeys(
    ("tie", "draw", "both", "neither", "equal", "same", "both_bad", "bothbad", "tie_(bothbad)", "tie_(inconsistent)"),
    0,
)
_OURS = _WORDS | {"1": 1, "2": 2, "0": 0}
# a column that names the better answer, rather than one that grades the pair
SELECTORS = {"id", "idx", "index", "winner", "better", "best", "preferred", "choice", "chosen", "overall"}

# a column that grades a pair from -3, the first is much better, over 0 to 3, the second is
STRENGTHS = ("preference_strength", "overall_preference")


class Mapped(str):
    """A label in our words, as `--labels` gives it; `theirs` is what the file says."""

    theirs: str

    def __new__(cls, ours: str, theirs: str) -> Self:
        label = super().__new__(cls, ours)
        label.theirs = theirs
        return label


class UndefinedLabel(RecordError):
    """A label whose meaning nothing in the file defines."""

    def __init__(self, column: str, value: Any, why: str):
        super().__init__(column, why)
        self.column = column
        self.value = label_text(value)


@dataclass(frozen=True)
class Verdict:
    """Which of two answers is better: `outcome` 1 the `first`, 2 the `second`, 0 neither."""

    first: int
    second: int
    outcome: int
    margin: float | None = None
    votes: tuple[int, ...] = ()  # the annotators' outcomes behind it


@dataclass(frozen=True)
class Judged:
    """A prompt, its answers in the order they were shown, and what was said of pairs of them."""

    prompt: Content
    answers: list[Content]
    verdicts: list[Verdict]


def pairs(judged: Judged) -> list[Record]:
    """A preference for each verdict that is not a tie.

    Raises:
        RecordError: there is none, or an answer of the only one is no text.
    """
    records: list[Record] = []
    malformed: RecordError | None = None
    for verdict in judged.verdicts:
        if verdict.outcome == 0:
            continue
        better, worse = (verdict.first, verdict.second)[:: 1 if verdict.outcome == 1 else -1]
        row = {"prompt": judged.prompt, "chosen": judged.answers[better], "rejected": judged.answers[worse]}
        try:
            records.append(Preference.from_row({**row, "margin": verdict.margin}))
        except RecordError as error:
            malformed = malformed or error
    if not records:
        raise malformed or RecordError("verdict", "is a tie: no answer is better than another")
    return records


def majority(votes: Sequence[int]) -> int:
    """What more than half of the votes say; 0, a tie, where none has so many."""
    outcome, count = Counter(votes).most_common(1)[0]
    return outcome if 2 * count > len(votes) else 0


def label_text(value: Any) -> str:
    """A label as its file writes it: `1` for 1, 1.0 and "1 ", `true` for True."""
    if isinstance(value, Mapped):
        return value.theirs
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].lstrip("-").isdigit() else text


def as_outcome(value: Any, column: str, pair: tuple[str, str]) -> int | None:
    """1 the first answer is better, 2 the second, 0 neither; None where the file does not define it.

    A number is defined only by the names of the columns: `better_response_id` 0 names `response_0`; 1 and 2 are
    `output_1` and `output_2`, and 1.5 is between them; the sign of a column of `STRENGTHS` says it. 0 and 1 of a
    column `label` are not defined, whatever the answers are called, and no numbers are where the answers are A and B.

    Args:
        value: the label.
        column: the label's column.
        pair: the columns of the first and the second answer.
    """
    if isinstance(value, bool) or value is None:
        return None
    text = label_text(value) if not isinstance(value, Mapped) else str(value)
    word = canonical(text)
    if isinstance(value, Mapped) and word in _OURS:
        return _OURS[word]
    if (strength := strength_of(value, column)) is not None:
        return 0 if strength == 0 else 1 if strength < 0 else 2
    columns = tuple(canonical(name) for name in pair)
    if word in columns:
        return 1 + columns.index(word)
    if word in _WORDS:
        return _WORDS[word]
    numbers = tuple(number[1] for name in pair if (number := answer_number(name)))
    named = answer_number(text)
    if named and named[1] in numbers:
        return 1 + numbers.index(named[1])
    selects = not SELECTORS.isdisjoint(canonical(column).split("_"))
    if numbers == ("1", "2") or (numbers == ("0", "1") and selects):
        return {numbers[0]: 1, numbers[1]: 2, "1.5": 0 if numbers == ("1", "2") else None}.get(text)
    return None


def strength_of(value: Any, column: str) -> float | None:
    """How much better one of two answers is, negative for the first, in a column that `STRENGTHS` name.

    Source: HelpSteer2-Preference (Wang et al. 2024, arXiv:2410.01257) and HelpSteer3: whole numbers from -3 to 3.
    """
    if canonical(column) not in STRENGTHS or isinstance(value, Mapped):
        return None
    text = label_text(value)
    return float(text) if text.lstrip("-").isdigit() and abs(int(text)) <= 3 else None

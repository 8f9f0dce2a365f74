"""What was said of several answers to one prompt, and the pairs that are made of it in one way.

A tie is never a pair, nor are two answers of the same words, and a difference of scores is the pair's margin.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from align.records import Content, Preference, Record, RecordError

FIRST = ("output_1", "response1", "response_1", "response_a", "answer_a", "output_a", "conversation_a")
SECOND = ("output_2", "response2", "response_2", "response_b", "answer_b", "output_b", "conversation_b")
_WORDS = {"1": 1, "2": 2, "0": 0, "a": 1, "b": 2, "first": 1, "second": 2, "tie": 0, "both": 0, "neither": 0}
_WORDS |= {"model_a": 1, "model_b": 2, "tie (bothbad)": 0, "1.5": 0, "equal": 0, "same": 0, "1.0": 1, "2.0": 2}
_WORDS |= dict.fromkeys(FIRST, 1) | dict.fromkeys(SECOND, 2)
"""What data files write for a verdict -> 1 the first is better, 2 the second, 0 neither."""


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
    """A preference a verdict that is no tie.

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


def as_outcome(value: Any) -> int | None:
    """0, 1 or 2 for what data files write for it; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    return _WORDS.get(str(value).strip().lower())

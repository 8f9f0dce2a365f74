"""Layouts in which several answers to one prompt were judged: by a label, by annotators, by ranks, scores or votes.

Each is read into one noun, `Judged`, of which pairs are made.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from align.data.layouts.verdicts import FIRST, SECOND, Judged, Verdict, as_outcome, majority, pairs
from align.records import Content, Record, RecordError, shown

Row = Mapping[str, Any]

VERDICTS = ("label", "preference", "winner", "preferred", "better", "choice")
_LISTS = ("responses", "completions", "answers", "outputs", "candidates", "generations")
_SCORES = ("scores", "score", "ratings", "rewards", "overall_score", "rating")
_RANKS = ("ranks", "rank", "ranking")
_TEXTS = ("response", "text", "content", "completion", "answer", "output", "body")
_PROMPTS = ("prompt", "instruction", "question", "query", "input")
JUDGED_FIELDS = (FIRST[0], SECOND[0], "responses", "scores", "ranks", "preference", "context")


def two_outputs(row: Row, wanted: str) -> list[Record]:
    """Two answers and a label: 1 the first is better, 2 the second, 0 a tie (or words such as `model_a`, `tie`)."""
    return pairs(read_two_outputs(row))


def read_two_outputs(row: Row) -> Judged:
    """Raises RecordError."""
    field, value = _find(row, VERDICTS)
    outcome = as_outcome(value)
    if field is None or outcome is None:
        raise RecordError(
            field or "label",
            f"is {shown(value)}, not 1 (the first is better), 2 (the second) or 0 (a tie); say what it means: "
            "--labels VALUE=1,VALUE=2",
        )
    first, second = _two(row)
    if isinstance(first, list) and isinstance(second, list):
        shared = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        return Judged(first[:shared], [first[shared:], second[shared:]], [Verdict(0, 1, outcome)])
    return Judged(_prompt(row), [answer(first), answer(second)], [Verdict(0, 1, outcome)])


def annotators(row: Row, wanted: str) -> list[Record]:
    """Two answers and the verdicts of several annotators (0 a tie, 1, 2): the majority's, where there is one."""
    return pairs(read_annotators(row))


def read_annotators(row: Row) -> Judged:
    """Raises RecordError."""
    votes = []
    for name in annotator_fields(row):
        if row[name] is None or row[name] == "":
            continue
        outcome = as_outcome(row[name])
        if outcome is None:
            raise RecordError(name, f"is {shown(row[name])}, not 0 (a tie), 1 or 2")
        votes.append(outcome)
    if not votes:
        raise RecordError("annotator1", "is missing: nobody judged this row")
    first, second = _two(row)
    verdict = Verdict(0, 1, majority(votes), votes=tuple(votes))
    return Judged(_prompt(row), [answer(first), answer(second)], [verdict])


def annotator_fields(row: Row) -> list[str]:
    """`annotator1`, `annotator_2`, ..."""
    return [name for name in row if isinstance(name, str) and re.fullmatch(r"annotator_?\d+", name)]


def responses(row: Row, wanted: str) -> list[Record]:
    """A list of answers with a score or a rank each (rank 0 or 1 is the best), beside them or inside: every pair."""
    return pairs(read_responses(row))


def read_responses(row: Row) -> Judged:
    """Raises RecordError."""
    given, inside = _answers(row)
    texts = [_find(one, _TEXTS)[1] for one in given] if inside else given
    order, sign = _order(row)
    verdicts = []
    for (i, one), (j, other) in combinations(enumerate(order), 2):
        if one is not None and other is not None:
            outcome = 0 if one == other else 1 if sign * (one - other) > 0 else 2
            verdicts.append(Verdict(i, j, outcome, margin=abs(one - other) if sign == 1 and outcome else None))
    return Judged(_prompt(row), [answer(text) for text in texts], verdicts)


def read_order(row: Row) -> list[float | None]:
    """The score or rank of each answer of a list, None where it has none. Raises RecordError."""
    return _order(row)[0]


def _answers(row: Row) -> tuple[list[Any], bool]:
    """The list of answers, and whether each is an object that may hold its own score."""
    field, given = _find(row, _LISTS)
    if not isinstance(given, list) or len(given) < 2:
        raise RecordError(field or "responses", f"is {shown(given)}, not a list of two answers or more")
    return given, all(isinstance(one, Mapping) for one in given)


def _order(row: Row) -> tuple[list[float | None], int]:
    """Scores, and 1; or ranks, and -1."""
    given, inside = _answers(row)
    for names in (_SCORES, _RANKS):
        values = [_find(one, names)[1] for one in given] if inside else _find(row, names)[1]
        if isinstance(values, list) and any(value is not None for value in values):
            break
    else:
        raise RecordError("scores", "are missing: no score or rank says which answer is better")
    if len(values) != len(given):
        raise RecordError("scores", f"are {len(values)} for {len(given)} answers")
    return [None if value is None else _number(value, "scores") for value in values], -1 if names == _RANKS else 1


def pairwise_votes(row: Row, wanted: str) -> list[Record]:
    """`prediction 1` ... `prediction N` and in `preference` a verdict on each pair (1,2) (1,3) ... (N-1,N)."""
    return pairs(read_pairwise_votes(row))


def read_pairwise_votes(row: Row) -> Judged:
    """Raises RecordError."""
    names = prediction_fields(row)
    votes = row.get("preference")
    expected = len(names) * (len(names) - 1) // 2
    if not isinstance(votes, list) or len(votes) != expected or expected == 0:
        raise RecordError("preference", f"is {shown(votes)}, not {expected} verdicts on {len(names)} predictions")
    verdicts = []
    for (i, j), vote in zip(combinations(range(len(names)), 2), votes, strict=True):
        outcome = as_outcome(vote)
        if outcome is None:
            raise RecordError("preference", f"holds {shown(vote)}, not 0 (a tie), 1 or 2")
        verdicts.append(Verdict(i, j, outcome))
    return Judged(_prompt(row), [answer(row[name]) for name in names], verdicts)


def prediction_fields(row: Row) -> list[str]:
    """`prediction 1`, `prediction_2`, ... in the order of their numbers."""
    found = {
        int(number[1]): name
        for name in row
        if isinstance(name, str) and (number := re.fullmatch(r"prediction[ _]?(\d{1,4})", name))
    }
    return [found[number] for number in sorted(found)]


JUDGED: dict[str, Callable[[Row], Judged]] = {
    "two_outputs": read_two_outputs,
    "annotators": read_annotators,
    "responses": read_responses,
    "pairwise_votes": read_pairwise_votes,
}
"""A layout of judged answers -> what reads a row of it; the data report looks for ties, votes and positions there."""


def answer(value: Any) -> Content:
    """A text as the assistant's message; messages as they are. What is neither is for the record to refuse."""
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else value


def two_fields(row: Row) -> tuple[str | None, str | None]:
    """The names of the two fields that hold two answers."""
    return _find(row, FIRST)[0], _find(row, SECOND)[0]


def _two(row: Row) -> tuple[Any, Any]:
    names = two_fields(row)
    for name, known in zip(names, (FIRST, SECOND), strict=True):
        if name is None:
            raise RecordError(known[0], "is missing")
        if not isinstance(row[name], str | list):
            raise RecordError(name, f"is {shown(row[name])}, neither a string nor a list of messages")
        if isinstance(row[name], str) and not row[name].strip():
            raise RecordError(name, f"is empty ({shown(row[name])})")
    return row[names[0]], row[names[1]]


def _prompt(row: Row) -> Content:
    """The prompt as a user's message, with what there is of context, passages and input."""
    field, question = _find(row, _PROMPTS)
    if isinstance(question, list):
        return question
    if not isinstance(question, str) or not question.strip():
        raise RecordError(field or "prompt", f"is {shown(question)}, not a prompt")
    more = row.get("input") if field == "instruction" else None
    parts = [context_of(row), question, more if isinstance(more, str) else ""]
    return [{"role": "user", "content": "\n\n".join(part for part in parts if part and part.strip())}]


def context_of(row: Row) -> str:
    """What a question is about: `context`, or the lines of `passages` and of `contexts`."""
    _, given = _find(row, ("context", "contexts", "CONTEXTS", "passages", "passage"))
    return "\n\n".join(_flat(given)) if given is not None else ""


def _flat(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list):
        return (
            ["\n".join(text for part in value for text in _flat(part))]
            if value and all(isinstance(part, str) for part in value)
            else [text for part in value for text in _flat(part)]
        )
    return []


def _find(row: Row, names: Sequence[str]) -> tuple[str | None, Any]:
    """The first of the names that the row has, and its value."""
    name = next((name for name in names if row.get(name) is not None), None)
    return name, None if name is None else row[name]


def _number(value: Any, field: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RecordError(field, f"holds {shown(value)}, not a finite number")
    return number

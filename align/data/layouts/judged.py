"""Layouts in which several answers to one prompt were judged: by a label, by annotators, by ranks, scores or votes.

Each is read into one noun, `Judged`, of which pairs are made.
"""

import math
import re
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from align.data.layouts.columns import answer_pair, column_of, find, score_pair
from align.data.layouts.prompts import prompt_of
from align.data.layouts.verdicts import (
    STRENGTHS,
    Judged,
    Mapped,
    UndefinedLabel,
    Verdict,
    as_outcome,
    label_text,
    majority,
    pairs,
    strength_of,
)
from align.records import Content, Record, RecordError, shown

Row = Mapping[str, Any]

VERDICTS = ("label", "preference", "winner", "preferred", "better", "choice", "better_response_id", "overall_response")
VERDICTS += ("better_id", "best", "verdict", "judgment", "judgement", "human_preference", "preferred_response")
VERDICTS += STRENGTHS
LISTS = ("responses", "completions", "answers", "outputs", "candidates", "generations")
SCORES = ("scores", "score", "ratings", "rewards", "overall_score", "rating")
RANKS = ("ranks", "rank", "ranking")
_TEXTS = ("response", "text", "content", "completion", "answer", "output", "body")
PROMPTS = ("prompt", "instruction", "question", "query", "input")
JUDGED_FIELDS = ("output_1", "output_2", "responses", "scores", "ranks", "preference", "context", "better_response_id")


def two_outputs(row: Row, wanted: str) -> list[Record]:
    """Two answers, such as response_0 and response_1, and a label that says which is better, or a score of each."""
    return pairs(read_two_outputs(row))


def read_two_outputs(row: Row) -> Judged:
    """Raises RecordError; UndefinedLabel where nothing in the row says what its label means."""
    pair = two_fields(row)
    verdict = _verdict(row, pair)
    first, second = _two(row)
    if isinstance(first, list) and isinstance(second, list):
        shared = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
        return Judged(first[:shared], [first[shared:], second[shared:]], [verdict])
    return Judged(prompt_of(row, question_fields(row)), [answer(first), answer(second)], [verdict])


def question_fields(row: Row) -> tuple[str, ...]:
    """The names a question has here; HelpSteer3 has none, and a conversation called `context`."""
    if column_of(row, PROMPTS) is None and isinstance(row.get("context"), list):
        return ("context",)
    return PROMPTS


def _verdict(row: Row, pair: tuple[str, str]) -> Verdict:
    """By the label of two answers, else by their scores. Raises RecordError."""
    column, value = find(row, VERDICTS)
    if column is not None:
        outcome = as_outcome(value, column, pair)
        if outcome is None:
            raise UndefinedLabel(column, value, f"is {shown(value)}, and nothing says which answer that is")
        strength = strength_of(value, column)
        return Verdict(0, 1, outcome, margin=abs(strength) if strength else None)
    columns = score_pair(row, pair)
    if columns is None:
        raise RecordError("label", "is missing: nothing says which answer is better")
    first, second = (_number(row[name], name) for name in columns)
    outcome = 0 if first == second else 1 if first > second else 2
    return Verdict(0, 1, outcome, margin=abs(first - second) if outcome else None)


def annotators(row: Row, wanted: str) -> list[Record]:
    """Two answers and the verdict of each annotator (PandaLM: 0 a tie, 1, 2): the majority's, where there is one."""
    return pairs(read_annotators(row))


def read_annotators(row: Row) -> Judged:
    """Raises RecordError; UndefinedLabel where nothing in the row says what a vote means."""
    pair = two_fields(row)
    votes = []
    for name in annotator_fields(row):
        if row[name] is None or row[name] == "":
            continue
        outcome = annotator_outcome(row[name], name, pair)
        if outcome is None:
            raise UndefinedLabel(name, row[name], f"is {shown(row[name])}, and nothing says which answer that is")
        votes.append(outcome)
    if not votes:
        raise RecordError("annotator1", "is missing: nobody judged this row")
    first, second = _two(row)
    verdict = Verdict(0, 1, majority(votes), votes=tuple(votes))
    return Judged(prompt_of(row, PROMPTS), [answer(first), answer(second)], [verdict])


def annotator_outcome(value: Any, column: str, pair: tuple[str, str]) -> int | None:
    """As `as_outcome`; in PandaLM's own columns (response1, response2, annotator1, ...) 0 is a tie.

    Source: PandaLM, https://github.com/WeOpenML/PandaLM, data/testset-v1.json.
    """
    pandalm = pair == ("response1", "response2") and re.fullmatch(r"annotator\d+", column) is not None
    if pandalm and not isinstance(value, Mapped) and label_text(value) == "0":
        return 0
    return as_outcome(value, column, pair)


def annotator_fields(row: Row) -> list[str]:
    """`annotator1`, `annotator_2`, ..."""
    return [name for name in row if isinstance(name, str) and re.fullmatch(r"annotator_?\d+", name)]


def responses(row: Row, wanted: str) -> list[Record]:
    """A list of answers with a score or a rank each (rank 0 or 1 is the best), beside them or inside: every pair."""
    return pairs(read_responses(row))


def read_responses(row: Row) -> Judged:
    """Raises RecordError."""
    given, inside = _answers(row)
    texts = [find(one, _TEXTS)[1] for one in given] if inside else given
    order, sign = _order(row)
    verdicts = []
    for (i, one), (j, other) in combinations(enumerate(order), 2):
        if one is not None and other is not None:
            outcome = 0 if one == other else 1 if sign * (one - other) > 0 else 2
            verdicts.append(Verdict(i, j, outcome, margin=abs(one - other) if sign == 1 and outcome else None))
    return Judged(prompt_of(row, PROMPTS), [answer(text) for text in texts], verdicts)


def read_order(row: Row) -> list[float | None]:
    """The score or rank of each answer of a list, None where it has none. Raises RecordError."""
    return _order(row)[0]


def _answers(row: Row) -> tuple[list[Any], bool]:
    """The list of answers, and whether each is an object that may hold its own score."""
    field, given = find(row, LISTS)
    if not isinstance(given, list) or len(given) < 2:
        raise RecordError(field or "responses", f"is {shown(given)}, not a list of two answers or more")
    return given, all(isinstance(one, Mapping) for one in given)


def order_column(row: Row) -> tuple[str, bool]:
    """The column of the scores or ranks of a list of answers, and whether they are ranks. Raises RecordError."""
    given, inside = _answers(row)
    _, sign = _order(row)
    where = given[0] if inside else row
    return find(where, SCORES if sign == 1 else RANKS)[0] or "scores", sign == -1


def _order(row: Row) -> tuple[list[float | None], int]:
    """Scores, and 1; or ranks, and -1."""
    given, inside = _answers(row)
    for names in (SCORES, RANKS):
        values = [find(one, names)[1] for one in given] if inside else find(row, names)[1]
        if isinstance(values, list) and any(value is not None for value in values):
            break
    else:
        raise RecordError("scores", "are missing: no score or rank says which answer is better")
    if not inside and isinstance(row.get("ranking"), list) and values is row["ranking"]:
        _check_ranking(values)
    if len(values) != len(given):
        raise RecordError("scores", f"are {len(values)} for {len(given)} answers")
    return [None if value is None else _number(value, "scores") for value in values], -1 if names == RANKS else 1


def _check_ranking(ranking: list[Any]) -> None:
    """Raises RecordError for a `ranking` that says one thing as ranks, another as answers from best to worst."""
    if any(type(rank) is not int for rank in ranking) or len(set(ranking)) != len(ranking):
        return
    first = min(ranking, default=0)
    if set(ranking) == set(range(first, first + len(ranking))):
        order = [ranking.index(first + place) for place in range(len(ranking))]
        if [rank - first for rank in ranking] != order:
            raise RecordError(
                "ranking",
                f"is {shown(ranking)}: the rank of each answer, or the answers from the best to the worst? If it is "
                "their ranks, map it: --columns ranks=ranking",
            )


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
        outcome = vote_outcome(vote)
        if outcome is None:
            raise RecordError("preference", f"holds {shown(vote)}, not 0 (a tie), 1 or 2")
        verdicts.append(Verdict(i, j, outcome))
    return Judged(prompt_of(row, PROMPTS), [answer(row[name]) for name in names], verdicts)


def vote_outcome(vote: Any) -> int | None:
    """1 the first of the pair, 2 the second, 0 neither, as QA-Feedback's preferences have it; None for others.

    Source: fine-grained RLHF, https://github.com/allenai/FineGrainedRLHF, tasks/qa_feedback/data.
    """
    if not isinstance(vote, Mapped) and label_text(vote) == "0":
        return 0
    return as_outcome(vote, "preference", ("output_1", "output_2"))


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


def two_fields(row: Row) -> tuple[str, str]:
    """The names of the two columns that hold two answers. Raises RecordError."""
    pair = answer_pair(row)
    if pair is None:
        raise RecordError("output_1", "is missing: no two columns hold two answers, such as output_1 and output_2")
    return pair


def _two(row: Row) -> tuple[Any, Any]:
    names = two_fields(row)
    for name in names:
        if not isinstance(row[name], str | list):
            raise RecordError(name, f"is {shown(row[name])}, neither a string nor a list of messages")
        if isinstance(row[name], str) and not row[name].strip():
            raise RecordError(name, f"is empty ({shown(row[name])})")
    return row[names[0]], row[names[1]]


def _number(value: Any, field: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RecordError(field, f"holds {shown(value)}, not a finite number")
    return number

"""What stays beside a record in a dataset's rows: how far annotators agreed, and its scores."""

import math
from collections.abc import Mapping
from typing import Any

from align.data.layouts.columns import columns_named, find
from align.data.layouts.verdicts import Mapped
from align.records import Demonstration, Preference, Record, UnpairedPreference

PAIR_SCORES = ("score_chosen", "score_rejected")  # a reward model's, of the two answers of a preference
SCORES = ("score", *PAIR_SCORES)  # `score` is that of an answer alone
SCORE_COLUMNS = ("score", "rating", "stars", "grade", "helpfulness")  # whose number is kept as an answer's `score`


def beside(row: Any) -> dict[str, Any]:
    """The fields of a row that its records keep."""
    if not isinstance(row, Mapping):
        return {}
    numbers = {name: _number(find(row, _spellings(name))[1]) for name in PAIR_SCORES}
    numbers["agreement"] = _number(row.get("agreement"))
    numbers["score"] = _number(row.get(score_column(row)))
    return {name: number for name, number in numbers.items() if number is not None}


def _spellings(name: str) -> tuple[str, ...]:
    side = name.removeprefix("score_")
    return (name, f"{side}_score", f"{side}_rating")


def score_column(row: Mapping[str, Any]) -> str | None:
    """The column that holds the score of an answer alone: `score`, a rating, or HelpSteer's helpfulness."""
    columns = columns_named(row, SCORE_COLUMNS)
    return next((column for column in columns if _number(row[column]) is not None), None)


def own(kept: Mapping[str, Any], record: Record) -> dict[str, Any]:
    """Of what stood beside a row, what belongs to `record`, which may be one side of the pair that was scored."""
    scored = scores(kept, record)
    rest = {name: value for name, value in kept.items() if name not in SCORES}
    if isinstance(record, Preference):
        return rest | {f"score_{side}": value for side, value in scored.items()}
    return rest | ({"score": scored["completion"]} if scored else {})


def scores(kept: Mapping[str, Any], record: Record) -> dict[str, float]:
    """Side -> score: `chosen` and `rejected` of a preference, `completion` of an answer alone; none where unscored."""
    if isinstance(record, Preference):
        both = all(name in kept for name in PAIR_SCORES)
        return {name.removeprefix("score_"): float(kept[name]) for name in PAIR_SCORES} if both else {}
    if not isinstance(record, Demonstration | UnpairedPreference):
        return {}
    rejected = isinstance(record, UnpairedPreference) and not record.label
    found = kept.get("score", kept.get("score_rejected" if rejected else "score_chosen"))
    return {} if found is None else {"completion": float(found)}


def margin(kept: Mapping[str, Any], record: Record) -> float | None:
    """By how much a pair's chosen answer is better: by its scores, else as whoever judged it said; None if unknown."""
    scored = scores(kept, record)
    if "chosen" in scored:
        return scored["chosen"] - scored["rejected"]
    return getattr(record, "margin", None)


def _number(value: Any) -> float | None:
    """A number, also as a table without kinds of cells writes it; None for anything else."""
    if isinstance(value, bool | Mapped) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None

"""How far raters agree with each other, with themselves and with gold items, and which side they prefer.

evalica computes Krippendorff's alpha; verdicts are ordinal, from `b` (-2) to `a` (2), with `both_bad` and `both_good`
in the middle with `tie`. It is imported when it is needed, because it brings pandas, which takes a second.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from align.review.schemas import STRENGTH, TURNED
from align.review.store.ratings import Rating

RESAMPLES = 1000
FEWEST_SHARED = 5  # items that two raters must share for a kappa


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha with its 95% bootstrap interval; 1 is perfect, 0 is chance."""

    value: float
    low: float
    high: float
    items: int  # with two ratings or more


@dataclass(frozen=True)
class RaterReport:
    """What can be said about one rater."""

    rater: str
    ratings: int
    left: float | None  # share of verdicts for the left side, among those for either
    left_low: float
    left_high: float
    seconds: float | None  # median per item
    gold: tuple[int, int]  # right, of
    repeats: tuple[int, int]  # the same winner again, of
    ties: float  # share of tie, both_bad and both_good
    flags: int


def counted(ratings: Iterable[Rating]) -> list[Rating]:
    """The ratings that count for an item: neither of gold items nor repeats."""
    return [rating for rating in ratings if rating.kind in ("main", "import")]


def krippendorff(ratings: Iterable[Rating], *, seed: int = 0) -> Alpha | None:
    """Ordinal alpha; None if no item has two ratings, or if all ratings are the same."""
    by_item: dict[int, dict[str, int]] = defaultdict(dict)
    for rating in counted(ratings):
        by_item[rating.item_id][rating.rater] = STRENGTH[rating.verdict]
    shared = {name: votes for name, votes in by_item.items() if len(votes) > 1}
    if len({vote for votes in shared.values() for vote in votes.values()}) < 2:
        return None
    import evalica
    import pandas

    raters = sorted({rater for votes in shared.values() for rater in votes})
    table = pandas.DataFrame(
        [[float(votes[rater]) if rater in votes else None for votes in shared.values()] for rater in raters],
        index=raters,
        columns=list(shared),
        dtype=float,
    )
    estimate = evalica.alpha_bootstrap(table, distance="ordinal", n_resamples=RESAMPLES, random_state=seed)
    return Alpha(float(estimate.alpha), float(estimate.low), float(estimate.high), len(shared))


def cohen_kappa(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Cohen's kappa of two raters' categories; None if both always gave the same category."""
    total = len(pairs)
    if not total:
        return None
    same = sum(a == b for a, b in pairs) / total
    values = {value for pair in pairs for value in pair}
    by_chance = sum(
        (sum(a == value for a, _ in pairs) / total) * (sum(b == value for _, b in pairs) / total) for value in values
    )
    return None if by_chance >= 1 else (same - by_chance) / (1 - by_chance)


def winner(verdict: str) -> int:
    """1 for a, -1 for b, 0 for neither."""
    strength = STRENGTH[verdict]
    return (strength > 0) - (strength < 0)


def kappas(ratings: Iterable[Rating]) -> list[tuple[str, str, float | None, int]]:
    """(rater, rater, kappa of the winners, shared items) of every two raters who share enough items."""
    votes: dict[str, dict[int, int]] = defaultdict(dict)
    for rating in counted(ratings):
        votes[rating.rater][rating.item_id] = winner(rating.verdict)
    rows = []
    for first, second in combinations(sorted(votes, key=natural), 2):
        shared = votes[first].keys() & votes[second].keys()
        if len(shared) >= FEWEST_SHARED:
            pairs = [(votes[first][name], votes[second][name]) for name in sorted(shared)]
            rows.append((first, second, cohen_kappa(pairs), len(shared)))
    return rows


def rater_reports(ratings: Sequence[Rating], gold: dict[int, str]) -> list[RaterReport]:
    """One report per rater; `gold` has the right verdict of each gold item."""
    from align.data.quality.agreement import wilson

    by_rater: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_rater[rating.rater].append(rating)
    reports = []
    for rater in sorted(by_rater, key=natural):
        own = by_rater[rater]
        shown = [
            winner(TURNED[rating.verdict] if rating.flipped else rating.verdict)
            for rating in own
            if rating.kind != "import"
        ]
        for_left, for_either = sum(side > 0 for side in shown), sum(side != 0 for side in shown)
        low, high = wilson(for_left, for_either)
        times = [rating.milliseconds / 1000 for rating in own if rating.milliseconds]
        reports.append(
            RaterReport(
                rater=rater,
                ratings=len(own),
                left=for_left / for_either if for_either else None,
                left_low=low,
                left_high=high,
                seconds=median(times) if times else None,
                gold=gold_score(own, gold),
                repeats=_repeats(own),
                ties=sum(winner(rating.verdict) == 0 for rating in own) / len(own),
                flags=sum(rating.flag for rating in own),
            )
        )
    return reports


def gold_score(ratings: Iterable[Rating], gold: dict[int, str]) -> tuple[int, int]:
    """(gold items judged right, gold items judged); only the winner is compared, not the strength."""
    judged = [
        (rating.verdict, gold[rating.item_id])
        for rating in ratings
        if rating.kind == "gold" and rating.item_id in gold
    ]
    return sum(_agrees(verdict, right) for verdict, right in judged), len(judged)


def _agrees(verdict: str, right: str) -> bool:
    if right in ("both_bad", "both_good"):
        return verdict == right
    return winner(verdict) == winner(right) and verdict not in ("both_bad", "both_good")


def _repeats(ratings: Iterable[Rating]) -> tuple[int, int]:
    ratings = list(ratings)
    first = {rating.item_id: winner(rating.verdict) for rating in ratings if rating.kind == "main"}
    again = [rating for rating in ratings if rating.kind == "repeat" and rating.item_id in first]
    return sum(winner(rating.verdict) == first[rating.item_id] for rating in again), len(again)


def natural(handle: str) -> tuple[int, str]:
    """Sorts r2 before r10."""
    number = handle.lstrip("r")
    return (int(number), handle) if number.isdigit() else (1 << 30, handle)

"""How far raters agree: with each other, with themselves, with gold items; and which side they lean to.

evalica computes Krippendorff's alpha; verdicts are ordinal, from `b` (-2) to `a` (2), with `both_bad` and `both_good`
in the middle beside `tie`. Imported when asked: it brings pandas, which takes a second.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from align.review.schemas import STRENGTH, TURNED
from align.review.store.ratings import Rating

RESAMPLES = 1000
FEWEST_SHARED = 5  # items that two raters share before their kappa is told


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha with its 95% bootstrap interval; 1 is perfect, 0 is chance."""

    value: float
    low: float
    high: float
    items: int  # with two ratings or more


@dataclass(frozen=True)
class RaterReport:
    """How one person rates."""

    rater: str
    ratings: int
    left: float | None  # share of verdicts for the left side, among those for either
    left_low: float
    left_high: float
    seconds: float | None  # median of an item
    gold: tuple[int, int]  # right, of
    repeats: tuple[int, int]  # the same winner again, of
    ties: float  # share of tie, both_bad and both_good
    flags: int


def counted(ratings: Iterable[Rating]) -> list[Rating]:
    """The ratings that speak about an item: not gold, not repeats."""
    return [one for one in ratings if one.kind in ("main", "import")]


def krippendorff(ratings: Iterable[Rating], *, seed: int = 0) -> Alpha | None:
    """Ordinal alpha; None where no item has two ratings, or all ratings are the same and chance is all there is."""
    by_item: dict[int, dict[str, int]] = defaultdict(dict)
    for one in counted(ratings):
        by_item[one.item_id][one.rater] = STRENGTH[one.verdict]
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
    found = evalica.alpha_bootstrap(table, distance="ordinal", n_resamples=RESAMPLES, random_state=seed)
    return Alpha(float(found.alpha), float(found.low), float(found.high), len(shared))


def cohen_kappa(pairs: Sequence[tuple[int, int]]) -> float | None:
    """Cohen's kappa of two raters' categories; None where both always say the same one thing."""
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
    """(rater, rater, kappa of who won, items they share) of every two raters who share enough."""
    votes: dict[str, dict[int, int]] = defaultdict(dict)
    for one in counted(ratings):
        votes[one.rater][one.item_id] = winner(one.verdict)
    found = []
    for first, second in combinations(sorted(votes, key=natural), 2):
        shared = votes[first].keys() & votes[second].keys()
        if len(shared) >= FEWEST_SHARED:
            pairs = [(votes[first][name], votes[second][name]) for name in sorted(shared)]
            found.append((first, second, cohen_kappa(pairs), len(shared)))
    return found


def rater_reports(ratings: Sequence[Rating], gold: dict[int, str]) -> list[RaterReport]:
    """One report a rater; `gold` has the right verdict of gold items."""
    from align.data.quality.agreement import wilson

    by_rater: dict[str, list[Rating]] = defaultdict(list)
    for one in ratings:
        by_rater[one.rater].append(one)
    found = []
    for rater in sorted(by_rater, key=natural):
        mine = by_rater[rater]
        shown = [winner(TURNED[one.verdict] if one.flipped else one.verdict) for one in mine if one.kind != "import"]
        for_left, for_either = sum(side > 0 for side in shown), sum(side != 0 for side in shown)
        low, high = wilson(for_left, for_either)
        times = [one.milliseconds / 1000 for one in mine if one.milliseconds]
        found.append(
            RaterReport(
                rater=rater,
                ratings=len(mine),
                left=for_left / for_either if for_either else None,
                left_low=low,
                left_high=high,
                seconds=median(times) if times else None,
                gold=gold_score(mine, gold),
                repeats=_repeats(mine),
                ties=sum(winner(one.verdict) == 0 for one in mine) / len(mine),
                flags=sum(one.flag for one in mine),
            )
        )
    return found


def gold_score(ratings: Iterable[Rating], gold: dict[int, str]) -> tuple[int, int]:
    """(gold items judged right, gold items judged): the winner counts, not how strongly."""
    judged = [(one.verdict, gold[one.item_id]) for one in ratings if one.kind == "gold" and one.item_id in gold]
    return sum(_agrees(said, right) for said, right in judged), len(judged)


def _agrees(said: str, right: str) -> bool:
    if right in ("both_bad", "both_good"):
        return said == right
    return winner(said) == winner(right) and said not in ("both_bad", "both_good")


def _repeats(ratings: Iterable[Rating]) -> tuple[int, int]:
    ratings = list(ratings)
    first = {one.item_id: winner(one.verdict) for one in ratings if one.kind == "main"}
    again = [one for one in ratings if one.kind == "repeat" and one.item_id in first]
    return sum(winner(one.verdict) == first[one.item_id] for one in again), len(again)


def natural(handle: str) -> tuple[int, str]:
    """Sorts r2 before r10."""
    number = handle.lstrip("r")
    return (int(number), handle) if number.isdigit() else (1 << 30, handle)

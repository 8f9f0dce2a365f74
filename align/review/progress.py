"""What admins see of a campaign: its progress, how far raters agree, and which models they prefer."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from align.review import agreement, ranking
from align.review.agreement import Alpha, RaterReport
from align.review.ranking import Place
from align.review.schemas import VERDICTS
from align.review.store import ratings as events
from align.review.store.campaigns import Campaign
from align.review.store.ratings import Rating
from align.review.tables import assignment, item

POINTS = 100  # of the plot of ratings over time


@dataclass(frozen=True)
class Dispute:
    """An item whose raters disagree about the winner, or that was flagged."""

    item_id: int
    votes: list[Rating]
    verdict: str | None  # an admin's, if there is one
    flagged_by: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """Everything on the progress page."""

    items: int
    gold: int
    complete: int  # items with as many ratings as the overlap asks for
    ratings: int  # that count: neither gold nor repeats
    wanted: int
    leases: int
    skips: int
    flags: int  # items
    raters: list[RaterReport]
    verdicts: list[tuple[str, int]]
    growth: list[tuple[float, int]]
    alpha: Alpha | None
    kappas: list[tuple[str, str, float | None, int]]
    places: list[Place]
    control: float | None  # share of ratings on items of the random arm
    disputes: list[Dispute]


def overview(tx: sa.Connection, campaign: Campaign) -> Overview:
    """The campaign's numbers as they are now."""
    standing = events.current(tx, campaign.id)
    rows = tx.execute(
        sa.select(item.c.id, item.c.model_a, item.c.model_b, item.c.arm, item.c.gold).where(
            item.c.campaign_id == campaign.id
        )
    ).all()
    items = {row.id: row for row in rows}
    gold = {row.id: row.gold for row in rows if row.gold}
    counted = agreement.counted(standing)
    per_item = Counter(rating.item_id for rating in counted)
    overlap = campaign.settings.overlap
    states = dict(
        tx.execute(
            sa.select(assignment.c.state, sa.func.count())
            .where(assignment.c.campaign_id == campaign.id)
            .group_by(assignment.c.state)
        ).all()
    )
    arms = Counter(items[rating.item_id].arm for rating in counted)
    verdicts = Counter(rating.verdict for rating in counted)
    flags = events.flags(tx, campaign.id)
    return Overview(
        items=len(rows) - len(gold),
        gold=len(gold),
        complete=sum(per_item[name] >= overlap for name in items if name not in gold),
        ratings=len(counted),
        wanted=overlap * (len(rows) - len(gold)),
        leases=states.get("leased", 0),
        skips=states.get("skipped", 0),
        flags=len(flags),
        raters=agreement.rater_reports(standing, gold),
        verdicts=[(name.replace("_", " "), verdicts[name]) for name in VERDICTS],
        growth=_growth(counted),
        alpha=agreement.krippendorff(counted),
        kappas=agreement.kappas(counted),
        places=ranking.bradley_terry(games(counted, items)),
        control=arms["random"] / len(counted) if counted and campaign.settings.strategy == "uncertain" else None,
        disputes=disputes(counted, events.adjudicated(tx, campaign.id), flags),
    )


def games(counted: Sequence[Rating], items: dict[int, sa.Row]) -> list[tuple[str, str, float]]:
    """The games that the ranking is computed from: (model, model, share of the win for the first)."""
    return [
        (row.model_a, row.model_b, 0.5 + agreement.winner(rating.verdict) / 2)
        for rating in counted
        if (row := items[rating.item_id]).model_a and row.model_b
    ]


def disputes(
    counted: Sequence[Rating], adjudicated: Mapping[int, str], flags: Mapping[int, Sequence[str]]
) -> list[Dispute]:
    """Items whose raters disagree about the winner, and flagged items; undecided ones first."""
    by_item: dict[int, list[Rating]] = defaultdict(list)
    for rating in counted:
        by_item[rating.item_id].append(rating)
    every = [
        Dispute(name, by_item.get(name, []), adjudicated.get(name), tuple(flags.get(name, ())))
        for name in by_item.keys() | flags.keys()
        if name in flags or _spread(by_item[name])
    ]
    return sorted(
        every, key=lambda item: (item.verdict is not None, not item.flagged_by, -_spread(item.votes), item.item_id)
    )


def _spread(votes: Sequence[Rating]) -> int:
    sides = [agreement.winner(rating.verdict) for rating in votes]
    return max(sides, default=0) - min(sides, default=0)


def _growth(counted: Sequence[Rating]) -> list[tuple[float, int]]:
    times = sorted(rating.at for rating in counted)
    step = max(1, len(times) // POINTS)
    points = [
        (at, number) for number, at in enumerate(times, start=1) if number % step == 0 or number in (1, len(times))
    ]
    return [(times[0], 0), *points] if times else []

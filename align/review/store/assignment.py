"""Who rates what next.

An item is leased to a rater for a while; what is not rated by then is free again. `item.open` counts the ratings that
are still to be given out, leases taken off, so an item never gets more than the campaign's overlap. A rater has at
most one assignment of a kind with an item, so nobody sees one twice, except in a repeat, which is there for that.

Every choice is drawn from the campaign's seed, the rater and the count of items this rater was given: the same
campaign again gives the same items in the same order and the same sides.
"""

import random
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from align.review.refusals import NotFound
from align.review.store.campaigns import Campaign
from align.review.store.people import Person
from align.review.tables import assignment, item, membership

REPEAT_AFTER = 10  # items rated before one of them comes again
_ARMS = ("random", "uncertain")


@dataclass(frozen=True)
class Assignment:
    """An item in the hands of a rater."""

    id: int
    item_id: int
    kind: str  # main, gold, repeat
    flipped: bool
    state: str  # leased, done, skipped, expired
    prompt: Any
    a: Any
    b: Any


_ASSIGNMENT = (
    assignment.c.id,
    assignment.c.item_id,
    assignment.c.kind,
    assignment.c.flipped,
    assignment.c.state,
    item.c.prompt,
    item.c.a,
    item.c.b,
)


def lock_member(tx: sa.Connection, campaign_id: int, person_id: int) -> sa.Row:
    """This rater's row in the campaign, held until the transaction ends: one thing at a time for one rater.

    Raises:
        NotFound: the person does not belong to the campaign.
    """
    where = (membership.c.campaign_id == campaign_id, membership.c.person_id == person_id)
    row = tx.execute(sa.select(membership).where(*where).with_for_update()).first()
    if row is None:
        raise NotFound()
    return row


def own_assignment(tx: sa.Connection, assignment_id: int, campaign_id: int, person_id: int) -> Assignment:
    """Raises NotFound for anything that was not given to this person in this campaign."""
    found = (
        sa.select(*_ASSIGNMENT)
        .join(item)
        .where(
            assignment.c.id == assignment_id,
            assignment.c.person_id == person_id,
            assignment.c.campaign_id == campaign_id,
        )
    )
    row = tx.execute(found).first()
    if row is None:
        raise NotFound()
    return Assignment(*row)


def take_next(tx: sa.Connection, into: Campaign, rater: Person, *, now: float) -> Assignment | None:
    """What the rater holds, else a new item; None where there is nothing for this rater now."""
    member = lock_member(tx, into.id, rater.id)
    free_expired(tx, into.id, now)
    held = sa.select(*_ASSIGNMENT).join(item).where(*_mine(into.id, rater.id), assignment.c.state == "leased")
    if row := tx.execute(held.order_by(assignment.c.issued, assignment.c.id).limit(1)).first():
        return Assignment(*row)
    if into.state != "open":
        return None
    draw = random.Random(f"{into.settings.seed}/{into.name}/{rater.handle}/{member.issued}")
    chosen = _choose(tx, into, rater, member, draw)
    if chosen is None:
        return None
    row, kind = chosen
    # A repeat is shown the other way round.
    flipped = draw.random() < 0.5 if kind != "repeat" else not row.flipped
    lease = {"state": "leased", "issued": now, "expires": now + into.settings.lease}
    number = tx.execute(
        sa.insert(assignment)
        .values(campaign_id=into.id, item_id=row.id, person_id=rater.id, kind=kind, flipped=flipped, **lease)
        .returning(assignment.c.id)
    ).scalar_one()
    moved: dict[str, Any] = {"issued": member.issued + 1}
    if kind == "main":
        tx.execute(sa.update(item).where(item.c.id == row.id).values(open=item.c.open - 1))
        moved[f"{row.arm}_cursor"] = row.rank
    where = (membership.c.campaign_id == into.id, membership.c.person_id == rater.id)
    tx.execute(sa.update(membership).where(*where).values(**moved))
    return Assignment(number, row.id, kind, flipped, "leased", row.prompt, row.a, row.b)


def free_expired(tx: sa.Connection, campaign_id: int, now: float) -> None:
    """Take back what was leased for too long."""
    old = sa.select(assignment.c.id).where(
        assignment.c.campaign_id == campaign_id, sa.text("assignment.state = 'leased'"), assignment.c.expires < now
    )
    found = list(tx.execute(old.limit(100).with_for_update(skip_locked=True)).scalars())
    if not found:
        return
    gone = sa.update(assignment).where(assignment.c.id.in_(found), assignment.c.state == "leased")
    rows = tx.execute(gone.values(state="expired").returning(assignment.c.item_id, assignment.c.kind)).all()
    for item_id, kind in sorted(rows):
        if kind == "main":
            give_back(tx, item_id)


def give_back(tx: sa.Connection, item_id: int) -> None:
    """One rating more to be given out."""
    tx.execute(sa.update(item).where(item.c.id == item_id).values(open=item.c.open + 1))


def take_again(tx: sa.Connection, item_id: int) -> bool:
    """Take one of the ratings still to be given out, if there is one left."""
    taken = sa.update(item).where(item.c.id == item_id, item.c.open > 0).values(open=item.c.open - 1)
    return tx.execute(taken).rowcount == 1


def set_assignment(tx: sa.Connection, assignment_id: int, state: str, **values: Any) -> None:
    tx.execute(sa.update(assignment).where(assignment.c.id == assignment_id).values(state=state, **values))


def count_done(tx: sa.Connection, into: Campaign, rater: Person) -> int:
    """Items this rater has rated."""
    done = sa.select(sa.func.count()).where(*_mine(into.id, rater.id), assignment.c.state == "done")
    return tx.execute(done).scalar_one()


def count_left(tx: sa.Connection, into: Campaign, rater: Person) -> int:
    """Items that are still there for this rater; all open items are looked at, so ask once a page."""
    mine = (item.c.campaign_id == into.id, sa.text("item.open > 0"), *_unseen(rater, "main"))
    left = tx.execute(sa.select(sa.func.count()).select_from(item).where(*mine)).scalar_one()
    held = sa.select(sa.func.count()).where(*_mine(into.id, rater.id), assignment.c.state == "leased")
    return left + tx.execute(held).scalar_one()


def _mine(campaign_id: int, person_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    return assignment.c.person_id == person_id, assignment.c.campaign_id == campaign_id


def _choose(
    tx: sa.Connection, into: Campaign, rater: Person, member: sa.Row, draw: random.Random
) -> tuple[sa.Row, str] | None:
    """(the item, the kind of assignment), by the campaign's shares."""
    if draw.random() < into.settings.gold and (row := _gold(tx, into, rater)):
        return row, "gold"
    if draw.random() < into.settings.repeats and member.issued >= REPEAT_AFTER and (row := _repeat(tx, into, rater)):
        return row, "repeat"
    arms = _ARMS
    if into.settings.strategy == "uncertain" and draw.random() >= into.settings.control:
        arms = _ARMS[::-1]
    for start in (None, -1.0):
        for arm in arms:
            cursor = getattr(member, f"{arm}_cursor")
            if start is not None and cursor == start:
                continue
            if row := _from_arm(tx, into, rater, arm, cursor if start is None else start):
                return row, "main"
    return None


_ITEM = (item.c.id, item.c.prompt, item.c.a, item.c.b, item.c.arm, item.c.rank)


def _unseen(rater: Person, kind: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Neither given to the rater before nor written by them."""
    given = sa.exists().where(
        assignment.c.item_id == item.c.id, assignment.c.person_id == rater.id, assignment.c.kind == kind
    )
    written = [sa.func.coalesce(side, "") != rater.handle for side in (item.c.author_a, item.c.author_b)]
    return ~given, *written


def _from_arm(tx: sa.Connection, into: Campaign, rater: Person, arm: str, cursor: float) -> sa.Row | None:
    # Written out: a partial index is used only where the query says its condition in these words.
    is_open = sa.text("item.open > 0")
    found = (
        sa.select(*_ITEM)
        .where(item.c.campaign_id == into.id, item.c.arm == arm, is_open, item.c.rank > cursor)
        .where(*_unseen(rater, "main"))
        .order_by(item.c.rank)
        .limit(1)
    )
    return tx.execute(found.with_for_update(skip_locked=True, of=item)).first()


def _gold(tx: sa.Connection, into: Campaign, rater: Person) -> sa.Row | None:
    found = (
        sa.select(*_ITEM)
        .where(item.c.campaign_id == into.id, sa.text("item.gold is not null"))
        .where(*_unseen(rater, "gold"))
        .order_by(item.c.rank)
        .limit(1)
    )
    return tx.execute(found).first()


def _repeat(tx: sa.Connection, into: Campaign, rater: Person) -> sa.Row | None:
    """The item rated longest ago that was not repeated yet, with the sides it had."""
    again = assignment.alias()
    repeated = sa.exists().where(
        again.c.item_id == assignment.c.item_id, again.c.person_id == rater.id, again.c.kind == "repeat"
    )
    found = (
        sa.select(*_ITEM, assignment.c.flipped)
        .join_from(assignment, item)
        .where(*_mine(into.id, rater.id), assignment.c.kind == "main", assignment.c.state == "done", ~repeated)
        .order_by(assignment.c.id)
        .limit(1)
    )
    return tx.execute(found).first()

"""Which rater gets which item next.

An item is leased to a rater for a while; if it is not rated by then, it is free again. `item.open` counts the ratings
that are still to be assigned, without those that are leased, so an item never gets more than the campaign's overlap. A
rater has at most one assignment of each kind for an item, so nobody sees an item twice except as a repeat.

Every choice is drawn from the campaign's seed, the rater and the number of items this rater has received: the same
campaign gives the same items in the same order with the same sides again.

The statements at the bottom are built once, because they run for every rating.
"""

import random
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from align.review.errors import Conflict, NotFound
from align.review.store.campaigns import Campaign
from align.review.store.people import Person
from align.review.tables import assignment, event, item, membership

REPEAT_AFTER = 10  # items that a rater receives before the first repeat
BEFORE_ALL = -1.0  # every rank is above
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
    tools: Any
    again: bool = False  # it was rated, and the rating was undone


def lock_member(tx: sa.Connection, campaign_id: int, person_id: int) -> sa.Row:
    """This rater's row in the campaign, locked until the transaction ends, so that a rater's requests run in turn.

    Raises:
        NotFound: the person does not belong to the campaign.
    """
    row = tx.execute(_MEMBER, {"campaign": campaign_id, "person": person_id}).first()
    if row is None:
        raise NotFound()
    return row


@dataclass(frozen=True)
class Earlier:
    """The event that an idempotency key has made before."""

    kind: str
    campaign_id: int
    item_id: int
    assignment_id: int | None
    verdict: str | None
    answers: dict[str, str] | None
    reason: str | None
    flag: bool

    def check(self, *kinds: str, **values: Any) -> None:
        """Raises Conflict where the key was used for another kind of request, or with other values."""
        if self.kind not in kinds or any(getattr(self, name) != value for name, value in values.items()):
            raise Conflict("key_reused")


def own_assignment(
    tx: sa.Connection, assignment_id: int, campaign_id: int, person_id: int, key: str
) -> tuple[Assignment, Earlier | None]:
    """An assignment of this person, and the event that their `key` has made before.

    Raises:
        NotFound: it was not given to this person in this campaign.
    """
    values = {"campaign": campaign_id, "person": person_id, "assignment": assignment_id, "key": key}
    row = tx.execute(_OWN, values).first()
    if row is None:
        raise NotFound()
    columns = len(_ASSIGNMENT)
    return Assignment(*row[:columns]), None if row[columns] is None else Earlier(*row[columns:])


def find_event(tx: sa.Connection, person_id: int, key: str) -> Earlier | None:
    """The event that a person's idempotency key has made."""
    row = tx.execute(_BY_KEY, {"person": person_id, "key": key}).first()
    return Earlier(*row) if row else None


def take_next(tx: sa.Connection, campaign: Campaign, rater: Person, *, now: float) -> Assignment | None:
    """The item that the rater has now, else a new one; None if there is nothing for this rater."""
    member = lock_member(tx, campaign.id, rater.id)
    leases = tx.execute(_LEASES, {"campaign": campaign.id, "person": rater.id, "now": now}).all()
    if any(lease.expires < now for lease in leases):
        free_expired(tx, campaign.id, now)
    if any(lease.person_id == rater.id and lease.expires >= now for lease in leases):
        return Assignment(*tx.execute(_HELD, {"campaign": campaign.id, "person": rater.id}).first())
    if campaign.state != "open":
        return None
    draw = random.Random(f"{campaign.settings.seed}/{campaign.name}/{rater.handle}/{member.issued}")
    chosen = _choose(tx, campaign, rater, member, draw)
    if chosen is None:
        return None
    row, kind = chosen
    # A repeat is shown with the sides exchanged.
    flipped = draw.random() < 0.5 if kind != "repeat" else not row.flipped
    values = {"campaign_id": campaign.id, "item_id": row.id, "person_id": rater.id, "kind": kind, "flipped": flipped}
    lease = {"state": "leased", "issued": now, "expires": now + campaign.settings.lease}
    number = tx.execute(_GIVE, values | lease).scalar_one()
    moved = {"random": member.random_cursor, "uncertain": member.uncertain_cursor}
    if kind == "main":
        tx.execute(_OPEN, {"number": row.id, "change": -1})
        moved[row.arm] = row.rank
    tx.execute(_MOVE, {"campaign": campaign.id, "person": rater.id, "count": member.issued + 1, **moved})
    return Assignment(number, row.id, kind, flipped, "leased", row.prompt, row.a, row.b, row.tools)


def free_expired(tx: sa.Connection, campaign_id: int, now: float) -> None:
    """End the leases that have run out."""
    old = sa.select(assignment.c.id).where(
        assignment.c.campaign_id == campaign_id, sa.text("assignment.state = 'leased'"), assignment.c.expires < now
    )
    expired = list(tx.execute(old.limit(100).with_for_update(skip_locked=True)).scalars())
    if not expired:
        return
    freed = sa.update(assignment).where(assignment.c.id.in_(expired), assignment.c.state == "leased")
    rows = tx.execute(freed.values(state="expired").returning(assignment.c.item_id, assignment.c.kind)).all()
    for item_id, kind in sorted((row.item_id, row.kind) for row in rows):
        if kind == "main":
            give_back(tx, item_id)


def give_back(tx: sa.Connection, item_id: int) -> None:
    """Make one more rating of an item available."""
    tx.execute(_OPEN, {"number": item_id, "change": 1})


def take_away(tx: sa.Connection, item_id: int) -> None:
    """Make one rating fewer available: it was made elsewhere."""
    tx.execute(_OPEN, {"number": item_id, "change": -1})


def take_again(tx: sa.Connection, item_id: int) -> bool:
    """Take one of the available ratings, if there is one."""
    taken = sa.update(item).where(item.c.id == item_id, item.c.open > 0).values(open=item.c.open - 1)
    return tx.execute(taken).rowcount == 1


def set_state(tx: sa.Connection, assignment_id: int, state: str) -> None:
    tx.execute(_STATE, {"number": assignment_id, "becomes": state})


def lease_again(tx: sa.Connection, assignment_id: int, expires: float) -> None:
    """Give an assignment back to its rater. With the earliest time of issue it comes before their other items."""
    again = sa.update(assignment).where(assignment.c.id == assignment_id)
    tx.execute(again.values(state="leased", issued=0.0, expires=expires))


def count_done(tx: sa.Connection, campaign: Campaign, rater: Person) -> int:
    """Items this rater has rated."""
    return tx.execute(_DONE, {"campaign": campaign.id, "person": rater.id}).scalar_one()


def count_left(tx: sa.Connection, campaign: Campaign, rater: Person) -> int:
    """Items that are left for this rater. This reads all open items, so call it once per page."""
    own = {"campaign": campaign.id, "person": rater.id}
    left = tx.execute(_LEFT, {**own, "handle": rater.handle, "of_kind": "main"}).scalar_one()
    return left + (tx.execute(_HELD, own).first() is not None)


def _choose(
    tx: sa.Connection, campaign: Campaign, rater: Person, member: sa.Row, draw: random.Random
) -> tuple[sa.Row, str] | None:
    """(the item, the kind of assignment), by the campaign's shares."""
    own = {"campaign": campaign.id, "person": rater.id, "handle": rater.handle}
    if draw.random() < campaign.settings.gold and (row := tx.execute(_GOLD, {**own, "of_kind": "gold"}).first()):
        return row, "gold"
    if (
        draw.random() < campaign.settings.repeats
        and member.issued >= REPEAT_AFTER
        and (row := tx.execute(_REPEAT, {"campaign": campaign.id, "person": rater.id}).first())
    ):
        return row, "repeat"
    arms = _ARMS
    if campaign.settings.strategy == "random":
        arms = ("random",)
    elif draw.random() >= campaign.settings.control:
        arms = _ARMS[::-1]
    cursors = {"random": member.random_cursor, "uncertain": member.uncertain_cursor}
    # From the rater's position on, then from the start again: leases may have run out in the meantime.
    for start in (cursors, dict.fromkeys(cursors, BEFORE_ALL)):
        for arm in arms:
            values = {**own, "of_kind": "main", "in_arm": arm, "after": start[arm]}
            if (start is cursors or cursors[arm] > BEFORE_ALL) and (row := tx.execute(_NEXT, values).first()):
                return row, "main"
    return None


def _mine(table: sa.Table = assignment) -> tuple[sa.ColumnElement[bool], ...]:
    return table.c.person_id == sa.bindparam("person"), table.c.campaign_id == sa.bindparam("campaign")


_ASSIGNMENT = (
    *(assignment.c[name] for name in ("id", "item_id", "kind", "flipped", "state")),
    *(item.c[name] for name in ("prompt", "a", "b", "tools")),
    (assignment.c.issued == 0.0).label("again"),
)
_ITEM = tuple(item.c[name] for name in ("id", "prompt", "a", "b", "tools", "arm", "rank"))
# Neither assigned to the rater before nor written by them. The conditions of partial indexes are written as text: a
# database uses such an index only if the query states its condition in the same words.
_UNSEEN = (
    item.c.campaign_id == sa.bindparam("campaign"),
    ~sa.exists().where(
        assignment.c.item_id == item.c.id,
        assignment.c.person_id == sa.bindparam("person"),
        assignment.c.kind == sa.bindparam("of_kind"),
    ),
    sa.func.coalesce(item.c.author_a, "") != sa.bindparam("handle"),
    sa.func.coalesce(item.c.author_b, "") != sa.bindparam("handle"),
)
_IS_OPEN, _IS_LEASED = sa.text("item.open > 0"), sa.text("assignment.state = 'leased'")
_MEMBER = sa.select(membership).where(*_mine(membership)).with_for_update()
_EARLIER = tuple(event.c[field.name] for field in fields(Earlier))
_HAS_KEY = sa.and_(event.c.person_id == sa.bindparam("person"), event.c.key == sa.bindparam("key"))
_BY_KEY = sa.select(*_EARLIER).where(_HAS_KEY)
_OWN = (
    sa.select(*_ASSIGNMENT, *_EARLIER)
    .join_from(assignment, item)
    .outerjoin(event, _HAS_KEY)
    .where(assignment.c.id == sa.bindparam("assignment"), *_mine())
)
_LEASES = sa.select(assignment.c.person_id, assignment.c.expires).where(
    assignment.c.campaign_id == sa.bindparam("campaign"),
    _IS_LEASED,
    sa.or_(assignment.c.expires < sa.bindparam("now"), assignment.c.person_id == sa.bindparam("person")),
)
_HELD = (
    sa.select(*_ASSIGNMENT)
    .join_from(assignment, item)
    .where(*_mine(), _IS_LEASED)
    .order_by(assignment.c.issued, assignment.c.id)
    .limit(1)
)
_NEXT = (
    sa.select(*_ITEM)
    .where(*_UNSEEN, _IS_OPEN, item.c.arm == sa.bindparam("in_arm"), item.c.rank > sa.bindparam("after"))
    .order_by(item.c.rank)
    .limit(1)
    .with_for_update(skip_locked=True, of=item)
)
_LEFT = sa.select(sa.func.count()).select_from(item).where(*_UNSEEN, _IS_OPEN)
_GOLD = sa.select(*_ITEM).where(*_UNSEEN, sa.text("item.gold is not null")).order_by(item.c.rank).limit(1)
_AGAIN = assignment.alias()
# The item that was rated first and not repeated yet, with its sides.
_REPEAT = (
    sa.select(*_ITEM, assignment.c.flipped)
    .join_from(assignment, item)
    .where(
        *_mine(),
        assignment.c.kind == "main",
        assignment.c.state == "done",
        ~sa.exists().where(
            _AGAIN.c.item_id == assignment.c.item_id,
            _AGAIN.c.person_id == sa.bindparam("person"),
            _AGAIN.c.kind == "repeat",
        ),
    )
    .order_by(assignment.c.id)
    .limit(1)
)
_GIVE = sa.insert(assignment).returning(assignment.c.id)
_OPEN = sa.update(item).where(item.c.id == sa.bindparam("number")).values(open=item.c.open + sa.bindparam("change"))
_STATE = sa.update(assignment).where(assignment.c.id == sa.bindparam("number")).values(state=sa.bindparam("becomes"))
_MOVE = (
    sa.update(membership)
    .where(*_mine(membership))
    .values(
        random_cursor=sa.bindparam("random"), uncertain_cursor=sa.bindparam("uncertain"), issued=sa.bindparam("count")
    )
)
_DONE = sa.select(sa.func.count()).where(*_mine(), assignment.c.state == "done")

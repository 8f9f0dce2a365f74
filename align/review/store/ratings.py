"""Ratings: events that are only appended, and the current ratings, which are derived from them.

The newest of rate, skip, undo and withdraw counts for an assignment. A request that is sent again with the same
idempotency key makes no second event; the key with any other request is a conflict.
"""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from align.review.errors import Conflict, Unfit
from align.review.schemas import TURNED, RatingIn, SkipIn
from align.review.store.assignment import (
    find_event,
    give_back,
    lease_again,
    lock_member,
    own_assignment,
    set_state,
    take_again,
)
from align.review.store.campaigns import Campaign
from align.review.store.people import Person
from align.review.tables import assignment, event, item, person

_APPEND = sa.insert(event).returning(event.c.id)
_COUNTED = ("rate", "skip", "undo", "withdraw")


@dataclass(frozen=True)
class Rating:
    """One person's current verdict on one item, with the sides of the item (not as they were shown)."""

    event: int
    item_id: int
    item: str  # its key
    rater: str  # the handle
    kind: str  # main, gold, repeat, import
    verdict: str
    answers: dict[str, str]
    reason: str
    flag: bool
    flipped: bool
    milliseconds: int | None
    at: float


def rate(
    tx: sa.Connection, campaign: Campaign, rater: Person, assignment_id: int, sent: RatingIn, *, now: float
) -> bool:
    """Store a rating; False if it came too late to count, because its item was given to another rater.

    Raises:
        NotFound: the item was not given to this rater.
        Conflict: it was rated or skipped already, or the key belongs to another request.
        Unfit: an answer that the rubric does not have.
    """
    lock_member(tx, campaign.id, rater.id)
    held, earlier = own_assignment(tx, assignment_id, campaign.id, rater.id, sent.key)
    verdict, answers = turned(campaign, held.flipped, sent.verdict, sent.answers)
    reason = sent.reason or None
    if earlier:
        same = {"verdict": verdict, "answers": answers, "reason": reason, "flag": sent.flag}
        earlier.check("rate", "late", assignment_id=held.id, **same)
        return earlier.kind == "rate"
    if problem := campaign.settings.check_answers(sent.answers):
        message, values = problem
        raise Unfit(message, **values)
    if held.state in ("done", "skipped"):
        raise Conflict("already_rated")
    counts = held.state == "leased" or held.kind != "main" or take_again(tx, held.item_id)
    append(
        tx,
        campaign,
        rater,
        item_id=held.item_id,
        assignment_id=held.id,
        kind="rate" if counts else "late",
        key=sent.key,
        verdict=verdict,
        answers=answers,
        reason=reason,
        flag=sent.flag,
        milliseconds=sent.milliseconds,
        at=now,
    )
    if counts:
        set_state(tx, held.id, "done")
    return counts


def skip(
    tx: sa.Connection, campaign: Campaign, rater: Person, assignment_id: int, sent: SkipIn, *, now: float
) -> None:
    """Give an item up; this rater does not get it again. Raises NotFound, Conflict."""
    lock_member(tx, campaign.id, rater.id)
    held, earlier = own_assignment(tx, assignment_id, campaign.id, rater.id, sent.key)
    if earlier:
        earlier.check("skip", assignment_id=held.id, reason=sent.reason, flag=sent.flag)
        return
    if held.state in ("done", "skipped"):
        raise Conflict("already_rated")
    append(
        tx,
        campaign,
        rater,
        item_id=held.item_id,
        assignment_id=held.id,
        kind="skip",
        key=sent.key,
        reason=sent.reason,
        flag=sent.flag,
        at=now,
    )
    set_state(tx, held.id, "skipped")
    if held.kind == "main" and held.state == "leased":
        give_back(tx, held.item_id)


def undo(tx: sa.Connection, campaign: Campaign, rater: Person, key: str, *, now: float) -> None:
    """Take back this rater's newest current rating or skip: its item is theirs again.

    Raises:
        Conflict: there is none, the item that was skipped has gone to others, or the key belongs to another request.
    """
    lock_member(tx, campaign.id, rater.id)
    if earlier := find_event(tx, rater.id, key):
        earlier.check("undo", campaign_id=campaign.id)
        return
    newest = (
        sa.select(assignment.c.id, assignment.c.item_id, assignment.c.kind, assignment.c.state)
        .join(event, event.c.assignment_id == assignment.c.id)
        .where(
            assignment.c.person_id == rater.id,
            assignment.c.campaign_id == campaign.id,
            assignment.c.state.in_(("done", "skipped")),
            event.c.kind.in_(("rate", "skip")),
        )
        .order_by(event.c.id.desc())
        .limit(1)
    )
    row = tx.execute(newest).first()
    if row is None:
        raise Conflict("nothing_to_undo")
    if row.state == "skipped" and row.kind == "main" and not take_again(tx, row.item_id):
        raise Conflict("skipped_item_gone")
    append(tx, campaign, rater, item_id=row.item_id, assignment_id=row.id, kind="undo", key=key, at=now)
    lease_again(tx, row.id, now + campaign.settings.lease)


def withdraw(tx: sa.Connection, campaign: Campaign, rater: Person, *, now: float) -> int:
    """Withdraw every current rating of a rater for good, and return their number. Other raters get the items."""
    standing = [rating for rating in current(tx, campaign.id) if rating.rater == rater.handle]
    for rating in standing:
        held = tx.execute(sa.select(event.c.assignment_id).where(event.c.id == rating.event)).scalar()
        key = f"withdraw:{rating.event}"  # with a colon, which no key that a browser sends has
        append(tx, campaign, rater, item_id=rating.item_id, assignment_id=held, kind="withdraw", key=key, at=now)
        if held is not None:
            set_state(tx, held, "withdrawn")
        if rating.kind in ("main", "import"):
            give_back(tx, rating.item_id)
    return len(standing)


def adjudicate(
    tx: sa.Connection,
    campaign: Campaign,
    admin: Person,
    item_id: int,
    verdict: str,
    reason: str,
    key: str,
    *,
    now: float,
) -> None:
    """Store an admin's verdict on an item; it replaces those of the raters in every export."""
    row = tx.execute(sa.select(item.c.id).where(item.c.id == item_id, item.c.campaign_id == campaign.id)).first()
    if row is None:
        raise Unfit("no_such_item")
    if earlier := find_event(tx, admin.id, key):
        earlier.check("adjudicate", item_id=item_id, verdict=verdict, reason=reason)
    else:
        append(
            tx, campaign, admin, item_id=item_id, kind="adjudicate", key=key, verdict=verdict, reason=reason, at=now
        )


def adjudicated(tx: sa.Connection, campaign_id: int) -> dict[int, str]:
    """item -> the newest verdict of an admin."""
    query = sa.select(event.c.item_id, event.c.verdict).where(
        event.c.campaign_id == campaign_id, event.c.kind == "adjudicate"
    )
    return {row.item_id: row.verdict for row in tx.execute(query.order_by(event.c.id))}


def current(tx: sa.Connection, campaign_id: int, *, until: int | None = None) -> list[Rating]:
    """The current ratings in the order of their events; `until` is the last event that counts."""
    conditions = [event.c.campaign_id == campaign_id]
    if until is not None:
        conditions.append(event.c.id <= until)
    query = (
        sa.select(
            event.c.id,
            event.c.item_id,
            item.c.key,
            person.c.handle,
            assignment.c.kind,
            event.c.verdict,
            event.c.answers,
            event.c.reason,
            event.c.flag,
            assignment.c.flipped,
            event.c.milliseconds,
            event.c.at,
        )
        .select_from(event)
        .join(item, item.c.id == event.c.item_id)
        .join(person, person.c.id == event.c.person_id)
        .outerjoin(assignment, assignment.c.id == event.c.assignment_id)
        .where(event.c.id.in_(_newest(*conditions)), event.c.kind == "rate")
        .order_by(event.c.id)
    )
    return [
        Rating(
            event=row.id,
            item_id=row.item_id,
            item=row.key,
            rater=row.handle,
            kind=row.kind or "import",
            verdict=row.verdict,
            answers=row.answers or {},
            reason=row.reason or "",
            flag=row.flag,
            flipped=bool(row.flipped),
            milliseconds=row.milliseconds,
            at=row.at,
        )
        for row in tx.execute(query)
    ]


def _newest(*conditions: sa.ColumnElement[bool]) -> sa.Select[tuple[int]]:
    """The event that counts for each assignment."""
    # Imported ratings have no assignment: each counts for itself until it is withdrawn.
    subject = sa.func.coalesce(event.c.assignment_id, -event.c.item_id)
    counting = (*conditions, event.c.kind.in_(_COUNTED))
    return sa.select(sa.func.max(event.c.id)).where(*counting).group_by(event.c.person_id, subject)


def last_event(tx: sa.Connection, campaign_id: int) -> int:
    """The newest event of a campaign, or 0; with it an export can be repeated."""
    return tx.execute(sa.select(sa.func.max(event.c.id)).where(event.c.campaign_id == campaign_id)).scalar() or 0


def flags(tx: sa.Connection, campaign_id: int) -> dict[int, list[str]]:
    """item -> the handles of raters who flagged it, in a rating, a skip or a rating that came late."""
    stands = sa.and_(event.c.id.in_(_newest(event.c.campaign_id == campaign_id)), event.c.kind.in_(("rate", "skip")))
    query = (
        sa.select(event.c.item_id, person.c.handle)
        .join(person, person.c.id == event.c.person_id)
        .where(event.c.campaign_id == campaign_id, event.c.flag.is_(True), sa.or_(stands, event.c.kind == "late"))
        .order_by(event.c.id)
    )
    flagged: dict[int, list[str]] = {}
    for row in tx.execute(query):
        flagged.setdefault(row.item_id, []).append(row.handle)
    return flagged


def previous(tx: sa.Connection, assignment_id: int) -> sa.Row | None:
    """The last rating of an assignment that is open again."""
    query = sa.select(event.c.verdict, event.c.answers, event.c.reason, event.c.flag).where(
        event.c.assignment_id == assignment_id, event.c.kind == "rate"
    )
    return tx.execute(query.order_by(event.c.id.desc()).limit(1)).first()


def turned(campaign: Campaign, flipped: bool, verdict: str, answers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Verdict and answers with the sides exchanged if they were shown so; applied twice, it changes nothing."""
    if not flipped:
        return verdict, answers
    sides = {question.id for question in campaign.settings.rubric if question.kind == "sides"}
    return TURNED[verdict], {name: TURNED.get(a, a) if name in sides else a for name, a in answers.items()}


def append(tx: sa.Connection, campaign: Campaign, person: Person, **values: Any) -> int:
    """Append one event and return its number."""
    blank = dict.fromkeys(("assignment_id", "verdict", "answers", "reason", "milliseconds"))
    row = {**blank, "campaign_id": campaign.id, "person_id": person.id, "flag": False, **values}
    return tx.execute(_APPEND, row).scalar_one()

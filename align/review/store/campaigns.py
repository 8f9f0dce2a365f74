"""Campaigns and the items in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from align.review.errors import Conflict, NotFound
from align.review.schemas import Settings
from align.review.tables import audit, campaign, event, item, membership


@dataclass(frozen=True)
class Campaign:
    """A set of items that people rate under one set of rules."""

    id: int
    name: str
    settings: Settings
    state: str  # open, paused, closed
    source: list[dict[str, Any]]  # the inputs its items came from, as a manifest records them


@dataclass(frozen=True)
class NewItem:
    """A pair to be rated."""

    key: str
    prompt: Any
    a: Any
    b: Any
    tools: Any = None
    model_a: str | None = None
    model_b: str | None = None
    author_a: str | None = None
    author_b: str | None = None
    margin: float | None = None
    gold: str | None = None
    arm: str = "random"
    rank: float = 0.0


_CAMPAIGN = (campaign.c.id, campaign.c.name, campaign.c.settings, campaign.c.state, campaign.c.source)


_ENTERED = (
    sa.select(*_CAMPAIGN)
    .join(membership)
    .where(campaign.c.name == sa.bindparam("named"), membership.c.person_id == sa.bindparam("person"))
)


def _campaign(row: sa.Row) -> Campaign:
    return Campaign(row.id, row.name, Settings.model_validate(row.settings), row.state, row.source)


def add_campaign(tx: sa.Connection, name: str, settings: Settings, *, now: float) -> Campaign:
    """Raises Conflict where the name is taken."""
    if find_campaign(tx, name) is not None:
        raise Conflict(f"there is a campaign {name} already")
    values = {"name": name, "settings": settings.model_dump(), "state": "open", "source": [], "created": now}
    made = tx.execute(sa.insert(campaign).values(values).returning(campaign.c.id)).scalar_one()
    return Campaign(made, name, settings, "open", [])


def find_campaign(tx: sa.Connection, name: str) -> Campaign | None:
    row = tx.execute(sa.select(*_CAMPAIGN).where(campaign.c.name == name)).first()
    return _campaign(row) if row else None


def get_campaign(tx: sa.Connection, name: str) -> Campaign:
    """Raises NotFound."""
    found = find_campaign(tx, name)
    if found is None:
        raise NotFound()
    return found


def entered(tx: sa.Connection, name: str, person_id: int) -> Campaign:
    """The campaign, for somebody who rates in it. Raises NotFound, the same where there is none."""
    row = tx.execute(_ENTERED, {"named": name, "person": person_id}).first()
    if row is None:
        raise NotFound()
    return _campaign(row)


def all_campaigns(tx: sa.Connection) -> list[Campaign]:
    return [_campaign(row) for row in tx.execute(sa.select(*_CAMPAIGN).order_by(campaign.c.id))]


def campaigns_of(tx: sa.Connection, person_id: int) -> list[Campaign]:
    """Those that a person may rate in."""
    joined = sa.select(*_CAMPAIGN).join(membership).where(membership.c.person_id == person_id)
    return [_campaign(row) for row in tx.execute(joined.order_by(campaign.c.id))]


def set_state(tx: sa.Connection, campaign_id: int, state: str) -> None:
    tx.execute(sa.update(campaign).where(campaign.c.id == campaign_id).values(state=state))


def settled(tx: sa.Connection, campaign_id: int) -> set[str]:
    """The settings that nobody can change any more: an order that items have, questions that were answered."""
    found = set()
    if count_items(tx, campaign_id):
        found |= {"strategy", "control", "seed"}
    said = sa.select(event.c.id).where(event.c.campaign_id == campaign_id, event.c.kind == "rate").limit(1)
    if tx.execute(said).first() is not None:
        found.add("rubric")
    return found


def set_settings(tx: sa.Connection, campaign_id: int, settings: Settings) -> dict[str, Any]:
    """New rules, and what they change: name -> [before, after].

    A larger overlap asks again about every item; a smaller one gives out nothing above it and takes nothing away.

    Raises:
        Conflict: one of them is settled.
    """
    row = sa.select(*_CAMPAIGN).where(campaign.c.id == campaign_id).with_for_update()
    into = _campaign(tx.execute(row).one())
    changed = changes(tx, into, settings)
    if "overlap" in changed:
        mine = (item.c.campaign_id == campaign_id, item.c.gold.is_(None))
        before, after = changed["overlap"]
        tx.execute(sa.update(item).where(*mine).values(open=item.c.open + after - before))
    tx.execute(sa.update(campaign).where(campaign.c.id == campaign_id).values(settings=settings.model_dump()))
    return changed


def changes(tx: sa.Connection, into: Campaign, settings: Settings) -> dict[str, list[Any]]:
    """What new rules would change: name -> [before, after].

    Raises:
        Conflict: one of them is settled.
    """
    before, after = into.settings.model_dump(), settings.model_dump()
    changed = {name: [before[name], value] for name, value in after.items() if before[name] != value}
    if late := sorted(changed.keys() & settled(tx, into.id)):
        why = "somebody has answered its questions" if "rubric" in late else "its items are in order"
        raise Conflict(f"{', '.join(late)} of {into.name} is settled: {why}; make a new campaign")
    return changed


def add_items(tx: sa.Connection, into: Campaign, items: Sequence[NewItem], source: dict[str, Any] | None) -> int:
    """Put items into a campaign, and say where they came from; how many were not there before."""
    known: set[str] = set()
    for start in range(0, len(items), 1000):
        keys = [made.key for made in items[start : start + 1000]]
        same = sa.select(item.c.key).where(item.c.campaign_id == into.id, item.c.key.in_(keys))
        known.update(tx.execute(same).scalars())
    rows = []
    for one in items:
        if one.key not in known:
            known.add(one.key)
            rows.append({**vars(one), "campaign_id": into.id, "open": 0 if one.gold else into.settings.overlap})
    for start in range(0, len(rows), 1000):
        tx.execute(sa.insert(item), rows[start : start + 1000])
    if source is not None and source["digest"] not in {one["digest"] for one in into.source}:
        row = sa.update(campaign).where(campaign.c.id == into.id)
        tx.execute(row.values(source=[*into.source, source]))
    return len(rows)


def count_items(tx: sa.Connection, campaign_id: int, *, gold: bool = True) -> int:
    """The items of a campaign; without `gold`, only those whose ratings count towards the campaign's goal."""
    query = sa.select(sa.func.count()).where(item.c.campaign_id == campaign_id)
    return tx.execute(query if gold else query.where(item.c.gold.is_(None))).scalar_one()


def note(
    tx: sa.Connection, person_id: int | None, action: str, target: str, detail: dict[str, Any], *, now: float
) -> None:
    """Write into the audit log who did what to what; None is the command line."""
    tx.execute(sa.insert(audit).values(at=now, person_id=person_id, action=action, target=target, detail=detail))


def notes(tx: sa.Connection, limit: int = 200) -> list[sa.Row]:
    """The newest lines of the audit log."""
    return list(tx.execute(sa.select(audit).order_by(audit.c.id.desc()).limit(limit)))

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
        raise Conflict(f"There is a campaign {name} already.")
    values = {"name": name, "settings": settings.model_dump(), "state": "open", "source": [], "created": now}
    number = tx.execute(sa.insert(campaign).values(values).returning(campaign.c.id)).scalar_one()
    return Campaign(number, name, settings, "open", [])


def find_campaign(tx: sa.Connection, name: str) -> Campaign | None:
    row = tx.execute(sa.select(*_CAMPAIGN).where(campaign.c.name == name)).first()
    return _campaign(row) if row else None


def get_campaign(tx: sa.Connection, name: str) -> Campaign:
    """Raises NotFound."""
    result = find_campaign(tx, name)
    if result is None:
        raise NotFound()
    return result


def entered(tx: sa.Connection, name: str, person_id: int) -> Campaign:
    """The campaign, for a member. Raises NotFound for others, as if there were none."""
    row = tx.execute(_ENTERED, {"named": name, "person": person_id}).first()
    if row is None:
        raise NotFound()
    return _campaign(row)


def all_campaigns(tx: sa.Connection) -> list[Campaign]:
    return [_campaign(row) for row in tx.execute(sa.select(*_CAMPAIGN).order_by(campaign.c.id))]


def campaigns_of(tx: sa.Connection, person_id: int) -> list[Campaign]:
    """The campaigns that a person is a member of."""
    joined = sa.select(*_CAMPAIGN).join(membership).where(membership.c.person_id == person_id)
    return [_campaign(row) for row in tx.execute(joined.order_by(campaign.c.id))]


def set_state(tx: sa.Connection, campaign_id: int, state: str) -> None:
    tx.execute(sa.update(campaign).where(campaign.c.id == campaign_id).values(state=state))


def settled(tx: sa.Connection, campaign_id: int) -> set[str]:
    """The settings that can no longer change: those that ordered the items, and questions that were answered."""
    names = set()
    if count_items(tx, campaign_id):
        names |= {"strategy", "control", "seed"}
    answered = sa.select(event.c.id).where(event.c.campaign_id == campaign_id, event.c.kind == "rate").limit(1)
    if tx.execute(answered).first() is not None:
        names.add("rubric")
    return names


def set_settings(tx: sa.Connection, campaign_id: int, settings: Settings) -> dict[str, Any]:
    """Store new settings, and return what they change: name -> [before, after].

    With a larger overlap raters are asked about every item again; with a smaller one, existing ratings stay.

    Raises:
        Conflict: one of the settings can no longer change.
    """
    row = sa.select(*_CAMPAIGN).where(campaign.c.id == campaign_id).with_for_update()
    current = _campaign(tx.execute(row).one())
    changed = changes(tx, current, settings)
    if "overlap" in changed:
        not_gold = (item.c.campaign_id == campaign_id, item.c.gold.is_(None))
        before, after = changed["overlap"]
        tx.execute(sa.update(item).where(*not_gold).values(open=item.c.open + after - before))
    tx.execute(sa.update(campaign).where(campaign.c.id == campaign_id).values(settings=settings.model_dump()))
    return changed


def changes(tx: sa.Connection, current: Campaign, settings: Settings) -> dict[str, list[Any]]:
    """What new settings would change: name -> [before, after].

    Raises:
        Conflict: one of the settings can no longer change.
    """
    before, after = current.settings.model_dump(), settings.model_dump()
    changed = {name: [before[name], value] for name, value in after.items() if before[name] != value}
    if fixed := sorted(changed.keys() & settled(tx, current.id)):
        reason = "its questions were answered" if "rubric" in fixed else "its items are ordered"
        raise Conflict(f"{', '.join(fixed)} of {current.name} can no longer change ({reason}); create a new campaign")
    return changed


def add_items(tx: sa.Connection, target: Campaign, items: Sequence[NewItem], source: dict[str, Any] | None) -> int:
    """Put items into a campaign, record their source, and return how many were new."""
    known: set[str] = set()
    for start in range(0, len(items), 1000):
        keys = [new_item.key for new_item in items[start : start + 1000]]
        same = sa.select(item.c.key).where(item.c.campaign_id == target.id, item.c.key.in_(keys))
        known.update(tx.execute(same).scalars())
    rows = []
    for new_item in items:
        if new_item.key not in known:
            known.add(new_item.key)
            rows.append(
                {**vars(new_item), "campaign_id": target.id, "open": 0 if new_item.gold else target.settings.overlap}
            )
    for start in range(0, len(rows), 1000):
        tx.execute(sa.insert(item), rows[start : start + 1000])
    if source is not None and source["digest"] not in {known_source["digest"] for known_source in target.source}:
        row = sa.update(campaign).where(campaign.c.id == target.id)
        tx.execute(row.values(source=[*target.source, source]))
    return len(rows)


def count_items(tx: sa.Connection, campaign_id: int, *, gold: bool = True) -> int:
    """The items of a campaign; without `gold`, only those whose ratings count towards the campaign's goal."""
    query = sa.select(sa.func.count()).where(item.c.campaign_id == campaign_id)
    return tx.execute(query if gold else query.where(item.c.gold.is_(None))).scalar_one()


def note(
    tx: sa.Connection, person_id: int | None, action: str, target: str, detail: dict[str, Any], *, now: float
) -> None:
    """Append to the audit log; a `person_id` of None stands for the command line."""
    tx.execute(sa.insert(audit).values(at=now, person_id=person_id, action=action, target=target, detail=detail))


def notes(tx: sa.Connection, limit: int = 200) -> list[sa.Row]:
    """The newest entries of the audit log."""
    return list(tx.execute(sa.select(audit).order_by(audit.c.id.desc()).limit(limit)))

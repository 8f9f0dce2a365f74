"""A rater withdraws their ratings: datasets that contain them are published again, and what was made of them is named.

Withdrawing comes first and is final. A version whose manifest cannot be read is reported: it may contain the ratings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from align.artifacts.manifest import MODEL_TYPES
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.errors import UserError
from align.review.database import Database
from align.review.export import UNPAIRED, Extract, Rules, export, extract
from align.review.schemas import Gates
from align.review.store import people, ratings
from align.review.store.campaigns import all_campaigns, find_campaign, note


class ExportNotes(BaseModel):
    """What the manifest of an exported dataset says about its export."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    campaign: str
    gates: Gates
    rules: Rules


@dataclass
class Recall:
    """What a recall did.

    Attributes:
        withdrawn: campaign -> ratings withdrawn there.
        tainted: dataset versions that contain ratings of the rater.
        replaced: the versions published without them.
        empty: a sentence for each dataset that could not be published again.
        derived: other datasets that were made from a tainted one, at any distance.
        models: models that were trained on a tainted one, at any distance.
        unread: a sentence for each version whose manifest cannot be read.
    """

    withdrawn: dict[str, int] = field(default_factory=dict)
    tainted: list[Version] = field(default_factory=list)
    replaced: list[Version] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    derived: list[Version] = field(default_factory=list)
    models: list[Version] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def recall(database: Database, store: Store, handle: str, *, now: float) -> Recall:
    """Withdraw every rating of a rater, end their access, and publish again what was exported with their ratings.

    Raises:
        UserError: there is no such rater.
    """
    done = Recall()

    def withdraw(tx: sa.Connection) -> None:
        rater = people.person_by_handle(tx, handle)
        if rater is None:
            known = ", ".join(person.handle for person in people.everybody(tx)[:20]) or "none"
            raise UserError(f"there is no rater {handle!r} (raters: {known})")
        for campaign in all_campaigns(tx):
            if count := ratings.withdraw(tx, campaign, rater, now=now):
                done.withdrawn[campaign.name] = count
        people.set_disabled(tx, rater.id, True)
        note(tx, None, "recall", handle, done.withdrawn, now=now)

    database.now(withdraw)
    versions, done.unread = _readable_versions(store)
    done.tainted = [version for version in versions if is_export(version) and handle in _raters(version)]
    for version in made_from(versions, done.tainted):
        if version.manifest.type in MODEL_TYPES:
            done.models.append(version)
        elif version.manifest.type == "dataset":
            done.derived.append(version)
    # The newest of each dataset; a preference dataset and its unpaired one come from one export.
    newest = {version.name.removesuffix(UNPAIRED): version for version in done.tainted}
    for name, version in newest.items():
        try:
            done.replaced += _export_again(database, store, name, version, handle)
        except UserError as error:
            done.empty.append(f"{name}: {error}")
    return done


def _export_again(database: Database, store: Store, name: str, version: Version, handle: str) -> list[Version]:
    """Publish what `version` was an export of. Raises UserError where that cannot be done."""
    try:
        notes = ExportNotes.model_validate(version.manifest.notes)
    except ValidationError:
        raise UserError(f"the manifest of {version.ref} does not say how it was exported; export it by hand") from None

    def look(tx: sa.Connection) -> Extract | None:
        campaign = find_campaign(tx, notes.campaign)
        return extract(tx, campaign) if campaign else None

    current = database.now(look)
    if current is None:
        raise UserError(
            f"{version.ref} was exported from the campaign {notes.campaign}, which is not in {database}; name its "
            "database: --database"
        )
    return export(store, name, current, gates=notes.gates, rules=notes.rules, recalled=[handle])


def made_from(versions: Sequence[Version], sources: Sequence[Version]) -> list[Version]:
    """The versions that were made from one of `sources`, directly or through others."""
    reached = {(version.ref, version.digest) for version in sources}
    descendants: list[Version] = []
    grown = True
    while grown:
        grown = False
        for version in versions:
            if (version.ref, version.digest) in reached:
                continue
            inputs = {(record.get("ref"), record.get("digest")) for _, record in version.manifest.each_input()}
            if inputs & reached:
                reached.add((version.ref, version.digest))
                descendants.append(version)
                grown = True
    return descendants


def is_export(version: Version) -> bool:
    """Whether a version is a dataset of ratings."""
    return version.manifest.type == "dataset" and version.manifest.notes.get("stage") == "review"


def _raters(version: Version) -> list[str]:
    """The pseudonyms behind an export. A manifest that was pulled from elsewhere may say anything."""
    raters = version.manifest.notes.get("raters")
    return raters if isinstance(raters, list) else []


def _readable_versions(store: Store) -> tuple[list[Version], list[str]]:
    """Every version with a readable manifest, and a sentence for each other one."""
    versions, unread = [], store.problems()
    for name, numbers in store.contents():
        for number in numbers:
            try:
                versions.append(store.version(name, number))
            except UserError as error:
                unread.append(str(error))
    return versions, unread

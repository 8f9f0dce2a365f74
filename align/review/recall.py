"""A rater takes ratings back: datasets with them get a version without, and the models trained on them are named."""

from dataclasses import dataclass, field

from align.artifacts.manifest import MODEL_TYPES
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.errors import UserError
from align.review.database import Database
from align.review.export import UNPAIRED, Rules, export, extract
from align.review.schemas import Gates
from align.review.store import people, ratings
from align.review.store.campaigns import all_campaigns, find_campaign, note


@dataclass
class Recall:
    """What a recall did."""

    withdrawn: dict[str, int] = field(default_factory=dict)  # campaign -> ratings taken back
    tainted: list[Version] = field(default_factory=list)  # dataset versions with ratings of that rater
    replaced: list[Version] = field(default_factory=list)  # the new ones
    empty: list[str] = field(default_factory=list)  # datasets of which nothing is left
    derived: list[Version] = field(default_factory=list)  # other data made from a tainted one: mixtures, scores
    models: list[Version] = field(default_factory=list)  # whatever was trained on a tainted one, at any distance


def recall(database: Database, store: Store, handle: str, *, now: float) -> Recall:
    """Withdraw every rating of a rater, shut the rater out, and export again what was exported with them.

    Raises:
        UserError: there is no such rater.
    """
    done = Recall()

    def withdraw(tx):  # noqa: ANN001, ANN202 - a unit of work
        rater = people.person_by_handle(tx, handle)
        if rater is None:
            known = ", ".join(one.handle for one in people.everybody(tx)[:20]) or "none"
            raise UserError(f"there is no rater {handle!r}; there are {known}")
        for into in all_campaigns(tx):
            if count := ratings.withdraw(tx, into, rater, now=now):
                done.withdrawn[into.name] = count
        people.set_disabled(tx, rater.id, True)
        note(tx, None, "recall", handle, done.withdrawn, now=now)

    database.now(withdraw)
    everything = [version for name in store.names() for version in store.versions(name)]
    done.tainted = [one for one in everything if handle in one.manifest.notes.get("raters", ()) and _is_export(one)]
    for one in made_from(everything, done.tainted):
        if one.manifest.type in MODEL_TYPES:
            done.models.append(one)
        elif one.manifest.type == "dataset":
            done.derived.append(one)
    newest = {one.name: one for one in done.tainted}
    exported: set[str] = set()
    for name, version in newest.items():
        base = name.removesuffix(UNPAIRED)
        if base in exported:
            continue
        exported.add(base)
        notes = version.manifest.notes

        def look(tx, campaign=notes["campaign"]):  # noqa: ANN001, ANN202 - a unit of work
            found = find_campaign(tx, campaign)
            return extract(tx, found) if found else None

        given = database.now(look)
        if given is None:
            raise UserError(
                f"{version.ref} was exported from campaign {notes['campaign']}, which is not in {database}; "
                "name the database it is in: --database"
            )
        gates, rules = Gates.model_validate(notes["gates"]), Rules(**notes["rules"])
        try:
            done.replaced += export(store, base, given, gates=gates, rules=rules, recalled=[handle])
        except UserError as error:
            done.empty.append(f"{base}: {error}")
    return done


def made_from(everything: list[Version], tainted: list[Version]) -> list[Version]:
    """The versions that were made from one of `tainted`, or from what was made from it, and so on."""
    reached = {(one.ref, one.digest) for one in tainted}
    found: list[Version] = []
    grown = True
    while grown:
        grown = False
        for version in everything:
            if (version.ref, version.digest) in reached:
                continue
            if any(
                (record.get("ref"), record.get("digest")) in reached for _, record in version.manifest.each_input()
            ):
                reached.add((version.ref, version.digest))
                found.append(version)
                grown = True
    return found


def _is_export(version: Version) -> bool:
    return version.manifest.type == "dataset" and version.manifest.notes.get("stage") == "review"

"""Garbage collection: which versions nobody needs, and taking them away so that no race loses one that somebody does.

Needed are the versions that an alias points at, that are pinned, that an unfinished run was started from, that are
younger than the grace period, and whatever those were made from. Nothing is deleted while a manifest cannot be read.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from align.artifacts.aliases import who
from align.artifacts.disk import explain_disk_errors, remove_tree, sync_folder, unique_name
from align.artifacts.refs import Ref
from align.artifacts.store import Store, utc_now
from align.artifacts.tombstones import COLLECTED, Removal, write_removal
from align.artifacts.version import Version
from align.errors import UserError

TRASH = ".trash-"
_LEFTOVERS = (TRASH, ".staging-", ".writing-", ".incoming-")
_HOURS = 3600.0


@dataclass
class Collection:
    """What `gc` would do.

    Attributes:
        remove: the versions to take away, in that order: nothing that stays was made from one of them.
        kept: ref -> why it stays.
        leftovers: hidden folders and files of publications, transfers and collections that died.
    """

    remove: list[Version] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    leftovers: list[Path] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of the versions to remove."""
        return sum(version.manifest.size for version in self.remove)


def plan_collection(
    store: Store, *, grace_days: float = 7, max_versions: int | None = None, max_gb: float | None = None
) -> Collection:
    """Decide what to remove, and change nothing.

    Without a budget every version that nobody needs goes. With `max_versions` (of each name) or `max_gb` (10^9 bytes,
    of the whole store) the oldest of them go until the budget is kept, and no more; what is needed stays even so.

    Raises:
        UserError: a manifest, or what an unfinished run was started from, cannot be read.
    """
    versions: dict[str, Version] = {}
    try:
        for name, numbers in store.contents():
            for number in numbers:
                version = store.version(name, number)
                versions[version.ref] = version
    except UserError as error:
        raise UserError(f"gc removes nothing while a manifest cannot be read: {error}") from None
    kept: dict[str, str] = {}
    for ref, why in _needed(store, versions, grace_days):
        _keep(store, ref, why, versions, kept)
    spare = [version for ref, version in versions.items() if ref not in kept]
    spare.sort(key=lambda version: (version.manifest.ended or "", version.ref))
    children: dict[str, set[str]] = {}
    for version in versions.values():
        for ref in _parents(store, version, versions):
            children.setdefault(ref, set()).add(version.ref)
    plan = Collection(kept=kept, leftovers=_leftovers(store, grace_days))
    left = dict(versions)
    # Children go before what they were made from, so that the lineage of what stays is whole at any moment.
    while chosen := _next(spare, left, children, max_versions, max_gb):
        spare.remove(chosen)
        del left[chosen.ref]
        plan.remove.append(chosen)
    for version in spare:
        kept[version.ref] = "within the budget"
    return plan


def collect(store: Store, plan: Collection) -> list[Version]:
    """Take away what the plan says, each version with a note of who did it; returns those that went.

    A version is hidden by a rename, then aliases and pins are looked at once more, and only then is it deleted:
    whoever moves an alias looks afterwards whether its version is there. Died in between, a version that is wanted is
    brought back by the next collection.
    """
    gone = []
    bring_back(store)
    for version in plan.remove:
        home = store.home(version.name)
        with explain_disk_errors(f"remove {version.ref}", home):
            if _wanted(store, version):
                continue
            removal = Removal(version.ref, version.digest, COLLECTED, utc_now(), who())
            write_removal(home, version.number, removal)
            trash = home / unique_name(f"{TRASH}{version.path.name}-")
            try:
                os.rename(version.path, trash)
            except FileNotFoundError:
                continue  # another collection was first
            if _wanted(store, version):
                os.rename(trash, version.path)
                sync_folder(home)
                continue
            sync_folder(home)
            remove_tree(trash)
            gone.append(version)
    for path in plan.leftovers:
        with explain_disk_errors(f"remove {path}", path):
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)
    return gone


def bring_back(store: Store) -> None:
    """Undo what a collection began that died between hiding a version and seeing that somebody had pointed at it."""
    for home in _folders(store):
        for trash in home.glob(f"{TRASH}v*-*"):
            folder = trash.name.removeprefix(TRASH).partition("-")[0]
            if folder[1:].isdigit() and _is_wanted(store, home.name, int(folder[1:])) and not (home / folder).exists():
                os.rename(trash, home / folder)
                sync_folder(home)


def _wanted(store: Store, version: Version) -> bool:
    return _is_wanted(store, version.name, version.number)


def _is_wanted(store: Store, name: str, number: int) -> bool:
    return number in store.pins(name) or number in store.aliases(name).values()


def _folders(store: Store) -> list[Path]:
    if not store.root.is_dir():
        return []
    return sorted(path for path in store.root.iterdir() if path.is_dir() and path.name[0] != ".")


def _needed(store: Store, versions: dict[str, Version], grace_days: float) -> Iterable[tuple[str, str]]:
    for name, numbers in store.contents():
        aliases = store.aliases(name)
        for alias, number in aliases.items():
            yield f"{name}:v{number}", f"alias {alias}"
        if "latest" not in aliases:
            yield f"{name}:v{numbers[-1]}", "the latest"
        for number in store.pins(name):
            yield f"{name}:v{number}", "pinned"
    for identity, refs in live_inputs(store, {v.manifest.identity for v in versions.values()}).items():
        for ref in refs:
            yield ref, f"unfinished run {identity[:12]}"
    for version in versions.values():
        if _age_days(version) < grace_days:
            yield version.ref, f"younger than {grace_days:g} days"


def _keep(store: Store, ref: str, why: str, versions: dict[str, Version], kept: dict[str, str]) -> None:
    waiting = [(ref, why)]
    while waiting:
        ref, why = waiting.pop()
        if ref in versions and ref not in kept:
            kept[ref] = why
            waiting += [(parent, f"{ref} was made from it") for parent in _parents(store, versions[ref], versions)]


def _parents(store: Store, version: Version, versions: dict[str, Version]) -> list[str]:
    records = [record for _, record in version.manifest.each_input()]
    if base := (version.manifest.adapter or {}).get("base"):
        records.append(base)
    found = []
    for record in records:
        parent = versions.get(_exact(str(record.get("ref"))) or "")
        if parent and parent.digest == record.get("digest"):
            found.append(parent.ref)
    return found


def live_inputs(store: Store, published: set[str | None]) -> dict[str, list[str]]:
    """identity -> the versions an unfinished run was started from; UserError if its record cannot be read."""
    runs: dict[str, list[str]] = {}
    folder = store.root / ".runs"
    for run in sorted(folder.iterdir()) if folder.is_dir() else []:
        file = run / "run.json"
        if run.name in published or not file.is_file():
            continue
        try:
            record = json.loads(file.read_bytes())
            given = record.get("inputs", {})
            one_each = [one for value in given.values() for one in (value if isinstance(value, list) else [value])]
            runs[run.name] = [ref for one in one_each if (ref := _exact(str(one["ref"])))]
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            raise UserError(
                f"gc removes nothing while {file} cannot be read ({error}): an unfinished run may need any version; "
                f"finish that run, or delete {run}"
            ) from None
    return runs


def _exact(text: str) -> str | None:
    try:
        ref = Ref.parse(text)
    except UserError:
        return None
    return f"{ref.name}:v{ref.version}" if ref.version else None


def _age_days(version: Version) -> float:
    """Days since it came to where it is (a pulled version is young); -inf if another collection took it meanwhile."""
    try:
        newest = version.path.stat().st_ctime
    except FileNotFoundError:
        return -math.inf
    with contextlib.suppress(ValueError):
        newest = max(newest, datetime.fromisoformat(version.manifest.ended or "").timestamp())
    return (time.time() - newest) / (24 * _HOURS)


def _next(
    spare: list[Version],
    left: dict[str, Version],
    children: dict[str, set[str]],
    max_versions: int | None,
    max_gb: float | None,
) -> Version | None:
    """The oldest spare version over the budget that nothing left was made from."""
    counts: dict[str, int] = {}
    for version in left.values():
        counts[version.name] = counts.get(version.name, 0) + 1
    too_big = max_gb is not None and sum(version.manifest.size for version in left.values()) > max_gb * 1e9
    for version in spare:
        over = max_versions is not None and counts[version.name] > max_versions
        free = max_versions is None and max_gb is None
        if (over or too_big or free) and not (children.get(version.ref, set()) & left.keys()):
            return version
    return None


def _leftovers(store: Store, grace_days: float) -> list[Path]:
    """What died before it was done and is older than the grace period, by its newest file."""
    found = []
    for folder in [*([store.root] if store.root.is_dir() else []), *_folders(store)]:
        for path in folder.iterdir():
            if path.name.startswith(_LEFTOVERS):
                # Gone while it is looked at: its owner was done with it, or another collection took it.
                with contextlib.suppress(FileNotFoundError):
                    newest = max(one.lstat().st_mtime for one in [path, *path.rglob("*")])
                    if time.time() - newest >= grace_days * 24 * _HOURS:
                        found.append(path)
    return sorted(found)

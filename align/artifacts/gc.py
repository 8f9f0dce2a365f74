"""Garbage collection: which versions nobody needs, and taking them away so that no race loses one that somebody does.

Needed are the versions that an alias points at, that are pinned, that a process or an unfinished run has claimed, that
are younger than the grace period, and whatever those were made from. A version whose manifest cannot be read is
reported and kept, with the versions that it names where they can still be read.
"""

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from align.artifacts import run_lock
from align.artifacts.aliases import who
from align.artifacts.claims import Claim, claims
from align.artifacts.disk import explain_disk_errors, read_regular, remove_tree, sync_folder, unique_name
from align.artifacts.leftovers import find_leftovers
from align.artifacts.manifest import LARGEST, MANIFEST_FILE
from align.artifacts.refs import Ref
from align.artifacts.store import GOING, TRASH, Store, utc_now
from align.artifacts.sweeps import read_sweeps
from align.artifacts.tombstones import COLLECTED, Removal, write_removal
from align.artifacts.version import Version
from align.distributed import processes
from align.errors import UserError

_DAY = 86400.0
_IDENTITY = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_NAMED = re.compile(rb'"ref":\s*"([a-z0-9][a-z0-9._-]*:v[0-9]+)"')


@dataclass
class Collection:
    """What `gc` would do.

    Attributes:
        remove: the versions to take away, in that order: nothing that stays was made from one of them.
        kept: ref -> why it stays.
        leftovers: hidden folders and files of publications, transfers and collections that died.
        claims: claims that no longer count.
        problems: a sentence for each version or name that cannot be read; it is kept.
        sizes: ref -> bytes on the disk, of the versions to remove.
        children: ref -> the versions that were made from it.
        released: the sweeps that keep nothing any more.
    """

    remove: list[Version] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    leftovers: list[Path] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    children: dict[str, set[str]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    released: Sequence[str] = ()

    @property
    def size(self) -> int:
        """Bytes of the versions to remove."""
        return sum(self.sizes.values())


def plan_collection(
    store: Store,
    *,
    grace_days: float = 7,
    max_versions: int | None = None,
    max_gb: float | None = None,
    released: Sequence[str] = (),
) -> Collection:
    """Decide what to remove, and change nothing.

    Without a budget every version that nobody needs goes. With `max_versions` (of each name) or `max_gb` (10^9 bytes
    on the disk, of the whole store) the oldest of them go until the budget is kept, and no more; what is needed stays
    even so. The versions of a sweep are needed until it is among `released`.

    Raises:
        UserError: what an unfinished run was started from cannot be read.
    """
    plan = Collection(problems=store.problems(), released=released)
    versions: dict[str, Version] = {}
    unreadable: dict[str, list[str]] = {}
    for name, numbers in store.contents():
        for number in numbers:
            ref = f"{name}:v{number}"
            try:
                versions[ref] = store.version(name, number)
            except UserError as error:
                plan.problems.append(str(error))
                plan.kept[ref] = "it cannot be read"
                unreadable[ref] = _named_in(store.version_path(name, number) / MANIFEST_FILE)
    plan.known = {*versions, *unreadable}
    for version in versions.values():
        note_parents(plan, version, versions)
    for ref, named in unreadable.items():
        for parent in named:
            plan.children.setdefault(parent, set()).add(ref)
            _keep(plan, parent, f"{ref}, which cannot be read, names it", versions)
    for ref, why in [*_needed(store, versions, grace_days), *_swept(store, released)]:
        _keep(plan, ref, why, versions)
    published = {version.manifest.identity for version in versions.values()}
    plan.claims = [claim for claim in claims(store.root) if not _counts(store, claim, published)]
    plan.leftovers = find_leftovers(store, grace_days)
    spare = [version for ref, version in versions.items() if ref not in plan.kept]
    spare.sort(key=lambda version: (version.manifest.ended or "", version.ref))
    sizes = {ref: size_on_disk(version.path) for ref, version in versions.items()} if max_gb is not None else {}
    left = dict(versions)
    # Children go before what they were made from, so that the lineage of what stays is whole at any moment.
    while chosen := _next(spare, left, plan.children, max_versions, max_gb, sizes):
        spare.remove(chosen)
        del left[chosen.ref]
        plan.remove.append(chosen)
        plan.sizes[chosen.ref] = sizes.get(chosen.ref) or size_on_disk(chosen.path)
    for version in spare:
        plan.kept[version.ref] = "within the budget"
    return plan


def collect(store: Store, plan: Collection) -> list[Version]:
    """Take away what the plan says, each version with a note of who did it; returns those that went.

    For each version `collect` writes an announcement, checks aliases, pins, claims and new children, hides the version
    by a rename, checks again, and only then deletes it. A process that claims a version or points an alias at it waits
    while there is an announcement, then checks that the version is still there: a claimed version never disappears.
    If a collection dies halfway, the next one brings back what is wanted.
    """
    gone = []
    bring_back(store, plan)
    for version in plan.remove:
        home = store.home(version.name)
        with explain_disk_errors(f"remove {version.ref}", home):
            # A later claim waits for the decision; `_wanted` sees an earlier one.
            with _announced(home, version.path.name):
                if _wanted(store, plan, version.ref):
                    continue
                removal = Removal(version.ref, version.digest, COLLECTED, utc_now(), who())
                write_removal(home, version.number, removal)
                trash = home / unique_name(f"{TRASH}{version.path.name}-{processes.tag()}-")
                try:
                    os.rename(version.path, trash)
                    if _wanted(store, plan, version.ref):
                        os.rename(trash, version.path)
                        sync_folder(home)
                        continue
                    # Another collection must not bring back a half-deleted version.
                    condemned = home / unique_name(f"{TRASH}left-{processes.tag()}-")
                    os.rename(trash, condemned)
                except FileNotFoundError:
                    continue  # another collection was first: it took the version away, or brought it back
            sync_folder(home)
            remove_tree(condemned)
            gone.append(version)
    for path in plan.leftovers:
        with explain_disk_errors(f"remove {path}", path), contextlib.suppress(FileNotFoundError):
            # Renamed first: of whoever deletes it and whoever would still publish or resume it, one gets it.
            hidden = path.with_name(unique_name(f"{TRASH}left-{processes.tag()}-"))
            os.rename(path, hidden)
            if hidden.is_dir() and not hidden.is_symlink():
                remove_tree(hidden)
            else:
                hidden.unlink()
    for claim in plan.claims:
        claim.file.unlink(missing_ok=True)
    return gone


@contextlib.contextmanager
def _announced(home: Path, folder: str) -> Iterator[None]:
    """Say in the block that a version may go (`folder` is its folder's name)."""
    announcement = home / unique_name(f"{GOING}{folder}-{processes.tag()}-")
    announcement.touch()
    try:
        yield
    finally:
        announcement.unlink(missing_ok=True)


def bring_back(store: Store, plan: Collection) -> None:
    """Undo what a collection began that died between hiding a version and seeing that somebody needs it."""
    for home in store.homes():
        for trash in home.glob(f"{TRASH}v*-*"):
            folder = trash.name.removeprefix(TRASH).partition("-")[0]
            if not folder[1:].isdigit() or (home / folder).exists():
                continue
            if _wanted(store, plan, f"{home.name}:v{int(folder[1:])}"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(trash, home / folder)
                    sync_folder(home)


def live_inputs(store: Store, published: set[str | None]) -> dict[str, list[str]]:
    """identity -> the versions an unfinished run was started from; UserError if its record cannot be read.

    A run that claimed its inputs is not in it: the claims say the same, also to those who may not read its folder.
    """
    claimed = {claim.identity for claim in claims(store.root)}
    runs: dict[str, list[str]] = {}
    folder = store.runs_root
    for run in sorted(folder.iterdir()) if folder.is_dir() else []:
        file = run / "run.json"
        if run.name in published or run.name in claimed or not _IDENTITY.fullmatch(run.name):
            continue
        try:
            record = json.loads(read_regular(file, LARGEST))
            inputs = record.get("inputs", {})
            records = [one for value in inputs.values() for one in (value if isinstance(value, list) else [value])]
            runs[run.name] = [ref for one in records if (ref := _exact(str(one["ref"])))]
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"gc removes nothing while {file} cannot be read ({error}): an unfinished run may need any version; "
                f"finish that run, or delete {run}"
            ) from None
    return runs


def size_on_disk(folder: Path) -> int:
    """Bytes of the files in a version's folder, whatever its manifest says of them."""
    size = 0
    for here, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(here, name)).st_size
    with contextlib.suppress(OSError):
        size -= os.lstat(folder / MANIFEST_FILE).st_size
    return size


def note_parents(plan: Collection, version: Version, versions: dict[str, Version]) -> None:
    """Note in `plan.children` what a version was made from, except what this store has replaced since."""
    records = [record for _, record in version.manifest.each_input()]
    if base := (version.manifest.adapter or {}).get("base"):
        records.append(base)
    for record in records:
        ref = _exact(str(record.get("ref")))
        parent = versions.get(ref or "")
        if ref and (parent is None or parent.digest == record.get("digest")):
            plan.children.setdefault(ref, set()).add(version.ref)


def _wanted(store: Store, plan: Collection, ref: str) -> bool:
    """Whether somebody needs a version now: an alias, a pin, a sweep, a claim, or a version that was made from it.

    Claims come before children: a run publishes first and gives its claims up afterwards, so one of them is seen.
    """
    name, _, number = ref.partition(":v")
    try:
        if int(number) in (*store.pins(name), *store.aliases(name).values()):
            return True
        if any(swept == ref for swept, _ in _swept(store, plan.released)):
            return True
        # Whatever was published since the plan was made keeps a run's claims: to keep too much is safe.
        if any(
            f"{claim.name}:v{claim.number}" == ref and _counts(store, claim, set()) for claim in claims(store.root)
        ):
            return True
    except UserError:
        return True
    for other, numbers in store.contents():
        for child in numbers:
            if f"{other}:v{child}" not in plan.known:
                plan.known.add(f"{other}:v{child}")
                with contextlib.suppress(UserError):
                    note_parents(plan, store.version(other, child), {})
    return any(_exists(store, child) for child in plan.children.get(ref, ()))


def _exists(store: Store, ref: str) -> bool:
    name, _, number = ref.partition(":v")
    return store.version_path(name, int(number)).exists()


def _counts(store: Store, claim: Claim, published: set[str | None]) -> bool:
    """Whether a claim keeps its version: its process is alive, or its run unfinished."""
    if claim.identity is None:
        return not claim.is_over
    run_dir = store.runs_root / claim.identity
    if not os.path.lexists(run_dir):
        return False
    try:
        return claim.identity not in published or run_lock.is_held(run_dir)
    except OSError:  # the folder of another user's run
        return True


def _needed(store: Store, versions: dict[str, Version], grace_days: float) -> Iterable[tuple[str, str]]:
    """(ref, why) of each version that is needed for itself."""
    published = {version.manifest.identity for version in versions.values()}
    for name, numbers in store.contents():
        try:
            aliases, pins = store.aliases(name), store.pins(name)
        except UserError:
            yield from ((f"{name}:v{number}", "its aliases or pins cannot be read") for number in numbers)
            continue
        for alias, number in aliases.items():
            yield f"{name}:v{number}", f"alias {alias}"
        if "latest" not in aliases:
            yield f"{name}:v{numbers[-1]}", "the latest"
        for number in pins:
            yield f"{name}:v{number}", "pinned"
    for claim in claims(store.root):
        if _counts(store, claim, published):
            yield f"{claim.name}:v{claim.number}", str(claim)
    for identity, refs in live_inputs(store, published).items():
        for ref in refs:
            yield ref, f"unfinished run {identity[:12]}"
    for version in versions.values():
        if _age_days(version) < grace_days:
            yield version.ref, f"younger than {grace_days:g} days"


def _swept(store: Store, released: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(ref, why) of each version of a sweep that nobody has released."""
    for sweep in read_sweeps(store):
        if sweep.name not in released:
            yield from ((ref, f"sweep {sweep.name}") for ref in sweep.refs)


def _keep(plan: Collection, ref: str, why: str, versions: dict[str, Version]) -> None:
    """Keep a version and whatever it was made from."""
    waiting = [(ref, why)]
    parents: dict[str, list[str]] = {}
    for parent, children in plan.children.items():
        for child in children:
            parents.setdefault(child, []).append(parent)
    while waiting:
        ref, why = waiting.pop()
        if ref in versions and ref not in plan.kept:
            plan.kept[ref] = why
            waiting += [(parent, f"{ref} was made from it") for parent in parents.get(ref, ())]


def _named_in(manifest: Path) -> list[str]:
    """The versions that a damaged manifest names as inputs, as far as it can still be read."""
    try:
        return sorted(
            {ref for text in _NAMED.findall(read_regular(manifest, LARGEST)) if (ref := _exact(text.decode()))}
        )
    except (OSError, ValueError):
        return []


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
    return (time.time() - newest) / _DAY


def _next(
    spare: list[Version],
    left: dict[str, Version],
    children: dict[str, set[str]],
    max_versions: int | None,
    max_gb: float | None,
    sizes: dict[str, int],
) -> Version | None:
    """The oldest spare version over the budget that nothing left was made from."""
    counts: dict[str, int] = {}
    for version in left.values():
        counts[version.name] = counts.get(version.name, 0) + 1
    too_big = max_gb is not None and sum(sizes[ref] for ref in left) > max_gb * 1e9
    for version in spare:
        over = max_versions is not None and counts[version.name] > max_versions
        free = max_versions is None and max_gb is None
        if (over or too_big or free) and not (children.get(version.ref, set()) & left.keys()):
            return version
    return None

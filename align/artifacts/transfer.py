"""Versions between a store and a remote one: `push` and `pull`, whole or not at all, going on where they stopped."""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from align.artifacts import claims
from align.artifacts.aliases import who
from align.artifacts.digests import algorithm_of, hash_file
from align.artifacts.disk import clone_file, explain_disk_errors, make_folder, sync_folder, unique_name, write_durably
from align.artifacts.leftovers import INCOMING, last_change
from align.artifacts.manifest import MANIFEST_FILE, Manifest
from align.artifacts.refs import LATEST, Ref
from align.artifacts.remote import Remote
from align.artifacts.safety import check_file
from align.artifacts.store import Store, utc_now
from align.artifacts.text import human_size
from align.artifacts.tombstones import forget_removal
from align.artifacts.verification import check_version, quarantine, verify
from align.artifacts.version import Version
from align.distributed import processes
from align.errors import UserError

_AT_ONCE = 4  # files on their way at the same time
_SILENT = 3600  # seconds without a byte, after which another host's transfer counts as dead
_ACTIVE: set[Path] = set()  # what this process is fetching into
Say = Callable[[str], None]


def push(store: Store, version: Version, remote: Remote, *, lineage: bool = False, say: Say = print) -> None:
    """Send a version and the aliases that point at it; the manifest goes last. `lineage` sends what it came from too.

    Raises:
        UserError: the version is not what was published, or the remote store has another of that name and number.
    """
    if lineage:
        for parent in _ancestors(store, version):
            push(store, parent, remote, say=say)
    number, manifest = version.number, version.manifest
    there = remote.manifest(version.name, number)
    if there and there[1].digest != manifest.digest:
        raise UserError(
            f"{remote.url} has another {version.ref} (digest {there[1].digest[:12]}, here {manifest.digest[:12]}): "
            "push to a folder of your own, or publish under another name"
        )
    if there is None:
        check_version(store, version, below_gb=math.inf)
        _each(lambda inside: _send(version, remote, inside), list(manifest.files), say)
        text = (version.path / MANIFEST_FILE).read_bytes()
        if not remote.put_manifest(version.name, number, text):
            return push(store, version, remote, say=say)  # somebody was first; is it the same?
    for alias, at in store.aliases(version.name).items():
        if at == number:
            remote.point(version.name, alias, number, utc_now(), who())
    say(f"{version.ref} is in {remote.url}" + ("" if there is None else " already"))
    return None


def pull(store: Store, text: str, remote: Remote, *, lineage: bool = False, say: Say = print) -> Version:
    """Fetch the version that `text` names there, under its own name and number; `lineage` fetches its parents too.

    Files are hashed as they arrive; `latest` follows. A quarantined or collected version comes back this way.

    Raises:
        UserError: it is not there, or arrives damaged, or this store has another of that name and number.
    """
    ref = remote.resolve(text)
    for parent in _remote_ancestors(remote, ref) if lineage else ():
        _pull_one(store, parent, remote, say)
    return _pull_one(store, ref, remote, say)


def _pull_one(store: Store, ref: Ref, remote: Remote, say: Say) -> Version:
    found = remote.manifest(ref.name, ref.version)
    if found is None:
        raise UserError(f"{remote.url} has no {ref}")
    body, manifest = found
    home = store.home(ref.name)
    final = store.version_path(ref.name, ref.version)
    with explain_disk_errors(f"pull {ref}", home):
        # Claimed before it exists, so that `gc` never finds it without an alias and without a claim.
        claims.claim(store.root, ref.name, ref.version)
        if final.exists() and _is_whole(store, ref, manifest, say):
            say(f"{ref} is in {store.root} already")
            return store.version(ref.name, ref.version)
        folder = _claim(home, f"{INCOMING}{final.name}-{manifest.digest[:16]}-")
        known = _known(store, ref.name)
        for inside in manifest.files:
            make_folder((folder / inside).parent)
        _check_room(remote, manifest, folder)
        try:
            files = manifest.files
            _each(lambda inside: _fetch(folder, remote, inside, files[inside], known), list(files), say)
        finally:
            _ACTIVE.discard(folder)
        for path in folder.rglob("*"):
            if path.is_file() and path.relative_to(folder).as_posix() not in manifest.files:
                path.unlink()
        for here, _, _ in os.walk(folder):
            sync_folder(Path(here))
        write_durably(folder / MANIFEST_FILE, body, 0o444)
        sync_folder(folder)
        try:
            os.rename(folder, final)
        except OSError:
            if not final.exists():
                raise
            return _pull_one(store, ref, remote, say)
        sync_folder(home)
        forget_removal(home, ref.version)
    version = store.version(ref.name, ref.version)
    store.point(version, LATEST)
    say(f"{ref} is in {store.root}")
    return version


def _is_whole(store: Store, ref: Ref, manifest: Manifest, say: Say) -> bool:
    """Whether this store has the version, and whole; one that is damaged is quarantined, to be fetched again.

    Raises:
        UserError: this store has another version of that name and number, or it cannot be read.
    """
    finding = verify(store, ref.name, ref.version)
    if finding.unread:
        raise UserError(f"{ref} is in {store.root} and could not be verified: {finding.unread[0]}")
    if finding.digest not in (None, manifest.digest):
        raise UserError(
            f"{store.root} has another {ref} (digest {finding.digest[:12]}, there {manifest.digest[:12]}): "
            "pull into a store of its own, with --artifacts"
        )
    if finding.evidence:
        kept = quarantine(store, finding)
        say(f"{ref} in {store.root} was corrupt ({finding.evidence[0]}); it is kept in {kept} and fetched again")
    return finding.whole


def _remote_ancestors(remote: Remote, ref: Ref) -> list[Ref]:
    """What a version was made from, as far as the remote store has it, parents first.

    Raises:
        UserError: a version is its own ancestor, which no run can make.
    """
    order: list[Ref] = []
    done: set[Ref] = set()
    path: list[Ref] = []  # from `ref` down to the one that is looked at
    waiting: list[tuple[Ref, bool]] = [(ref, False)]
    while waiting:
        current, is_left = waiting.pop()
        if is_left:
            path.pop()
            done.add(current)
            order.append(current)
            continue
        if current in path:
            circle = " -> ".join(map(str, [*path[path.index(current) :], current]))
            raise UserError(
                f"{remote.url} is damaged: a version was made from itself ({circle}); pull without --lineage"
            )
        if current in done or (found := remote.manifest(current.name, current.version)) is None:
            continue
        path.append(current)
        waiting.append((current, True))
        records = [record for _, record in found[1].each_input() if record.get("kind") == "artifact"]
        for text in reversed(dict.fromkeys(record["ref"] for record in records)):
            waiting.append((_exact(text), False))
    return order[:-1]


def _check_room(remote: Remote, manifest: Manifest, folder: Path) -> None:
    """Refuse what would not fit before an hour of it is fetched, or what the remote store does not have.

    Raises:
        UserError: a file there has another size than the manifest says, or the disk has no room.
    """
    need = 0
    for inside, entry in manifest.files.items():
        size = remote.blob_size(entry)
        if size is not None and size != entry["size"]:
            raise UserError(
                f"{inside} of {manifest.ref} has {size} bytes in {remote.url}, and its manifest says {entry['size']}: "
                "push that version again from a store that has it"
            )
        target = folder / inside
        need += entry["size"] - (target.stat().st_size if target.exists() else 0)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise UserError(
            f"{manifest.ref} needs {human_size(need)} and the disk of {folder} has {human_size(free)} free: free some"
        )


def _send(version: Version, remote: Remote, inside: str) -> str:
    entry = version.manifest.files[inside]
    if remote.has_blob(entry):
        return f"  {inside}: there already"
    remote.put_blob(version.path / inside, entry)
    return f"  {inside}: sent"


def _fetch(folder: Path, remote: Remote, inside: str, entry: dict[str, Any], known: dict[str, Path]) -> str:
    target = folder / inside
    name = algorithm_of(entry)
    twin = known.get(entry[name])
    if twin and not target.exists():
        clone_file(twin, target)
        if hash_file(target, name) != {name: entry[name], "size": entry["size"]}:
            target.unlink()
    if target.exists():
        target.chmod(0o644)
    started = target.stat().st_size if target.exists() else 0
    remote.get_blob(entry, target)
    check_file(inside, target)
    target.chmod(0o444)
    return f"  {inside}: " + ("here already" if started == entry["size"] else "gone on with" if started else "fetched")


def _claim(home: Path, prefix: str) -> Path:
    """A folder to fetch into that is this process's alone: what a dead one has left is taken over by a rename."""
    mine = home / unique_name(f"{prefix}{processes.tag()}-")
    _ACTIVE.add(mine)
    make_folder(home)
    for old in sorted(home.glob(f"{prefix}*")):
        if old not in _ACTIVE and _is_abandoned(old):
            with contextlib.suppress(OSError):
                os.rename(old, mine)
                return mine
    make_folder(mine)
    return mine


def _is_abandoned(folder: Path) -> bool:
    alive = processes.owner_is_alive(folder.name)
    if alive is None:
        return time.time() - last_change(folder) > _SILENT
    # This process's own, and not active: a pull that failed.
    return not alive or f"-{processes.tag()}-" in folder.name


def _known(store: Store, name: str) -> dict[str, Path]:
    """hash -> a file in the newest version of `name` that this store has: a copy on this disk comes cheaper."""
    numbers = store.numbers(name)
    if not numbers:
        return {}
    version = store.version(name, numbers[-1])
    return {entry[algorithm_of(entry)]: version.path / inside for inside, entry in version.manifest.files.items()}


def _ancestors(store: Store, version: Version) -> list[Version]:
    """What a version was made from, as far as this store has it, parents first."""
    found: dict[str, Version] = {}
    waiting: list[tuple[Version, bool]] = [(version, False)]
    seen = {version.ref}
    while waiting:
        current, is_left = waiting.pop()
        if is_left:
            found[current.ref] = current
            continue
        waiting.append((current, True))
        for parent in store.parents(current):
            if parent.version is None and parent.record.get("kind") == "artifact":
                _check_readable(store, parent.record["ref"])
            if parent.version and parent.version.ref not in seen:
                seen.add(parent.version.ref)
                waiting.append((parent.version, False))
    del found[version.ref]
    return list(found.values())


def _check_readable(store: Store, text: str) -> None:
    """Refuse to leave out a parent that this store has and cannot read; one that it no longer has is left out."""
    ref = _exact(text)
    if store.version_path(ref.name, ref.version).exists():
        store.version(ref.name, ref.version)


def _each(work: Callable[[str], str], items: list[str], say: Say) -> None:
    """Do the work for a few items at a time, and say what came of each as it ends; the first error ends all."""
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        try:
            for job in as_completed([pool.submit(work, item) for item in items]):
                say(job.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _exact(text: str) -> Ref:
    ref = Ref.parse(text)
    if ref.version is None:
        raise UserError(f"a manifest names {text!r} as an input, which is no exact version; it is damaged")
    return ref

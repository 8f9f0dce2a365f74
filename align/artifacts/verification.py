"""Whether a version still is what was published: every file hashed again, never judged by size, mode or time.

A version that is not is moved into quarantine with the evidence, never deleted.
"""

import os
import random
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.artifacts.aliases import who
from align.artifacts.digests import algorithm_of, hash_file, new_hash, walk_files
from align.artifacts.disk import explain_disk_errors, make_folder, sync_folder, unique_name
from align.artifacts.inputs import Input, resolve_input
from align.artifacts.manifest import MANIFEST_FILE, Manifest, NewerFormat, read_manifest
from align.artifacts.refs import Ref
from align.artifacts.store import Store, utc_now
from align.artifacts.tombstones import CORRUPT, QUARANTINE, Removal, read_removal, write_removal
from align.artifacts.version import Version
from align.errors import UserError

FULL, SAMPLED, OFF = "full", "sampled", "off"
BELOW_GB = 20.0  # 10^9 bytes: larger models are sampled (artifacts.verify_below_gb)
_SMALL = 64_000_000  # bytes: a sample takes every file up to this size and one of the larger
_AHEAD = 64  # versions whose files are queued while the first is still being hashed


@dataclass
class Finding:
    """What verification found out about one version.

    Attributes:
        evidence: a sentence for each thing that is not as published.
        unread: a sentence for each file that could not be read; that proves nothing about its content.
        hashed: bytes.
    """

    ref: str
    digest: str | None = None
    evidence: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    hashed: int = 0

    @property
    def whole(self) -> bool:
        return not self.evidence and not self.unread


def verify(store: Store, name: str, number: int, mode: str = FULL) -> Finding:
    """Hash a version's files and compare them with its manifest; moves nothing."""
    (finding,) = verify_many(store, [(name, number)], mode)
    return finding


def verify_many(store: Store, versions: Iterable[tuple[str, int]], mode: str = FULL) -> Iterator[Finding]:
    """`verify` for many versions in their order, on all cores."""
    versions = list(versions)
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(max_workers=cores) as pool:
        queued: deque[tuple[Finding, list[tuple[str, dict[str, Any], Future[Any]]]]] = deque()
        try:
            for name, number in versions:
                queued.append(_start(pool, store, name, number, mode, alone=len(versions) == 1))
                if len(queued) >= _AHEAD:
                    yield _finish(*queued.popleft())
            while queued:
                yield _finish(*queued.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def quarantine(store: Store, finding: Finding) -> Path:
    """Move a corrupt version out of the store's sight, with a note of the evidence, and return its new place.

    Whoever asks for it is told; aliases go on pointing at it until somebody moves them.
    """
    name, _, version = finding.ref.partition(":v")
    number, home = int(version), store.home(name)
    if not (home / f"v{number:04d}").exists() and (gone := read_removal(home, number)):
        return home / (gone.folder or QUARANTINE)  # somebody else was first
    kept = f"{QUARANTINE}/v{number:04d}"
    if (home / kept).exists():
        kept = unique_name(f"{kept}-")
    removal = Removal(finding.ref, finding.digest, CORRUPT, utc_now(), who(), kept, tuple(finding.evidence))
    with explain_disk_errors(f"quarantine {finding.ref}", home):
        make_folder(home / QUARANTINE)
        write_removal(home, number, removal)
        try:
            os.rename(home / f"v{number:04d}", home / kept)
        except FileNotFoundError:
            return home / ((read_removal(home, number) or removal).folder or kept)  # somebody else was first
        sync_folder(home / QUARANTINE)
        sync_folder(home)
    return home / kept


def open_version(
    store: Store, ref: str | Ref, *, maker: str | None = None, mode: str = FULL, below_gb: float = BELOW_GB
) -> Version:
    """Resolve `ref`, keep it from `gc` and verify its files.

    Every reader of a version's files opens it here, or through `open_input`.

    Args:
        maker: the command line that would make a missing artifact, for the message.
        mode, below_gb: as in `check_version`.

    Raises:
        UserError: there is no such version, or it is not what was published.
    """
    version = store.claim(store.resolve(ref, maker=maker))
    check_version(store, version, mode=mode, below_gb=below_gb)
    return version


def open_input(store: Store, text: str, *, mode: str = FULL, below_gb: float = BELOW_GB, **options: Any) -> Input:
    """`resolve_input` followed by `verify_input`; `options` are those of `resolve_input`.

    Raises:
        UserError: the input cannot be had, or is not what was published.
    """
    resolved = resolve_input(store, text, **options)
    verify_input(store, resolved, mode=mode, below_gb=below_gb)
    return resolved


def verify_input(store: Store, resolved: Input, *, mode: str = FULL, below_gb: float = BELOW_GB) -> None:
    """Verify an input that is an artifact, and the base of an adapter with it.

    Paths and hub snapshots were hashed, or are named by their content, when they were resolved.

    Args:
        mode, below_gb: as in `check_version`.

    Raises:
        UserError: it is not what was published, or not what was resolved.
    """
    if resolved.manifest is None or mode == OFF:
        return
    manifest = resolved.manifest
    version = Version(manifest.name, manifest.version, store.version_path(manifest.name, manifest.version), manifest)
    check_version(store, version, mode=mode, below_gb=below_gb)
    base = (manifest.adapter or {}).get("base") or {}
    if base.get("kind") == "artifact":
        # Not its base in turn: what is itself an adapter is refused when it is loaded as a base.
        check_version(store, store.claim(store.resolve(base["ref"])), mode=mode, below_gb=below_gb)


def check_version(store: Store, version: Version, *, mode: str = FULL, below_gb: float = BELOW_GB) -> None:
    """Refuse a version that is not what was published, and quarantine it.

    Datasets are always hashed whole. The other types are hashed whole up to `below_gb`, and beyond that as `sampled`:
    every file up to 64 MB and one of the larger.

    Args:
        mode: full, sampled (for versions of any size), or off.
        below_gb: 10^9 bytes.

    Raises:
        UserError: it is corrupt, with the evidence and where it is kept now; a file cannot be read; or the version
            was replaced after it was resolved.
    """
    manifest = version.manifest
    if mode == OFF:
        return
    if manifest.type == "dataset":
        mode = FULL
    elif manifest.size > below_gb * 1e9:
        mode = SAMPLED
    finding = verify(store, version.name, version.number, mode)
    if finding.unread:
        raise UserError(
            f"{finding.ref} could not be verified: {finding.unread[0]}. Repair the disk or the permissions, or pull "
            "the version from a remote store"
        )
    if finding.evidence:
        try:
            quarantine(store, finding)
        except (OSError, UserError):
            raise UserError(
                f"{finding.ref} is corrupt: {finding.evidence[0]}; it could not be moved to quarantine. "
                "Pull it from a remote store, or make it again"
            ) from None
        home = store.home(version.name)
        raise UserError(read_removal(home, version.number).sentence(home))
    if finding.digest != version.digest:
        raise UserError(f"{version.ref} was replaced by another version while this command ran; run it again")


def read_file(version: Version, inside: str) -> bytes:
    """The content of one small file of a version, verified by its hash in the manifest.

    Raises:
        UserError: it is missing, cannot be read, or is not what was published.
    """
    entry, file = version.manifest.files.get(inside), version.path / inside
    if entry is None:
        raise UserError(f"{version.ref} holds no {inside}")
    try:
        content = file.read_bytes() if file.stat().st_size == entry["size"] else b""
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}); run: align artifacts verify {version.ref}"
        ) from None
    hasher = new_hash(algorithm_of(entry))
    hasher.update(content)
    if hasher.hexdigest() != entry[algorithm_of(entry)]:
        raise UserError(f"{file} is not what was published; run: align artifacts verify {version.ref}")
    return content


def _start(
    pool: ThreadPoolExecutor, store: Store, name: str, number: int, mode: str, *, alone: bool
) -> tuple[Finding, list[tuple[str, dict[str, Any], Future[Any]]]]:
    finding = Finding(f"{name}:v{number}")
    folder = store.home(name) / f"v{number:04d}"
    file = folder / MANIFEST_FILE
    try:
        manifest = read_manifest(file, finding.ref)
        found = dict(walk_files(folder))
    except NewerFormat as error:
        finding.unread.append(str(error))
        return finding, []
    except UserError as error:
        finding.evidence.append(str(error).partition("; make this version again")[0].partition(": a version's")[0])
        return finding, []
    except OSError as error:
        finding.unread.append(f"{error.filename or file}: {error.strerror}")
        return finding, []
    finding.digest = manifest.digest
    found.pop(MANIFEST_FILE, None)
    finding.evidence += [f"{path} was not published with it" for path in sorted(found.keys() - manifest.files.keys())]
    jobs = []
    for path in _chosen(manifest, mode):
        entry = manifest.files[path]
        try:
            regular = path in found and stat.S_ISREG(found[path].lstat().st_mode)
        except FileNotFoundError:
            regular = False
        if regular:
            threads = max(1, (os.cpu_count() or 1) // len(manifest.files)) if alone else 1
            jobs.append((path, entry, pool.submit(hash_file, found[path], algorithm_of(entry), threads=threads)))
        else:
            finding.evidence.append(f"{path} is {'no regular file' if path in found else 'missing'}")
    return finding, jobs


def _chosen(manifest: Manifest, mode: str) -> list[str]:
    largest_first = sorted(manifest.files, key=lambda path: -manifest.files[path]["size"])
    if mode != SAMPLED:
        return largest_first
    large = [path for path in largest_first if manifest.files[path]["size"] > _SMALL]
    return ([random.choice(large)] if large else []) + largest_first[len(large) :]


def _finish(finding: Finding, jobs: list[tuple[str, dict[str, Any], Future[Any]]]) -> Finding:
    for path, entry, job in jobs:
        name = algorithm_of(entry)
        try:
            now = job.result()
        except FileNotFoundError:
            finding.evidence.append(f"{path} is missing")
            continue
        except OSError as error:
            finding.unread.append(f"{path}: {error.strerror}")
            continue
        finding.hashed += now["size"]
        if now["size"] != entry["size"]:
            finding.evidence.append(f"{path} has {now['size']} bytes, {entry['size']} were published")
        elif now[name] != entry[name]:
            finding.evidence.append(f"{path} has {name} {now[name][:16]}..., {entry[name][:16]}... was published")
    return finding

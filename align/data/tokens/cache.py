"""Tables and token counts kept between runs, so that a sweep, a resume or a second rank tokenises nothing twice.

`datasets` keeps what `map` made of a table that lies on disk, next to it, under a fingerprint of the table, the
function and its arguments, tokenizer and chat template among them, and TRL tokenises with `map`. So a table need only
lie on disk under the digest of its rows.

What is kept is shared by all runs, and it decides what a model learns. Each file therefore has its BLAKE3 hash next to
it. A run works in a folder of its own, into which only files with the right hash are linked; what it adds is kept when
it is complete. Everything is in `datasets`' own cache (`HF_DATASETS_CACHE`) and can be removed at any time.
"""

import atexit
import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from align.artifacts.digests import hash_file, hash_files
from align.artifacts.disk import (
    clone_file,
    make_folder,
    read_regular,
    remove_tree,
    sync_file,
    sync_folder,
    unique_name,
    write_durably,
)
from align.data.loading.record_file import cache_folder
from align.data.loading.tables import to_dataset, write_table
from align.distributed import processes, ranks
from align.records import Record

if TYPE_CHECKING:
    import datasets

VERSION = 4  # of what is kept under a key
ROWS = "rows.arrow"
_HASH = ".blake3"  # the end of the name of the file that holds another's hash
_LARGEST = 1_000_000_000  # bytes of the counts of one set

_session: Path | None = None  # this run's folder, made at its first table
_opened: dict[Path, Path] = {}  # this run's folder of a table -> where its files are kept


def rows_digest(records: Sequence[Record]) -> str:
    """64 hex digits that stand for the records in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.format, record.to_row()], sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def cached_dataset(records: Sequence[Record]) -> "datasets.Dataset":
    """The records as `to_dataset` gives them, in a file that the ranks share; in memory where the disk takes none.

    The main process comes first; the other ranks find what it has opened.

    Raises:
        UserError: as `to_dataset` does.
    """
    digest = rows_digest(records)
    try:
        folder = _session_folder() / digest[:32]
        if ranks.is_main():
            _open(folder, _place("rows") / digest[:32], records)
        return _read_table(folder / ROWS, digest)
    except (OSError, ValueError):
        return to_dataset(records)


def keep() -> None:
    """Keep what this run's tables were made into, for the next run; call it when all of them are tokenised."""
    if not ranks.is_main():
        return
    for folder, place in _opened.items():
        with contextlib.suppress(OSError):  # a full disk is no reason to fail
            make_folder(place)
            known = _sound(place)
            for file in folder.glob("*.arrow"):
                if file.name not in known:
                    _keep(file, place / file.name)


def cached_lengths(
    records: Sequence[Record], key: str | None, count: Callable[[Sequence[Record]], Iterable[tuple[int, int]]]
) -> np.ndarray:
    """What `count` gives for each record, [records, 2], from the cache where records and `key` were met before.

    Args:
        key: hex digits that stand for whatever else the counts depend on; None where nothing does.
    """
    if key is None:
        return _as_array(count(records), len(records))
    file = _place("lengths") / rows_digest(records)[:32] / f"{key[:32]}.npy"
    with contextlib.suppress(OSError, ValueError):
        content = read_regular(file, _LARGEST)
        if _is_sound(file, hash_file(file)):
            kept = np.load(io.BytesIO(content), allow_pickle=False)
            if kept.shape == (len(records), 2):
                return kept
    lengths = _as_array(count(records), len(records))
    buffer = io.BytesIO()
    np.save(buffer, lengths)
    with contextlib.suppress(OSError):
        make_folder(file.parent)
        write_durably(file, buffer.getvalue())
        _write_hash(file)
    return lengths


def _as_array(pairs: Iterable[tuple[int, int]], count: int) -> np.ndarray:
    numbers = (number for pair in pairs for number in pair)
    return np.fromiter(numbers, np.int64, 2 * count).reshape(count, 2)


def _place(kind: str) -> Path:
    return cache_folder() / f"v{VERSION}" / kind


def _session_folder() -> Path:
    """This run's own folder; on the main process it is empty at first. Raises OSError."""
    global _session
    # All ranks of one host have the launcher's port in common, which no other run there has at the same time.
    run = os.environ.get("MASTER_PORT", "") if ranks.is_launched() else processes.tag()
    session = _place("sessions") / f"{processes.place()}-{run}"
    if session != _session and ranks.is_main():
        _remove_old(session)
        make_folder(session)
        (session / processes.tag()).touch()
        atexit.register(_remove_session, session, os.getpid())
        _opened.clear()
        _session = session
    return session


def _open(folder: Path, place: Path, records: Sequence[Record]) -> None:
    """Fill a run's folder of one table with what is kept of it; where nothing is, with the table alone."""
    remove_tree(folder)
    folder.mkdir()
    for name in _sound(place):
        _link(place / name, folder / name)
    if not (folder / ROWS).exists():
        with open(folder / ROWS, "xb") as file:
            write_table(records, file)
    _opened[folder] = place


def _sound(place: Path) -> set[str]:
    """The kept files that are what was kept; the others are removed, and made again by whoever needs them."""
    files = {file.name: file for file in place.glob("*.arrow")}
    sound = set()
    for name, entry in hash_files(files.items()).items():
        if _is_sound(files[name], entry):
            sound.add(name)
        else:
            files[name].unlink(missing_ok=True)
    return sound


def _is_sound(file: Path, entry: dict[str, Any]) -> bool:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads(read_regular(_hash_of(file), 1000)) == entry
    return False


def _keep(file: Path, target: Path) -> None:
    """Keep a complete file under a name that all runs see; its hash comes last, and without it nobody reads it."""
    sync_file(file)
    temporary = target.with_name(unique_name(".writing-"))
    try:
        _link(file, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _write_hash(target)


def _write_hash(file: Path) -> None:
    write_durably(_hash_of(file), json.dumps(hash_file(file, threads=os.cpu_count() or 1)).encode())
    sync_folder(file.parent)


def _hash_of(file: Path) -> Path:
    return file.with_name(file.name + _HASH)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        clone_file(source, target)


def _read_table(file: Path, digest: str) -> "datasets.Dataset":
    """A table on disk whose fingerprint is its digest, so that what is kept of it is found wherever it lies."""
    import datasets
    from datasets.arrow_reader import ArrowReader

    return datasets.Dataset(ArrowReader.read_table(str(file)), fingerprint=digest[:32])


def _remove_old(session: Path) -> None:
    """Remove the folders of runs that died, and one that an earlier run has left under this run's name."""
    for other in session.parent.glob("*"):
        owners = [processes.is_alive(file.name) for file in other.glob("*.*.*")]
        if other == session or (owners and not any(owner is not False for owner in owners)):
            with contextlib.suppress(OSError):
                remove_tree(other)


def _remove_session(session: Path, pid: int) -> None:
    if os.getpid() == pid:  # and not a fork of the process that made it
        with contextlib.suppress(OSError):
            remove_tree(session)

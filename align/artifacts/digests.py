"""The hash of files and of folders. New hashes are BLAKE3, which all cores share; SHA-256 stays readable.

A manifest names the algorithm beside each hash: {"blake3": hex, "size": bytes}.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from align.artifacts.manifest import ALGORITHMS, json_digest
from align.errors import UserError

ALGORITHM = "blake3"
_PIECE = 1 << 20  # bytes a read: what stays in a core's cache until it is hashed
_BIG_PIECE = 1 << 24  # bytes a read where the cores share one file


def new_hash(algorithm: str = ALGORITHM, threads: int = 1) -> Any:
    """A hasher with `update` and `hexdigest`; `threads` cores share an update where the algorithm can be split."""
    if algorithm == "blake3":
        from blake3 import blake3

        return blake3(max_threads=threads)
    return hashlib.new(algorithm)


def algorithm_of(entry: dict[str, Any]) -> str:
    """The algorithm of a manifest's file entry."""
    return next(name for name in ALGORITHMS if name in entry)


def walk_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(path inside `folder` with "/", path) of every entry that is no real folder, sorted; follows no symlink."""
    for here, folders, files in os.walk(folder, onerror=_raise):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        for name in sorted(files + links):
            path = Path(here, name)
            yield path.relative_to(folder).as_posix(), path


def hash_file(path: Path, algorithm: str = ALGORITHM, *, threads: int = 1) -> dict:
    """{algorithm: hex, "size": bytes} of a file.

    The file is read and not mapped: a bad sector is then an OSError and not the end of the process.
    """
    hasher = new_hash(algorithm, threads)
    buffer = memoryview(bytearray(_BIG_PIECE if threads > 1 else _PIECE))
    size = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
            size += count
    return {algorithm: hasher.hexdigest(), "size": size}


def each_file(work: Callable[[Path, int], Any], paths: Iterable[Path]) -> list[Any]:
    """`work(path, threads)` for every path, in order, on all cores; fewer files than cores share the cores.

    Hashing leaves the interpreter lock. The largest files go first, so that no core is left with one at the end.
    """
    paths = list(paths)
    cores = os.cpu_count() or 1
    threads = max(1, cores // max(1, len(paths)))
    sizes = {path: path.lstat().st_size for path in paths}
    with ThreadPoolExecutor(max_workers=cores) as pool:
        order = sorted(range(len(paths)), key=lambda at: -sizes[paths[at]])
        futures = {at: pool.submit(work, paths[at], threads) for at in order}
        return [futures[at].result() for at in range(len(paths))]


def hash_files(files: Iterable[tuple[str, Path]]) -> dict[str, dict]:
    """{path inside: hash_file} for (path inside, path) pairs, on all cores."""
    pairs = list(files)
    entries = each_file(lambda path, threads: hash_file(path, threads=threads), [path for _, path in pairs])
    return {inside: entry for (inside, _), entry in zip(pairs, entries, strict=True)}


def path_digest(path: Path) -> str:
    """The hash (64 hex digits) of a file's bytes, or of names and hashes of a folder's files but the hidden ones.

    Symlinks are followed: a Hugging Face snapshot consists of them. UserError for an empty folder.
    """
    if path.is_file():
        return hash_file(path, threads=os.cpu_count() or 1)[ALGORITHM]
    files = [pair for pair in _followed(path, path, ()) if pair[1].is_file()]
    if not files:
        raise UserError(f"{path} is an empty folder: name a folder or a file that holds something")
    return json_digest(hash_files(files))


def _followed(folder: Path, top: Path, above: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    real = folder.resolve()
    if real in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _followed(path, top, (*above, real))
        else:
            yield path.relative_to(top).as_posix(), path


def _raise(error: OSError) -> None:
    raise error

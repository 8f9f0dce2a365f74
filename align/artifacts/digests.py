"""The sha256 of files and of folders."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from align.artifacts.manifest import json_digest
from align.errors import UserError


def walk_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(path inside `folder` with "/", path) of every entry that is no real folder, sorted; follows no symlink."""
    for here, folders, files in os.walk(folder, onerror=_raise):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        for name in sorted(files + links):
            path = Path(here, name)
            yield path.relative_to(folder).as_posix(), path


def hash_file(path: Path, *, seal: bool = False) -> dict:
    """{"sha256": hex, "size": bytes} of a file; `seal` also takes its write and execute bits and makes it durable."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        status = os.fstat(file.fileno())
        if seal:
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode) & 0o444)
            os.fsync(file.fileno())
    return {"sha256": digest, "size": status.st_size}


def hash_files(files: Iterable[tuple[str, Path]], *, seal: bool = False) -> dict[str, dict]:
    """{path inside: hash_file} for (path inside, path) pairs, on all cores (hashing leaves the interpreter lock)."""
    pairs = list(files)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        entries = pool.map(lambda pair: hash_file(pair[1], seal=seal), pairs)
        return {inside: entry for (inside, _), entry in zip(pairs, entries, strict=True)}


def path_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes, or of the names and sha256 of a folder's files, hidden ones left out.

    Symlinks are followed: a Hugging Face snapshot consists of them. UserError for an empty folder.
    """
    if path.is_file():
        return hash_file(path)["sha256"]
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

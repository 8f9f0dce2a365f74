"""Claims: versions that somebody has resolved and still needs, which `gc` therefore keeps.

A claim is an empty file `.claims/sft@v0003-<who>`. A process claims a version when it resolves it, and before it
publishes it; a run that has begun claims its inputs under its identity, so that they are still there when it resumes.
Nothing is locked: whoever claims a version looks afterwards whether it is there, and `gc`, which hides a version
before it deletes it, looks at the claims again in between. One of the two sees the other.
"""

import atexit
import contextlib
import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.artifacts.disk import create_exclusively, make_folder, unique_name, unreadable
from align.artifacts.refs import Ref
from align.distributed import processes

CLAIMS = ".claims"
LONGEST = 86400.0  # seconds that a process's claim counts: a run that has begun claims under its identity
_NAME = re.compile(r"([a-z0-9][a-z0-9._-]*)@v([0-9]{4,18})-(process|run)-([0-9a-f.]+)(-[0-9a-f]{32})?", re.ASCII)


@dataclass(frozen=True)
class Claim:
    """A file that says who needs a version.

    Attributes:
        name, number: of the version.
        process: the tag of the process that made it, None for a run's claim.
        identity: of the run, None for a process's claim.
    """

    file: Path
    name: str
    number: int
    process: str | None
    identity: str | None

    @property
    def is_over(self) -> bool:
        """Whether it is a process's claim that counts no longer: the process is dead, or the claim a day old."""
        if self.process is None:
            return False
        try:
            age = time.time() - self.file.stat().st_mtime
        except OSError:
            return True
        return age > LONGEST or processes.is_alive(self.process) is False

    def __str__(self) -> str:
        return f"unfinished run {self.identity[:12]}" if self.identity else "in use by a process"


_mine: dict[tuple[Path, str, int], Path] = {}  # what this process claims until it ends
_lock = threading.Lock()


def claim(root: Path, name: str, number: int) -> None:
    """Keep a version from `gc` for as long as this process lives; look afterwards whether it is there.

    In a store that this process may not write, or on a full disk, there is no claim and no error.
    """
    with _lock, contextlib.suppress(OSError):
        mine = _mine.get((root, name, number))
        if mine is not None and mine.exists():
            os.utime(mine)
        else:
            _mine[root, name, number] = _create(root, name, number)


@contextlib.contextmanager
def claimed(root: Path, name: str, number: int) -> Iterator[None]:
    """Keep a version from `gc` in the block; it need not exist yet. Raises OSError where the disk takes no claim."""
    file = _create(root, name, number)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()


def claim_inputs(root: Path, inputs: dict[str, Any], identity: str) -> None:
    """Keep the inputs of a run from `gc` until the run is published or its folder is deleted.

    Args:
        root: the store's folder.
        inputs: as a manifest has them: role -> record or list of records.
        identity: of the run.

    Raises:
        OSError: the disk takes no claim.
    """
    make_folder(root / CLAIMS)
    records = [one for value in inputs.values() for one in (value if isinstance(value, list) else [value])]
    for text in {record["ref"] for record in records if record.get("kind") == "artifact"}:
        ref = Ref.parse(text)
        create_exclusively(root / CLAIMS / f"{ref.name}@v{ref.version:04d}-run-{identity}", b"")


def release_run(root: Path, identity: str) -> None:
    """The run needs its inputs no more."""
    with contextlib.suppress(OSError):
        for file in (root / CLAIMS).glob(f"*-run-{identity}"):
            file.unlink(missing_ok=True)


def claims(root: Path) -> list[Claim]:
    """Every claim in a store, those that no longer count among them. UserError where they cannot be read."""
    try:
        names = sorted(os.listdir(root / CLAIMS))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(root / CLAIMS, error) from None
    found = []
    for file in names:
        if match := _NAME.fullmatch(file):
            process, identity = (match[4], None) if match[3] == "process" else (None, match[4])
            found.append(Claim(root / CLAIMS / file, match[1], int(match[2]), process, identity))
    return found


def _create(root: Path, name: str, number: int) -> Path:
    folder = root / CLAIMS
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    file = folder / unique_name(f"{name}@v{number:04d}-process-{processes.tag()}-")
    # Not synced: after a power cut there is no process that needs anything.
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    return file


@atexit.register
def release() -> None:
    """Give up what this process claims; a fork has inherited the list and not the claims."""
    mine = f"-process-{processes.tag()}-"
    with _lock:
        for file in _mine.values():
            if mine in file.name:
                with contextlib.suppress(OSError):
                    file.unlink()
        _mine.clear()

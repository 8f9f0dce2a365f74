"""What a process that died has left in a store: unpublished folders, unfinished transfers, torn files.

The hidden name of such a folder ends in the tag of the process that owns it. As long as that process lives, nobody
else touches it, however old it looks.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from align.artifacts.store import GOING, STAGING, TRASH, Store
from align.distributed import processes

INCOMING = ".incoming-"
WRITING = ".writing-"
_PREFIXES = (STAGING, INCOMING, TRASH, GOING, WRITING)
_DAY = 86400.0
_HOUR = 3600.0


def find_leftovers(store: Store, grace_days: float) -> list[Path]:
    """What died before it was done and has not been touched for the grace period.

    What no process of this host owns is left alone for a day at least, and files that are written, or deleted, in a
    moment for an hour: clocks of hosts differ, and so may what one sees of another's processes.
    """
    leftovers = []
    for path in _hidden(store):
        alive = processes.owner_is_alive(path.name)
        if alive:
            continue
        least = 0.0 if alive is False else _DAY if path.name.startswith((STAGING, INCOMING)) else _HOUR
        # Gone while it is looked at: its owner was done with it, or another collection took it.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if time.time() - last_change(path) >= max(grace_days * _DAY, least):
                leftovers.append(path)
    return sorted(leftovers)


def last_change(path: Path) -> float:
    """When anything in a folder was last written, or the folder hidden, in seconds since the epoch."""
    times = [entry.lstat().st_mtime for entry in (path, *path.rglob("*"))]
    return max(*times, path.lstat().st_ctime if path.name.startswith(TRASH) else 0.0)


def _hidden(store: Store) -> Iterator[Path]:
    """Everything in the store whose name says that it is not finished."""
    folders = [store.root]
    for home in store.homes():
        folders += [home, home / ".removed", home / "pins"]
        with contextlib.suppress(OSError):
            folders += (home / "aliases").iterdir()
    for folder in folders:
        with contextlib.suppress(OSError):
            yield from (path for path in folder.iterdir() if path.name.startswith(_PREFIXES))

"""A disk that fails on purpose: every file operation counted, one of them made to go wrong, and power cuts.

`Disk` takes the place of the system calls that change files under one folder. It remembers what an fsync has made
durable: a file's bytes by its own fsync, a folder's names by the folder's. `after_power_cut` builds what could be
found afterwards, from the harshest outcome (whatever was not synced is gone) to a kind one.
"""

import builtins
import errno
import os
import random
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CALLS = ("open", "write", "fsync", "rename", "replace", "link", "mkdir", "unlink", "rmdir", "chmod", "sendfile")
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


class Crash(BaseException):
    """The process is gone; not even its `finally` clauses reach the disk any more."""


class Disk:
    """The disk under `world`; the call with number `at` (from 1) fails in the given way, 0 is none.

    Ways: "crash" (before the call), EIO, ENOSPC, and "short" (a write takes half of what it is given).
    """

    def __init__(self, world: Path, at: int = 0, way: str = "crash"):
        self.world, self.at, self.way = world, at, way
        self.count = 0
        self.hit = ""  # the call that failed
        self.dead = False
        self._real = {name: getattr(os, name) for name in CALLS}
        self._open = builtins.open
        self._held: list[int] = []  # keeps removed inodes from being given to new files
        self._lock = threading.RLock()
        self._known_folders: set[int] = set()  # by inode, those that are gone among them
        self._folders: dict[int, dict[str, int]] = {}
        self._files: dict[int, bytes] = {}
        for here, _, names in os.walk(world):
            self._folders[os.stat(here).st_ino] = self._names(here)
            for name in names:
                path = Path(here, name)
                self._files[path.lstat().st_ino] = path.read_bytes()
        self._root = os.stat(world).st_ino

    @contextmanager
    def running(self) -> Iterator["Disk"]:
        """Stand between the program and the disk."""
        for name in CALLS:
            setattr(os, name, self._instead_of(name))
        builtins.open = self._builtin_open
        try:
            yield self
        finally:
            for name, call in self._real.items():
                setattr(os, name, call)
            builtins.open = self._open

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()

    def after_power_cut(self, target: Path, *, luck: float = 0.0, seed: int = 0) -> Path:
        """Build in `target` what is left of the world.

        `luck` is the chance that a folder's names, or a file's bytes, got to the disk without an fsync: 0 is the
        harshest outcome; a file whose name survived and whose bytes did not is empty. A rename is one transaction of
        the file system: a folder that was moved is at its old place or at its new one, never at neither.
        """
        dice = random.Random(seed)
        placed: set[int] = set()
        now_folders: dict[int, dict[str, int]] = {}
        now_files: dict[int, bytes] = {}
        for here, _, names in os.walk(self.world):
            now_folders[os.stat(here).st_ino] = self._names(here)
            for name in names:
                path = Path(here, name)
                now_files[path.lstat().st_ino] = path.read_bytes()

        def build(inode: int, place: Path) -> None:
            placed.add(inode)
            place.mkdir()
            durable, now = self._folders.get(inode, {}), now_folders.get(inode)
            names = now if now is not None and dice.random() < luck else durable
            for name, child in sorted(names.items()):
                if child in self._known_folders:
                    build(child, place / name)
                else:
                    kind = child in now_files and dice.random() < luck
                    (place / name).write_bytes(now_files[child] if kind else self._files.get(child, b""))

        build(self._root, target)
        durable = {child for names in self._folders.values() for child in names.values()}
        for here, _, _ in os.walk(self.world):
            inode, place = os.stat(here).st_ino, target / Path(here).relative_to(self.world)
            if inode in durable and inode not in placed and place.parent.is_dir() and not place.exists():
                build(inode, place)
        return target

    # -- calls ---------------------------------------------------------------------------------------------------

    def _instead_of(self, name: str):
        real = self._real[name]

        def call(*given, **options):
            if not self._is_ours(name, given):
                return real(*given, **options)
            with self._lock:
                short = self._count(name)
                if name == "fsync":
                    return self._sync(given[0])
                if name in ("unlink", "rmdir", "replace"):
                    self._hold(given[-1])
                if name == "write" and short and len(given[1]) > 1:
                    return real(given[0], bytes(given[1])[: len(given[1]) // 2])
                return real(*given, **options)

        return call

    def _builtin_open(self, file, mode="r", *given, **options):
        if (
            isinstance(file, str | os.PathLike)
            and set(mode) & set("wax+")
            and self._is_ours("open", (file, os.O_CREAT))
        ):
            with self._lock:
                self._count("open")
        return self._open(file, mode, *given, **options)

    def _count(self, name: str) -> bool:
        if self.dead:
            raise Crash(name)
        self.count += 1
        if self.count != self.at:
            return False
        self.hit = name
        if self.way == "crash":
            self.dead = True
            raise Crash(name)
        if self.way == "short":
            return True
        raise OSError(ERRORS[self.way], os.strerror(ERRORS[self.way]))

    def _is_ours(self, name: str, given: tuple) -> bool:
        if name == "open" and not (given[1] & os.O_CREAT):
            return False
        one = given[0]
        if isinstance(one, int):
            try:
                one = os.readlink(f"/proc/self/fd/{one}")
            except OSError:
                return False
        return os.path.abspath(os.fspath(one)).startswith(str(self.world))

    def _sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self._folders[status.st_ino] = self._names(f"/proc/self/fd/{descriptor}")
        else:
            with self._open(f"/proc/self/fd/{descriptor}", "rb") as file:
                self._files[status.st_ino] = file.read()

    def _hold(self, path) -> None:
        try:
            self._held.append(self._real["open"](path, os.O_RDONLY))
        except OSError:
            return

    def _names(self, folder) -> dict[str, int]:
        with os.scandir(folder) as found:
            entries = list(found)
        self._known_folders |= {entry.inode() for entry in entries if entry.is_dir(follow_symlinks=False)}
        return {entry.name: entry.inode() for entry in entries}

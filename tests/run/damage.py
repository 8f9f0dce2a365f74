"""Damage to what a run that died has left: its checkpoints, its folder, and the cache of its data."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Damage = Callable[[Path], None]


def _rewrite(file: Path, content: bytes) -> None:
    """New content under the same name; a file that is linked elsewhere keeps its own there."""
    mode = file.stat().st_mode
    file.unlink()
    file.write_bytes(content)
    file.chmod(mode | 0o600)


def flip(file: Path) -> None:
    """One bit, at a place that the file's name decides."""
    content = bytearray(file.read_bytes())
    content[random.Random(file.name).randrange(len(content))] ^= 1
    _rewrite(file, bytes(content))


def zero(file: Path) -> None:
    _rewrite(file, bytes(file.stat().st_size))


def cut(file: Path) -> None:
    _rewrite(file, file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    _rewrite(file, b"")


def append(file: Path) -> None:
    _rewrite(file, file.read_bytes() + b"more\n")


def remove(file: Path) -> None:
    file.unlink()


def to_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


KINDS: tuple[Damage, ...] = (flip, zero, cut, empty, append, remove, to_folder)


@dataclass(frozen=True)
class Case:
    """One file, relative to the world of a run, and what is done to it."""

    file: str
    damage: Damage

    def __str__(self) -> str:
        return f"{self.damage.__name__} {self.file}"

    def do(self, world: Path) -> None:
        self.damage(world / self.file)


def cases(world: Path, place: str) -> list[Case]:
    """Every kind of damage to every file of one place: the last `checkpoint`, the run's `folder`, or the `cache`."""
    (last,) = (world / "store" / ".runs").glob("*/checkpoints/checkpoint-4")
    run = last.parents[1]
    if place == "checkpoint":
        files = [path for path in last.rglob("*") if path.is_file()]
    elif place == "folder":
        files = [path for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    else:
        files = [path for path in (world / "cache" / "align").rglob("*") if path.is_file()]
        files = [path for path in files if "sessions" not in path.parts]  # of a process, and gone with it
    return [
        Case(file.relative_to(world).as_posix(), damage)
        for file in sorted(files)
        for damage in ((flip, remove) if file.suffix == ".blake3" else KINDS)  # a hash is right or it is not
    ]


def copy_world(template: Path, target: Path) -> Path:
    """A world to damage; sessions of the cache belong to the process that made them."""
    shutil.copytree(template, target, ignore=shutil.ignore_patterns("sessions"))
    for path in (target / "store" / ".runs").iterdir():
        os.chmod(path, 0o700)
    return target

"""Aliases: a folder of numbered entries, each created exclusively; the highest whole one is the alias.

No lock is needed and none is trusted: moving an alias is creating the next entry, which only one process can.
"""

import getpass
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from align.artifacts.disk import create_exclusively, make_folder, read_regular, unreadable
from align.artifacts.refs import check_alias
from align.errors import UserError

_NUMBER = re.compile(r"[0-9]{6,18}", re.ASCII)
_LARGEST = 10_000  # bytes of an entry


@dataclass(frozen=True)
class AliasEntry:
    """One move of an alias."""

    number: int  # its place in the log, from 1
    version: int
    when: str  # ISO 8601, UTC
    who: str  # user@host


def read_log(folder: Path) -> list[AliasEntry]:
    """The whole entries in an alias's folder, oldest first; torn ones (a crash without hard links) are skipped.

    Raises:
        UserError: the folder cannot be read.
    """
    return [entry for number in _numbers(folder) if (entry := _read_entry(folder, number))]


def read_current(folder: Path) -> AliasEntry | None:
    """The highest whole entry in an alias's folder; UserError if the folder cannot be read."""
    return next((entry for number in reversed(_numbers(folder)) if (entry := _read_entry(folder, number))), None)


def move(
    folder: Path, version: int, when: str, *, forward_only: bool = False, expect: int | None = None
) -> AliasEntry:
    """Point the alias kept in `folder` at `version` and return the entry that holds.

    `forward_only` leaves an alias alone that is at `version` or beyond it, so that of two runs which publish at the
    same time the higher version wins whoever comes last. `expect` is the version it must be at to be moved, 0 where
    it must be new: compare and swap. UserError if it is at neither `expect` nor `version`.
    """
    check_alias(folder.name)
    make_folder(folder)
    while True:
        # The highest number first, then the state: who moves the alias in between takes the number, and we look again.
        taken = max(_numbers(folder), default=0)
        current = read_current(folder)
        if current and (current.version == version or (forward_only and current.version > version)):
            return current
        at = current.version if current else 0
        if expect is not None and at != expect:
            where = f"at v{at}, moved there on {current.when[:10]} by {current.who}" if current else "not set"
            asked = f"v{expect}" if expect else "new"
            raise UserError(f"alias {folder.name} is {where}, not {asked} as expected: look again, then decide")
        entry = AliasEntry(taken + 1, version, when, who())
        line = json.dumps({"version": version, "when": when, "who": entry.who}, ensure_ascii=False) + "\n"
        if create_exclusively(_entry_path(folder, entry.number), line.encode()):
            return entry


def _entry_path(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}"


def _numbers(folder: Path) -> list[int]:
    """The numbers of an alias's entries, ascending."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from None
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def _read_entry(folder: Path, number: int) -> AliasEntry | None:
    try:
        text = read_regular(_entry_path(folder, number), _LARGEST).decode("utf-8")
        body = json.loads(text) if text.endswith("\n") else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or type(body.get("version")) is not int:
        return None
    return AliasEntry(number, body["version"], str(body.get("when", "")), str(body.get("who", "")))


def who() -> str:
    """user@host of this process."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user id that no one has named
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}"

"""Versions that are no longer there: what became of them, so that whoever asks for one is told.

A note is written before its version goes, so a crash between the two leaves a version with a note, and the version
counts. A number that has a note is never used again.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from align.artifacts.disk import make_folder, read_regular, sync_folder, unreadable, write_durably

CORRUPT, COLLECTED = "corrupt", "collected"
_NOTES = ".removed"
_NOTE = re.compile(r"v([0-9]{4,18})(?:\.json)?", re.ASCII)
_LARGEST = 1_000_000  # bytes of a note
QUARANTINE = ".quarantine"


@dataclass(frozen=True)
class Removal:
    """One version that was taken out of the store."""

    ref: str
    digest: str | None  # as its manifest had it, where that could be read
    why: str  # CORRUPT or COLLECTED
    when: str  # ISO 8601, UTC
    who: str  # user@host
    folder: str | None = None  # where it is kept, inside the folder of its name
    evidence: tuple[str, ...] = ()  # a sentence for each thing that was wrong

    def sentence(self, home: Path) -> str:
        """What to tell who asks for it; `home` is the folder of its name."""
        day = self.when[:10]
        if self.why == COLLECTED:
            return (
                f"{self.ref} was removed by `align artifacts gc` on {day} ({self.who}); pull it from a remote store, "
                "or make it again"
            )
        more = f", and {len(self.evidence) - 1} more" if len(self.evidence) > 1 else ""
        return (
            f"{self.ref} is corrupt and was quarantined on {day}: {self.evidence[0] if self.evidence else '?'}{more}; "
            f"it is kept in {home / (self.folder or QUARANTINE)}. Pull it from a remote store, or make it again"
        )


def write_removal(home: Path, number: int, removal: Removal) -> None:
    """Leave a durable note about version `number` of the name whose folder is `home`."""
    make_folder(home / _NOTES)
    text = json.dumps(asdict(removal), indent=2, ensure_ascii=False) + "\n"
    write_durably(_note(home, number), text.encode(), 0o444)
    sync_folder(home / _NOTES)


def read_removal(home: Path, number: int) -> Removal | None:
    """The note about a version, or None if there is no whole one."""
    try:
        body = json.loads(read_regular(_note(home, number), _LARGEST))
        known = {field.name for field in fields(Removal)}
        body = {key: value for key, value in body.items() if key in known}
        removal = Removal(**body | {"evidence": tuple(map(str, body.get("evidence", ())))})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = (removal.ref, removal.why, removal.when, removal.who, removal.folder or "")
    return removal if all(isinstance(text, str) for text in texts) else None


def removed_numbers(home: Path) -> list[int]:
    """The numbers that have a note.

    Raises:
        UserError: they cannot be read, so that the next number is not known.
    """
    try:
        names = os.listdir(home / _NOTES)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(home / _NOTES, error) from None
    return sorted(int(match[1]) for name in names if (match := _NOTE.fullmatch(name)))


def forget_removal(home: Path, number: int) -> None:
    """The version is back."""
    _note(home, number).unlink(missing_ok=True)


def _note(home: Path, number: int) -> Path:
    return home / _NOTES / f"v{number:04d}.json"

"""How far a run is: `progress.json` in its folder, which the run writes now and then and `align runs` reads."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from align.artifacts.disk import unique_name

PROGRESS_FILE = "progress.json"
EVERY = 2.0  # seconds between two notes


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done, total: in `unit`.
        unit: `steps` of the optimizer, or `models`, `answers`.
        rate: units per second since this process began with the first of them; None before the second.
        at: seconds since the epoch.
    """

    done: int
    total: int
    unit: str = "steps"
    rate: float | None = None
    at: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate of the time until the end; None where there is no rate yet."""
        return (self.total - self.done) / self.rate if self.rate else None

    def __str__(self) -> str:
        share = f" ({self.done / self.total:.0%})" if self.total > 0 else ""
        return f"{self.done}/{self.total} {self.unit}{share}"


class ProgressWriter:
    """Notes how far a run is, at most every `EVERY` seconds; the last unit is always noted.

    A disk that takes no note is not reported: what matters on it is reported by whoever writes that.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic):
        self._file = folder / PROGRESS_FILE
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._written = float("-inf")

    def note(self, done: int, total: int, unit: str = "steps") -> None:
        """Note that `done` of `total` are done."""
        now = self._clock()
        if self._first is None:
            self._first = (now, done)
        if now - self._written < EVERY and done < total:
            return
        self._written = now
        began, before = self._first
        rate = (done - before) / (now - began) if now > began and done > before else None
        progress = Progress(done, total, unit, rate, time.time())
        temporary = self._file.with_name(unique_name(".writing-"))
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(asdict(progress)) + "\n", "utf-8")
            os.replace(temporary, self._file)


def read_progress(folder: Path) -> Progress | None:
    """What a run noted last; None where it noted nothing, as runs of align 0.1.0."""
    try:
        body = json.loads((folder / PROGRESS_FILE).read_bytes())
        return Progress(int(body["done"]), int(body["total"]), str(body["unit"]), body["rate"], float(body["at"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None

"""Following a run while it works: what it logs, as it logs it, until it ends."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from align.artifacts.store import Store
from align.artifacts.text import clock, printable, short_number
from align.errors import UserError
from align.runs.listing import result_of
from align.runs.metrics_file import STEP, parse_row
from align.runs.record import (
    METRICS_FILE,
    RUNNING,
    Run,
    find_run,
    live_headline,
    publications,
    read_run,
    read_runs,
)

EVERY = 2.0  # seconds between two looks
QUIET = 30.0  # seconds without a row after which a line tells how far the run is


def the_run_at_work(store: Store, text: str | None) -> Run:
    """The run that a user names, or the only one at work.

    Raises:
        UserError: none is named, and none is at work, or several are.
    """
    if text is not None:
        return find_run(store, text)
    working = [run for run in read_runs(store) if run.state == RUNNING]
    if not working:
        raise UserError(f"no run in {store.runs_root} is at work; align runs ls shows those that have ended")
    if len(working) > 1:
        names = ", ".join(f"{run.name} {run.short}" for run in working)
        raise UserError(f"{len(working)} runs are at work ({names}); name one: align runs watch {working[0].short}")
    return working[0]


@dataclass(frozen=True)
class Look:
    """A run at one moment, and what it has logged since the look before."""

    run: Run
    rows: list[dict[str, float]]

    @property
    def is_last(self) -> bool:
        """Whether the run has ended."""
        return self.run.state != RUNNING


def follow(
    store: Store, run: Run, *, every: float = EVERY, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Look]:
    """Look at a run again and again until it has ended; the first look also gives the last few rows before it.

    A resumed run rewinds its file to its checkpoint: its rows are then given again, as they are logged again.
    """
    file = run.folder / METRICS_FILE
    place = _start(file)
    while True:
        now = read_run(store, run.folder, publications(store))
        rows, place = _new_rows(file, place)
        look = Look(now, rows)
        yield look
        if look.is_last:
            return
        sleep(every)


class Screen:
    """The lines of a run that is watched: its rows, and in between how far it is.

    On a terminal the progress is one line that is written over; elsewhere it is a line now and then.

    Args:
        write: prints text as it is, without a line break.
        clock: seconds.
    """

    def __init__(
        self, write: Callable[[str], None], *, is_terminal: bool, clock: Callable[[], float] = time.monotonic
    ):
        self._write = write
        self._is_terminal = is_terminal
        self._clock = clock
        self._written = clock()
        self._progress = ""

    def show(self, look: Look) -> None:
        """Show what is new."""
        for row in look.rows:
            self._line(line_of(look.run, row))
        if look.is_last:
            self._line(ending_of(look.run))
            return
        progress = progress_line(look.run)
        if self._is_terminal:
            self._write(f"\r\x1b[K{progress}")
        elif progress != self._progress and self._clock() - self._written >= QUIET:
            self._line(progress)
        self._progress = progress

    def _line(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}\n" if self._is_terminal else f"{text}\n")
        self._written = self._clock()


def line_of(run: Run, row: dict[str, float]) -> str:
    """A row as one line: the step, the metrics that speak for the run, and the time left."""
    metrics = {name: value for name, value in row.items() if name != STEP}
    names = live_headline(run.stage, metrics, 4) or list(metrics)[:4]
    total = (
        f"/{run.progress.total}" if run.progress and run.progress.unit == "steps" and run.progress.total > 0 else ""
    )
    shown = "  ".join(f"{name} {short_number(metrics[name])}" for name in names)
    return printable(f"{run.name:<9} step {int(row[STEP])}{total}  {shown}")


def ending_of(run: Run) -> str:
    """How a run ended, in one line."""
    return printable(f"{run.name:<9} {run.state}: {result_of(run)}")


def progress_line(run: Run) -> str:
    """How far a run is, in one line."""
    if run.progress is None:
        return f"{run.name:<9} has noted no progress yet"
    left = run.progress.seconds_left
    return f"{run.name:<9} {run.progress}" + (f"  about {clock(left)} left" if left is not None else "")


def json_line(row: dict[str, float]) -> str:
    """A row for programs; NaN and infinity as text, as in the file."""
    return json.dumps({name: value if value - value == 0 else str(value) for name, value in row.items()})


_BEFORE = 4096  # bytes of the file that are shown when one begins to watch


def _start(file: Path) -> int:
    try:
        return max(0, file.stat().st_size - _BEFORE)
    except OSError:
        return 0


def _new_rows(file: Path, place: int) -> tuple[list[dict[str, float]], int]:
    """The whole lines from a place in the file on, and the place after them."""
    try:
        with file.open("rb") as stream:
            if stream.seek(0, 2) < place:
                place = _start(file)  # it was rewound
            stream.seek(place)
            text = stream.read()
    except OSError:
        return [], place
    end = text.rfind(b"\n") + 1
    rows = [parse_row(line) for line in text[:end].split(b"\n")]
    return [row for row in rows if row is not None], place + end

"""Reading `metrics.jsonl`, also while a run writes it: the numbers that a trainer logs, one line for each log."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEP = "step"
_TAIL = 1 << 16  # bytes: some dozens of lines
_MOST = 1 << 63  # no integer that a trainer logs is larger


@dataclass
class Curves:
    """metric -> its points (step, value) in the order in which they were logged; values may be NaN or infinite."""

    points: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The metrics, sorted."""
        return sorted(self.points)

    def last(self) -> dict[str, float]:
        """The last value of each metric."""
        return {name: points[-1][1] for name, points in self.points.items()}


def read_curves(file: Path) -> Curves:
    """Every curve in a metrics file; an empty one where there is no file."""
    curves = Curves()
    for row in read_rows(file):
        for name, value in row.items():
            if name != STEP:
                curves.points.setdefault(name, []).append((int(row[STEP]), value))
    return curves


def read_rows(file: Path) -> Iterator[dict[str, float]]:
    """The rows of a metrics file; a line that is cut off, or still being written, is left out."""
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        return
    with stream:
        for line in stream:
            if (row := parse_row(line)) is not None:
                yield row


def last_values(file: Path) -> dict[str, float]:
    """The last value of each metric, and of `step`, in the end of the file alone."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL))
            lines = stream.read().split(b"\n")
    except FileNotFoundError:
        return {}
    values: dict[str, float] = {}
    for line in lines[1:] if size > _TAIL else lines:
        values |= parse_row(line) or {}
    return values


def parse_row(line: bytes) -> dict[str, float] | None:
    """The numbers in one line; None for a line that is no row of a metrics file."""
    if not line.strip():
        return None
    try:
        row = json.loads(line)
        step = row[STEP]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < _MOST:
        return None
    numbers = {name: number for name, value in row.items() if (number := _number(value)) is not None}
    return numbers


def _number(value: Any) -> float | None:
    """A value as a number: NaN and infinity are written as text, because JSON has none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, int | float) and not (isinstance(value, int) and abs(value) >= _MOST):
        return value if isinstance(value, int) or math.isfinite(value) else float(value)
    return None

"""Curves in a terminal, drawn with characters."""

import math
from collections.abc import Mapping, Sequence

from align.artifacts.text import printable, short_number

WIDTH, HEIGHT = 64, 10  # characters of the plot itself
_MARKS = "abcdefghijklmnopqrstuvwxyz"
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # rows of two dots in one character

Points = Sequence[tuple[int, float]]


def plot(title: str, curves: Mapping[str, Points], *, width: int = WIDTH, height: int = HEIGHT) -> str:
    """One metric of one run or several, with its range at the left and the steps below.

    One curve is drawn in dots, of which a character holds eight; of several, each has a letter of its own.

    Args:
        curves: name of the run -> (step, value); what is not finite leaves a gap.
    """
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    every = [point for points in finite.values() for point in points]
    if not every:
        return f"{printable(title)}: no finite value"
    first, last = min(step for step, _ in every), max(step for step, _ in every)
    low, high = min(value for _, value in every), max(value for _, value in every)
    if len(curves) == 1:
        rows = _dots(next(iter(finite.values())), (first, last, low, high), width, height)
    else:
        rows = _letters(list(finite.values()), (first, last, low, high), width, height)
    labels = [short_number(float(high)), *[""] * (height - 2), short_number(float(low))]
    margin = max(len(label) for label in labels)
    lines = [printable(title)]
    lines += [f"{label:>{margin}} ┤{row}".rstrip() for label, row in zip(labels, rows, strict=True)]
    lines.append(f"{'':>{margin}} └{'─' * width}")
    lines.append(f"{'':>{margin}}  {first}{f'step {last}':>{width - len(str(first))}}")
    if len(curves) > 1:
        legend = zip(_MARKS, finite.items(), strict=False)
        lines += [f"  {mark} {printable(name)}{'' if points else ' (none)'}" for mark, (name, points) in legend]
    return "\n".join(lines)


def _places(points: Points, frame: tuple[int, int, float, float], width: int, height: int) -> list[tuple[int, int]]:
    """(column, row from the top) of each point in a grid, and of the line between one and the next."""
    first, last, low, high = frame
    across = (width - 1) / (last - first) if last > first else 0.0
    down = (height - 1) / (high - low) if high > low else 0.0
    exact = [((step - first) * across, (high - value) * down) for step, value in points]
    places = [(round(x), round(y)) for x, y in exact[:1]]
    for (x, y), (to_x, to_y) in zip(exact, exact[1:], strict=False):
        count = max(1, math.ceil(max(abs(to_x - x), abs(to_y - y))))
        for part in range(1, count + 1):
            share = part / count
            places.append((round(x + (to_x - x) * share), round(y + (to_y - y) * share)))
    return places


def _dots(points: Points, frame: tuple[int, int, float, float], width: int, height: int) -> list[str]:
    cells = [[0] * width for _ in range(height)]
    for column, row in _places(points, frame, 2 * width, 4 * height):
        cells[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    return ["".join(chr(_BRAILLE + cell) if cell else " " for cell in row) for row in cells]


def _letters(curves: Sequence[Points], frame: tuple[int, int, float, float], width: int, height: int) -> list[str]:
    cells = [[" "] * width for _ in range(height)]
    for number, points in enumerate(curves):
        for column, row in _places(points, frame, width, height):
            cells[row][column] = _MARKS[number % len(_MARKS)]
    return ["".join(row) for row in cells]

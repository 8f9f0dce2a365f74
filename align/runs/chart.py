"""One metric of one run or several as inline SVG: lines with axes, in the colours of the page around it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from align.artifacts.text import printable, short_number

WIDTH, HEIGHT = 480, 250
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 34  # room for the labels of the axes
COLORS = 8  # --c0 to --c7 of the page
_MOST = 800  # points of a line that a drawing keeps
_CELL = 0.62  # width of a digit, in font sizes
_FONT = 11

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        label: whose it is.
        run: the number of its run, which gives it its colour in every chart.
        points: (step, value); what is not finite leaves a gap.
        held_out: whether the values are of an evaluation; drawn dashed, with dots.
    """

    label: str
    run: int
    points: Points
    held_out: bool = False

    @property
    def finite(self) -> list[tuple[int, float]]:
        """The points that can be drawn."""
        return [(step, value) for step, value in self.points if math.isfinite(value)]


@dataclass(frozen=True)
class Frame:
    """What the axes of a chart span."""

    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        """Where a step lies."""
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / ((self.last - self.first) or 1)

    def y(self, value: float) -> float:
        """Where a value lies."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.low) / ((self.high - self.low) or 1)


def frame_of(lines: Sequence[Line]) -> Frame | None:
    """The axes that show every point; None where there is none to show."""
    points = [point for line in lines for point in line.finite]
    if not points:
        return None
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if low == high == 0:
        high = 1.0  # a curve that stays at 0 is usually a share
    room = (high - low) * 0.04 or abs(high) * 0.05
    steps = [step for step, _ in points]
    return Frame(min(steps), max(steps), low - room, high + room)


def chart(title: str, lines: Sequence[Line], number: int) -> str:
    """A chart as a figure; `number` tells charts of one page apart."""
    frame = frame_of(lines)
    head = f"<figcaption>{_text(title)}</figcaption>"
    if frame is None:
        return f'<figure class="card">{head}<p class="soft">no finite value</p></figure>'
    last = ", ".join(
        f"{line.label}{' held out' if line.held_out else ''} {short_number(float(line.finite[-1][1]))}"
        for line in lines
        if line.finite
    )
    drawn = "".join(_line(line, frame, position) for position, line in enumerate(lines))
    box = f"{WIDTH},{HEIGHT},{LEFT},{RIGHT},{TOP},{BOTTOM}"
    span = f'data-box="{box}" data-x="{frame.first:g},{frame.last:g}" data-y="{frame.low:.9g},{frame.high:.9g}"'
    return (
        f'<figure class="card">{head}<svg class="chart" id="chart{number}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{_text(f"{title}, last values: {last}")}" {span}>{_axes(frame)}{drawn}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/></svg></figure>'
    )


def thinned(points: Points, most: int = _MOST) -> list[tuple[int, float]]:
    """At most about `most` points: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept: list[tuple[int, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        low = min(range(len(stretch)), key=lambda place: stretch[place][1])
        high = max(range(len(stretch)), key=lambda place: stretch[place][1])
        kept += [stretch[place] for place in sorted({low, high})]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round values between two others, about `count` of them: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _axes(frame: Frame) -> str:
    floor = HEIGHT - BOTTOM
    parts = []
    for value in ticks(frame.low, frame.high):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>')
    steps = [step for step in ticks(frame.first, frame.last) if step == round(step)]
    for step in dict.fromkeys(steps or [frame.first, frame.last]):
        x = frame.x(step)
        half = len(f"{step:,.0f}") * _CELL * _FONT / 2
        x_text = min(max(x, half), WIDTH - half)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text x="{x_text:.1f}" y="{floor + 16}" text-anchor="middle">{step:,.0f}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">step</text>')
    return "".join(parts)


def _tick(value: float) -> str:
    """A value in at most eight characters."""
    if value == 0:
        return "0"
    return f"{value:.0e}" if abs(value) >= 1e6 or abs(value) < 1e-4 else f"{value:.4g}"


def _line(line: Line, frame: Frame, position: int) -> str:
    kept = thinned(line.finite)
    if not kept:
        return ""
    places = [(frame.x(step), frame.y(value)) for step, value in kept]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    kind = "held" if line.held_out else "train"
    css = f"s{position} run{line.run} r{line.run % COLORS} {kind}"
    shown = f'<polyline class="{css}" points="{path}"/>'
    if line.held_out or len(places) == 1:
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places[-60:])
        shown += f'<g class="dots run{line.run} r{line.run % COLORS}">{dots}</g>'
    return shown


def _text(text: str) -> str:
    return escape(printable(text), quote=True)

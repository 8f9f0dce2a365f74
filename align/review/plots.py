"""Plots as inline SVG, without scripts or styles of their own, readable without colour and by screen readers."""

from collections.abc import Sequence

from markupsafe import Markup, escape

WIDTH = 480
ROW = 26  # units of height per row
LABEL = 110  # units for the names on the left
_VALUE = 60  # units for the numbers on the right


def bars(rows: Sequence[tuple[str, float]], *, title: str, unit: str = "") -> Markup:
    """One horizontal bar per row."""
    most = max((value for _, value in rows), default=0) or 1
    room = WIDTH - LABEL - _VALUE
    parts = []
    for at, (name, value) in enumerate(rows):
        y, long = at * ROW, max(1.0, room * value / most)
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 17}" class="name">{escape(_short(name))}</text>'
            f'<rect x="{LABEL}" y="{y + 5}" width="{long:.1f}" height="16" rx="3" class="bar"/>'
            f'<text x="{LABEL + long + 8:.1f}" y="{y + 17}" class="value">{value:g}{escape(unit)}</text>'
        )
    description = ", ".join(f"{name} {value:g}{unit}" for name, value in rows)
    return _svg(parts, len(rows) * ROW, f"{title}: {description}")


def ranges(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    title: str,
    low: float,
    high: float,
    mark: float | None = None,
    digits: int = 2,
) -> Markup:
    """One dot with its interval per row: (name, value, from, to); `mark` is a line through all rows."""
    room = WIDTH - LABEL - _VALUE

    def x(value: float) -> float:
        return LABEL + room * (min(max(value, low), high) - low) / (high - low)

    parts = [f'<line x1="{LABEL}" x2="{LABEL + room}" y1="{len(rows) * ROW}" y2="{len(rows) * ROW}" class="axis"/>']
    if mark is not None:
        parts.append(f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="0" y2="{len(rows) * ROW}" class="mark"/>')
    for at, (name, value, start, end) in enumerate(rows):
        y = at * ROW + 13
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 4}" class="name">{escape(_short(name))}</text>'
            f'<line x1="{x(start):.1f}" x2="{x(end):.1f}" y1="{y}" y2="{y}" class="range"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="5" class="dot"/>'
            f'<text x="{WIDTH - _VALUE + 8}" y="{y + 4}" class="value">{value:.{digits}f}</text>'
        )
    for value in (low, high):
        anchor = "start" if value == low else "end"
        parts.append(
            f'<text x="{x(value):.1f}" y="{len(rows) * ROW + 15}" text-anchor="{anchor}" class="tick">{value:g}</text>'
        )
    description = ", ".join(f"{n} {v:.{digits}f} ({a:.{digits}f} to {b:.{digits}f})" for n, v, a, b in rows)
    return _svg(parts, len(rows) * ROW + 20, f"{title}: {description}")


def growth(points: Sequence[tuple[float, int]], *, title: str, whole: int) -> Markup:
    """A count over time as an area: (seconds since the epoch, count so far); `whole` is the count it grows to."""
    if len(points) < 2:
        return Markup("")
    height, first, last = 140, points[0][0], points[-1][0]
    top = max(whole, points[-1][1], 1)
    span = (last - first) or 1.0

    def place(at: float, count: float) -> str:
        return f"{8 + (WIDTH - 16) * (at - first) / span:.1f},{8 + height - height * count / top:.1f}"

    line = " ".join(place(at, count) for at, count in points)
    floor = f"{place(last, 0)} {place(first, 0)}"
    parts = [
        f'<line x1="8" x2="{WIDTH - 8}" y1="{8 + height}" y2="{8 + height}" class="axis"/>',
        f'<polygon points="{line} {floor}" class="area"/><polyline points="{line}" class="line"/>',
        f'<line x1="8" x2="{WIDTH - 8}" y1="8" y2="8" class="mark"/>',
        f'<text x="12" y="24" class="tick">{top} needed</text>',
    ]
    return _svg(parts, height + 16, f"{title}: {points[-1][1]} of {whole}")


def _svg(parts: Sequence[str], height: float, description: str) -> Markup:
    inside = "".join(str(part) for part in parts)
    return Markup(
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(description)}">'
        f"{inside}</svg>"
    )


def _short(name: str) -> str:
    return name if len(name) <= 15 else f"{name[:14]}…"

"""A histogram as inline SVG with both axes, in the colours of the page around it."""

from html import escape
from typing import Any

WIDTH, HEIGHT = 440, 180
LEFT, RIGHT, BOTTOM, TOP = 40, 8, 20, 14
COLORS = {"prompt": 0, "text": 0, "completion": 2, "chosen": 2, "good": 2, "rejected": 1, "bad": 1}
"""A side -> the number of its colour on the page, the same in every plot."""


def histogram(title: str, told: dict[str, Any]) -> str:
    """A step outline of each series over shared edges, as a share of its own records.

    Args:
        told: `edges`, `series` (name -> counts) and perhaps `marks` (name -> a place on the axis).
    """
    edges, series = told["edges"], told["series"]
    # a side of many records and one of few are compared by their shapes
    shares = {name: [count / max(1, sum(counts)) for count in counts] for name, counts in series.items()}
    top = max((max(counts, default=0) for counts in shares.values()), default=0) or 1
    step = (WIDTH - LEFT - RIGHT) / max(1, len(edges) - 1)
    axis = HEIGHT - BOTTOM
    shapes = []
    for name, counts in shares.items():
        points = [(LEFT, axis)]
        for position, count in enumerate(counts):
            y = axis - count / top * (axis - TOP)
            points += [(LEFT + position * step, y), (LEFT + (position + 1) * step, y)]
        points.append((LEFT + len(counts) * step, axis))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        color = f"var(--s{COLORS.get(name, 0)})"
        fill = 0.2 if len(shares) == 1 else 0.12
        shapes.append(
            f'<polyline points="{path}" fill="{color}" fill-opacity="{fill}" stroke="{color}" stroke-width="1.5"/>'
        )
    legend = "".join(
        f'<span><i style="background:var(--s{COLORS.get(name, 0)})"></i>{escape(name)}</span>' for name in series
    )
    return (
        f'<div class="card"><b>{escape(title)}</b><p class="legend soft">{legend}</p>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<line x1="{LEFT}" y1="{axis}" x2="{WIDTH - RIGHT}" y2="{axis}" stroke="var(--line)"/>'
        f"{_shares(top)}{''.join(shapes)}{_marks(edges, told.get('marks', {}), step)}{_ticks(edges, step)}</svg></div>"
    )


def _shares(top: float) -> str:
    """The y axis: the share of a series' records in one bin, from 0 to the highest."""
    axis = HEIGHT - BOTTOM
    drawn = [f'<line x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{axis}" stroke="var(--line)"/>']
    for part in (0.0, 0.5, 1.0):
        y = axis - part * (axis - TOP)
        place = f'x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end"'
        drawn.append(f'<line x1="{LEFT - 3}" y1="{y:.1f}" x2="{LEFT}" y2="{y:.1f}" stroke="var(--line)"/>')
        drawn.append(f"<text {place}>{100 * part * top:.3g}%</text>")
    return "".join(drawn) + f'<text x="{LEFT + 4}" y="{TOP - 4}">share of records</text>'


def _ticks(edges: list[float], step: float) -> str:
    last = len(edges) - 1
    ticks = []
    for at in (0, len(edges) // 4, len(edges) // 2, 3 * len(edges) // 4, last):
        anchor = "start" if at == 0 else "end" if at == last else "middle"
        place = f'x="{LEFT + at * step:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}"'
        ticks.append(f"<text {place}>{edges[at]:,}{'+' if at == last else ''}</text>")
    return "".join(ticks)


def _marks(edges: list[float], marks: dict[str, float], step: float) -> str:
    """Dashed lines at places on the axis, their names beside them."""
    drawn = []
    for name, value in marks.items():
        share = (value - edges[0]) / (edges[-1] - edges[0])
        if not 0 <= share <= 1:
            continue
        x = LEFT + share * step * (len(edges) - 1)
        drawn.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" class="mark"/>')
        anchor, offset = ("end", -4) if share > 0.6 else ("start", 4)
        drawn.append(
            f'<text x="{x + offset:.1f}" y="{TOP + 8}" text-anchor="{anchor}">{escape(name)} {value:,}</text>'
        )
    return "".join(drawn)

"""Where the boxes and lines of a lineage lie: sources on the left, the version on the right, no line across a box.

A layered layout after Sugiyama, Tagawa and Toda 1981 ("Methods for visual understanding of hierarchical system
structures"): a column for each distance from the version, a lane through the columns for each line that is longer than
one, and rows ordered by the mean place of their neighbours, which leaves few crossings.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

ROW_GAP, LANE_HEIGHT, MARGIN = 22, 14, 20  # pixels
_SWEEPS = 8

Key = Hashable


@dataclass(frozen=True)
class Size:
    """What a node takes: its box, and the room to the right of it for the label of its lines; pixels."""

    width: int
    height: int
    label: int = 0


@dataclass
class Layout:
    """Where everything is, in pixels from the top left corner.

    Attributes:
        places: node -> x, y of its box.
        widths: node -> width of its box, that of its column.
        routes: (parent, child) -> the points of a line from the right side of one box to the left side of the other.
        width, height: of the drawing.
    """

    places: dict[Key, tuple[int, int]] = field(default_factory=dict)
    widths: dict[Key, int] = field(default_factory=dict)
    routes: dict[tuple[Key, Key], list[tuple[int, int]]] = field(default_factory=dict)
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class _Lane:
    """The place in a column where a node's lines to columns further on pass."""

    parent: Key
    column: int


def lay_out(root: Key, edges: Sequence[tuple[Key, Key]], sizes: Mapping[Key, Size], gap: int = 90) -> Layout:
    """Place the nodes that `root` was made from.

    Args:
        edges: (child, parent) pairs; one that closes a circle, which only a forged manifest has, is left out.
        sizes: of every node.
        gap: the least room between two columns for lines.
    """
    edges = _without_cycles(root, edges)
    depths = _depths(root, edges)
    columns: list[list[Key]] = [[] for _ in range(max(depths.values()) + 1)]
    for node, depth in depths.items():
        columns[depth].append(node)
    links: dict[tuple[Key, Key], None] = {}  # neighbours in neighbouring columns: (nearer to the root, further)
    for child, parent in edges:
        before: Key = child
        for column in range(depths[child] + 1, depths[parent]):
            lane = _Lane(parent, column)
            if lane not in columns[column]:
                columns[column].append(lane)
            links[before, lane] = None
            before = lane
        links[before, parent] = None
    _order(columns, list(links))

    layout = Layout()
    heights = [_stack(column, sizes) for column in columns]
    layout.height = 2 * MARGIN + max(total for _, total in heights)
    x = MARGIN
    middles: dict[Key, int] = {}
    left: dict[Key, int] = {}
    right: dict[Key, int] = {}
    for depth in reversed(range(len(columns))):
        boxes = [node for node in columns[depth] if not isinstance(node, _Lane)]
        width = max(sizes[node].width for node in boxes)
        tops, total = heights[depth]
        shift = (layout.height - total) // 2
        for node, top in tops.items():
            height = LANE_HEIGHT if isinstance(node, _Lane) else sizes[node].height
            middles[node] = top + shift + height // 2
            left[node], right[node] = x, x + width
            if not isinstance(node, _Lane):
                layout.places[node], layout.widths[node] = (x, top + shift), width
        x += width + (max(gap, *(sizes[node].label + gap * 2 // 3 for node in boxes)) if depth else MARGIN)
    layout.width = x
    for child, parent in edges:
        through = [_Lane(parent, column) for column in range(depths[parent] - 1, depths[child], -1)]
        # level as far as the label goes, so that no line crosses its own label
        points = [(right[parent], middles[parent]), (right[parent] + sizes[parent].label, middles[parent])]
        points += [(side[lane], middles[lane]) for lane in through for side in (left, right)]
        layout.routes[parent, child] = [*points, (left[child], middles[child])]
    return layout


def _without_cycles(root: Key, edges: Sequence[tuple[Key, Key]]) -> list[tuple[Key, Key]]:
    """The edges without those that lead back to a node on the way to them."""
    parents: dict[Key, list[Key]] = {}
    for child, parent in edges:
        parents.setdefault(child, []).append(parent)
    kept: list[tuple[Key, Key]] = []
    done: set[Key] = set()
    path: dict[Key, list[Key]] = {root: list(parents.get(root, []))}  # node -> parents still to visit
    while path:
        node, left = next(reversed(path.items()))
        if not left:
            done.add(node)
            del path[node]
            continue
        parent = left.pop(0)
        if parent not in path:
            kept.append((node, parent))
            if parent not in done:
                path[parent] = list(parents.get(parent, []))
    return kept


def _depths(root: Key, edges: Sequence[tuple[Key, Key]]) -> dict[Key, int]:
    """Steps of the longest way from the root, so that every line points one way."""
    children: dict[Key, list[Key]] = {root: []}
    for child, parent in edges:
        children.setdefault(parent, []).append(child)
    depths: dict[Key, int] = {}
    for node in TopologicalSorter(children).static_order():
        depths[node] = max((depths[child] + 1 for child in children[node]), default=0)
    return depths


def _order(columns: list[list[Key]], links: Sequence[tuple[Key, Key]]) -> None:
    """Sort each column by the mean place of its neighbours, sweeping to and fro."""
    nearer: dict[Key, list[Key]] = {}
    further: dict[Key, list[Key]] = {}
    for near, far in links:
        nearer.setdefault(far, []).append(near)
        further.setdefault(near, []).append(far)
    for sweep in range(_SWEEPS):
        outwards = sweep % 2 == 0
        neighbours = nearer if outwards else further
        for column in columns if outwards else reversed(columns):
            places = {node: place / len(each) for each in columns for place, node in enumerate(each, start=1)}

            def wanted(
                node: Key, places: dict[Key, float] = places, known: dict[Key, list[Key]] = neighbours
            ) -> float:
                mine = known.get(node)
                return sum(places[other] for other in mine) / len(mine) if mine else places[node]

            column.sort(key=wanted)


def _stack(column: Sequence[Key], sizes: Mapping[Key, Size]) -> tuple[dict[Key, int], int]:
    """The top of each node of a column under each other, and the height of all."""
    tops: dict[Key, int] = {}
    height = 0
    for node in column:
        tops[node] = height
        height += (LANE_HEIGHT if isinstance(node, _Lane) else sizes[node].height) + ROW_GAP
    return tops, height - ROW_GAP

"""A lineage as one self-contained SVG: sources on the left, the version on the right, each drawn once."""

from html import escape

from align.artifacts.lineage import Node
from align.artifacts.summary import key_metrics
from align.artifacts.text import minute, printable

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _EDGE = 250, 62, 160, 26, 20  # pixels: a box, the gaps between boxes, the margin
_SHORT = 34  # characters that fit a box
_FILLS = {"model": "#e8f0fe", "reward_model": "#fdeee3", "value_model": "#f3e8fd", "dataset": "#e6f4ea"}
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.name{font-weight:600}.small{font-size:10px;fill:#57606a}"
    ".role{stroke:#fff;stroke-width:3px;paint-order:stroke}"  # legible where a line crosses it
    "rect{stroke:#8c959f;rx:6}path{fill:none;stroke:#8c959f}"
)


def to_svg(root: Node) -> str:
    """The drawing of a lineage; nothing in it is fetched from anywhere."""
    nodes, edges = _graph(root)
    columns: dict[int, list[tuple[str, str]]] = {}
    for key, depth in _depths((root.ref, root.digest), edges).items():
        columns.setdefault(depth, []).append(key)
    deepest = max(columns)
    places = {
        key: (_EDGE + (deepest - depth) * (_WIDTH + _ACROSS), _EDGE + row * (_HEIGHT + _DOWN))
        for depth, keys in columns.items()
        for row, key in enumerate(keys)
    }
    width = 2 * _EDGE + (deepest + 1) * _WIDTH + deepest * _ACROSS
    height = 2 * _EDGE + max(len(keys) for keys in columns.values()) * (_HEIGHT + _DOWN) - _DOWN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img"><title>What {_text(root.ref)} was made from</title><style>{_STYLE}</style>'
        f'<rect width="{width}" height="{height}" fill="#ffffff" style="stroke:none"/>'
    ]
    labels: dict[tuple, list[str]] = {}
    for (child, parent), roles in edges.items():
        lines.append(f'<path d="{_edge(places[parent], places[child])}"/>')
        labels.setdefault(parent, []).extend(roles)
    for parent, roles in labels.items():
        x, y = places[parent]
        text = _cut(", ".join(dict.fromkeys(roles)), 28)
        lines.append(f'<text class="small role" x="{x + _WIDTH + 6}" y="{y + _HEIGHT // 2 - 5}">{_text(text)}</text>')
    for key, (x, y) in places.items():
        lines.append(_box(nodes[key], x, y))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _edge(parent: tuple[int, int], child: tuple[int, int]) -> str:
    """From the right of one box to the left of the other; over more than one column, in the lane below the row."""
    start, level = parent[0] + _WIDTH, parent[1] + _HEIGHT // 2
    end, onto = child[0], child[1] + _HEIGHT // 2
    if end - start <= _ACROSS:
        middle = (start + end) // 2
        return f"M{start} {level} C{middle} {level} {middle} {onto} {end} {onto}"
    lane, half = level + (_HEIGHT + _DOWN) // 2, _ACROSS // 2
    first, last = start + half, end - half
    return (
        f"M{start} {level} C{first} {level} {first} {lane} {start + _ACROSS} {lane} L{end - _ACROSS} {lane} "
        f"C{last} {lane} {last} {onto} {end} {onto}"
    )


def _graph(root: Node) -> tuple[dict[tuple[str, str], Node], dict[tuple[tuple, tuple], list[str]]]:
    nodes: dict[tuple[str, str], Node] = {}
    edges: dict[tuple[tuple, tuple], list[str]] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        key = (node.ref, node.digest)
        if key not in nodes or node.parents:
            nodes[key] = node
        for parent in node.parents:
            roles = edges.setdefault((key, (parent.ref, parent.digest)), [])
            roles += [parent.role] if parent.role not in roles else []
        stack += reversed(node.parents)
    return nodes, edges


def _depths(root: tuple, edges: dict) -> dict[tuple, int]:
    """Steps of the longest way from the root, so that every edge points one way."""
    depths = {root: 0}
    stack = [root]
    while stack:
        child = stack.pop()
        for from_, parent in edges:
            if from_ == child and depths.get(parent, -1) < depths[child] + 1 <= len(edges):
                depths[parent] = depths[child] + 1
                stack.append(parent)
    return depths


def _box(node: Node, x: int, y: int) -> str:
    facts = [node.type or "source", node.digest[:12]]
    last = node.remark if node.remark and node.remark != "see above" else ""
    if node.version:
        manifest = node.version.manifest
        last = "  ".join(filter(None, [minute(manifest.ended), key_metrics(manifest.metrics, 1)]))
    elif not last and node.files:
        last = node.files[0] + (f" and {len(node.files) - 1} more" if len(node.files) > 1 else "")
    fill = _FILLS.get((node.type or "").split("/")[0], "#f6f8fa")
    return (
        f'<g><title>{_text(node.ref)} {_text(node.digest)}</title><rect x="{x}" y="{y}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" fill="{fill}"/><text class="name" x="{x + 10}" y="{y + 19}">{_text(_cut(node.ref))}'
        f'</text><text class="small" x="{x + 10}" y="{y + 36}">{_text("  ".join(facts))}</text>'
        f'<text class="small" x="{x + 10}" y="{y + 51}">{_text(_cut(last, 44))}</text></g>'
    )


def _cut(text: str, room: int = _SHORT) -> str:
    return text if len(text) <= room else f"{text[: room // 2]}…{text[len(text) - room // 2 + 1 :]}"


def _text(text: str) -> str:
    return escape(printable(text))

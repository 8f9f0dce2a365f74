"""A lineage as one self-contained SVG: sources on the left, the version on the right, each drawn once."""

import math
from html import escape
from unicodedata import east_asian_width

from align.artifacts.lineage import SEEN, Node, version_metrics
from align.artifacts.lineage_layout import Layout, Size, lay_out
from align.artifacts.text import minute, printable

_NAME, _SMALL = 12, 10  # font sizes in pixels
_CELL = 0.615  # width of a character of a monospaced font, in font sizes: none of the usual ones is wider
_WIDE = 1.05  # and of a Chinese, Japanese or Korean one
_PAD, _HEIGHT = 10, 62  # pixels
_NARROWEST, _WIDEST, _LONGEST_LABEL = 150, 340, 260
_FILLS = {"model": "#e8f0fe", "reward_model": "#fdeee3", "value_model": "#f3e8fd", "dataset": "#e6f4ea"}
_STYLE = (
    f"text{{font:{_NAME}px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1f2328}}"
    f".name{{font-weight:600}}.small{{font-size:{_SMALL}px;fill:#57606a}}"
    ".role{stroke:#fff;stroke-width:3px;paint-order:stroke}"  # legible where a line crosses it
    "rect{stroke:#8c959f;rx:6}path{fill:none;stroke:#8c959f}"
)

Key = tuple[str, str, str]


def to_svg(root: Node) -> str:
    """The drawing of a lineage; nothing in it is fetched from anywhere."""
    nodes, edges = _graph(root)
    labels: dict[Key, list[str]] = {}
    for (_, parent), roles in edges.items():
        labels.setdefault(parent, []).extend(roles)
    texts = {key: ", ".join(dict.fromkeys(labels.get(key, []))) for key in nodes}
    sizes = {
        key: Size(_box_width(node), _HEIGHT, min(round(text_width(texts[key], _SMALL)) + 8, _LONGEST_LABEL))
        for key, node in nodes.items()
    }
    layout = lay_out(_key(root), list(edges), sizes)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.width}" height="{layout.height}" '
        f'viewBox="0 0 {layout.width} {layout.height}" role="img"><title>What {_text(root.ref)} was made from</title>'
        f'<style>{_STYLE}</style><rect width="{layout.width}" height="{layout.height}" fill="#ffffff" '
        'style="stroke:none"/>'
    ]
    lines += [f'<path d="{_curve(points)}"/>' for points in layout.routes.values()]
    lines += [_label(layout, key, text) for key, text in texts.items() if text]
    lines += [_box(node, layout, key) for key, node in nodes.items()]
    return "\n".join([*lines, "</svg>"]) + "\n"


def text_width(text: str, size: int) -> float:
    """Pixels that a text takes at most, in a monospaced font of that size."""
    wide = sum(east_asian_width(char) in "WF" for char in text)
    return size * ((len(text) - wide) * _CELL + wide * _WIDE)


def fit(text: str, size: int, room: float) -> str:
    """`text`, without its middle where it would take more than `room` pixels."""
    if text_width(text, size) <= room:
        return text
    head, tail = text[: len(text) // 2], text[len(text) // 2 :]
    while head and text_width(f"{head}…{tail}", size) > room:
        head, tail = (head[:-1], tail) if len(head) > len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


def _key(node: Node) -> Key:
    return node.ref, node.digest, node.type


def _graph(root: Node) -> tuple[dict[Key, Node], dict[tuple[Key, Key], list[str]]]:
    """The nodes of a tree, each once, and (child, parent) -> what the parent was to the child."""
    nodes: dict[Key, Node] = {}
    edges: dict[tuple[Key, Key], list[str]] = {}
    stack = [root]
    while stack:
        node = stack.pop()
        if _key(node) not in nodes or node.parents:
            nodes[_key(node)] = node
        for parent in node.parents:
            roles = edges.setdefault((_key(node), _key(parent)), [])
            roles += [role for role in parent.roles if role not in roles]
        stack += reversed(node.parents)
    return nodes, edges


def _curve(points: list[tuple[int, int]]) -> str:
    """A smooth line through some points, level at each of them."""
    (x, y), *rest = points
    path = f"M{x} {y}"
    for to_x, to_y in rest:
        middle = (x + to_x) // 2
        path += f" L{to_x} {to_y}" if y == to_y else f" C{middle} {y} {middle} {to_y} {to_x} {to_y}"
        x, y = to_x, to_y
    return path


def _facts(node: Node) -> list[str]:
    """The lines of a box: name, type and digest, and when it was made or why it ends here."""
    last = node.remark if node.remark and node.remark != SEEN else ""
    if node.version:
        last = "  ".join(filter(None, [minute(node.version.manifest.ended), version_metrics(node.version, 1)]))
    elif not last and node.files:
        last = node.files[0] + (f" and {len(node.files) - 1} more" if len(node.files) > 1 else "")
    return [printable(text) for text in (node.ref, f"{node.type or 'source'}  {node.digest[:12]}", last)]


def _box_width(node: Node) -> int:
    name, *small = _facts(node)
    wanted = max(text_width(name, _NAME), *(text_width(text, _SMALL) for text in small)) + 2 * _PAD
    return math.ceil(min(max(wanted, _NARROWEST), _WIDEST))


def _box(node: Node, layout: Layout, key: Key) -> str:
    (x, y), width = layout.places[key], layout.widths[key]
    room = width - 2 * _PAD
    name, facts, last = _facts(node)
    return (
        f'<g><title>{_text(node.ref)} {_text(node.digest)}</title><rect x="{x}" y="{y}" width="{width}" '
        f'height="{_HEIGHT}" fill="{_FILLS.get(node.type.split("/")[0], "#f6f8fa")}"/>'
        f'<text class="name" x="{x + _PAD}" y="{y + 19}">{_text(fit(name, _NAME, room))}</text>'
        f'<text class="small" x="{x + _PAD}" y="{y + 36}">{_text(fit(facts, _SMALL, room))}</text>'
        f'<text class="small" x="{x + _PAD}" y="{y + 51}">{_text(fit(last, _SMALL, room))}</text></g>'
    )


def _label(layout: Layout, key: Key, text: str) -> str:
    x, y = layout.places[key]
    return (
        f'<text class="small role" x="{x + layout.widths[key] + 6}" y="{y + _HEIGHT // 2 - 5}">'
        f"{_text(fit(text, _SMALL, _LONGEST_LABEL))}</text>"
    )


def _text(text: str) -> str:
    return escape(printable(text))

"""Draws docs/packages.svg: the packages of align, layer by layer, and what imports what.

python docs/build/imports.py          # after a change; a test compares the drawing with the imports
"""

import ast
import html
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = PROJECT / "align"
DRAWING = PROJECT / "docs" / "packages.svg"

# Layer by layer, the highest first; a name is a module or a package of align.
LAYERS = (
    ("cli",),
    ("pipeline", "review"),
    ("run",),
    ("stages",),
    ("ppo", "evaluation", "training", "models", "rewards"),
    ("contract", "data", "runs"),
    ("config", "artifacts", "distributed"),
    ("records", "errors", "stages.spec", "wheel"),
)
# What a stage declares is plain data that everything may read; what it does lies above.
DECLARATIONS = "stages.spec"

WIDTH, ROW, MARGIN, GAP, LINE = 1080, 104, 16, 24, 15  # pixels
BOX, WIDEST = 62, 330  # height of a box, and its largest width


def imports(file: Path) -> set[str]:
    """The modules and packages of align that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "align":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("align."):
            declares = node.module == f"align.{DECLARATIONS}"
            names.add(DECLARATIONS if declares else node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("align.")}
    return names


def packages() -> dict[str, set[str]]:
    """Module or package at the top of align -> those that it imports."""
    uses: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).with_suffix("").parts[0]
        name = DECLARATIONS if file == PACKAGE / "stages" / "spec.py" else name
        if name != "__init__":
            uses[name] = uses.get(name, set()) | imports(file) - {name}
    return uses


def essential(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports without those that follow from others: the transitive reduction."""

    def reached(name: str) -> set[str]:
        return uses[name].union(*(reached(used) for used in uses[name]))

    return {name: used - set().union(*(reached(other) for other in used)) for name, used in uses.items()}


def svg() -> str:
    """The drawing."""
    places = {}
    for number, layer in enumerate(LAYERS):
        column = (WIDTH - 2 * MARGIN + GAP) // len(layer)
        width = min(column - GAP, WIDEST)
        for place, name in enumerate(layer):
            left = MARGIN + place * column + (column - GAP - width) // 2
            places[name] = (left, MARGIN + number * ROW, width)
    height = MARGIN + (len(LAYERS) - 1) * ROW + BOX + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        "<title>The packages of align and their imports</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
    ]
    for name, used in sorted(essential(packages()).items()):
        lines += [_edge(places[name], places[other]) for other in sorted(used)]
    for name, (left, top, width) in places.items():
        lines.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{BOX}" rx="6" fill="#eef2ff" stroke="#4b5fa8"/>'
        )
        lines.append(f'<text x="{left + 10}" y="{top + 19}" font-size="14" font-weight="bold">{name}</text>')
        for row, text in enumerate(_wrapped(_summary(name), width)):
            place = f'x="{left + 10}" y="{top + 36 + row * LINE}"'
            lines.append(f'<text {place} font-size="11" fill="#333">{html.escape(text)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _edge(start: tuple[int, int, int], end: tuple[int, int, int]) -> str:
    """A curve from one box down to another, or below the row to a neighbour."""
    (x, y, width), (to_x, to_y, to_width) = start, end
    x, to_x, y = x + width // 2, to_x + to_width // 2, y + BOX
    sideways = to_y + BOX == y
    to_y = y if sideways else to_y
    bend = y + 30 if sideways else (y + to_y) // 2
    path = f"M{x} {y} C{x} {bend} {to_x} {bend} {to_x} {to_y}"
    return f'<path d="{path}" fill="none" stroke="#9aa5cf" stroke-width="1.5"/>'


def _summary(name: str) -> str:
    """The first sentence of a package's docstring."""
    path = PACKAGE.joinpath(*name.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    first = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").splitlines()[0]
    return first.split(". ")[0].rstrip(".:").replace("`", "")


def _wrapped(text: str, width: int) -> list[str]:
    """At most two lines that fit a box."""
    letters, lines = int(width / 5.7), [""]
    for word in text.split():
        if len(lines[-1]) + len(word) < letters:
            lines[-1] = f"{lines[-1]} {word}".strip()
        else:
            lines.append(word)
    return lines[:2] if len(lines) <= 2 else [lines[0], lines[1][: letters - 1] + "…"]


if __name__ == "__main__":
    DRAWING.write_text(svg(), "utf-8")

"""Imports go down the floors of the house, or sideways, never up; and the lower floors need no torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "align"

# Floor by floor, the highest first; a name is a module or a package of align.
FLOORS = (
    ("run", "pipeline", "cli"),
    ("stages", "review"),
    (
        "evaluation",
        "samples",
        "models",
        "adapters",
        "scoring",
        "generation",
        "training",
        "rewards",
        "ppo",
        "online",
        "probes",
    ),
    ("resuming", "reference"),
    ("forecast", "steps", "progress", "tracking", "launching", "quiet", "distributed", "devices", "kernels"),
    (
        "plan",
        "contract",
        "config",
        "data",
        "judges",
        "report",
        "provenance",
        "checkpoints",
        "runs",
        "fingerprints",
        "tokenizer",
    ),
    ("records", "artifacts", "statistics", "clock", "errors", "stopping"),
)
# A process must know which rank it is before it may print; distributed imports only errors and kernels.
EVERYWHERE = {"distributed"}


def floor_of(module: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if module in names)


def imports(file: Path) -> set[str]:
    """The modules of align that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "align":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("align."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("align.")}
    return found


def test_imports_go_down():
    files = [file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py" or file.parent != PACKAGE]
    assert len(files) > 30
    for file in files:
        module = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for used in imports(file) - EVERYWHERE - {module}:
            assert floor_of(used) >= floor_of(module), (
                f"{file.relative_to(PACKAGE.parent)} imports align.{used} above it"
            )


def test_no_files_import_each_other_in_a_circle():
    """Not even inside functions; what only a type checker reads does not count."""
    names = {file: ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in PACKAGE.rglob("*.py")}
    names = {file: name.removesuffix(".__init__") for file, name in names.items()}
    uses: dict[str, set[str]] = {}
    for file, name in names.items():
        tree = ast.parse(file.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        used = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        named = {f"{one.module}.{alias.name}" for one in used for alias in one.names} | {one.module for one in used}
        own_package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        uses[name] = named & set(names.values()) - {name, own_package}
    graphlib.TopologicalSorter(uses).prepare()


def test_stages_do_not_import_each_other():
    for file in (PACKAGE / "stages").glob("*.py"):
        assert "stages" not in imports(file), file.name


def test_the_store_of_ratings_knows_no_web():
    for file in [*(PACKAGE / "review" / "store").glob("*.py"), PACKAGE / "review" / "agreement.py"]:
        used = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        assert not [
            name for name in used if name and name.startswith(("fastapi", "align.review.app", "align.review.requests"))
        ], file.name


def test_what_answers_before_training_needs_no_torch():
    modules = ["cli", "plan", "pipeline", "run", "tracking", "contract", "data.datasets", "data.lengths"]
    modules += ["review.app", "review.routes.admin", "review.serving", "review.actions"]
    modules = ", ".join(f"align.{module}" for module in modules)
    check = f"import sys, {modules}; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"

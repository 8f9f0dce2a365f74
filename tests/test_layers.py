"""Imports go down the layers, or sideways, never up and never in a circle; and the lower layers need no torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "align"
sys.path.insert(0, str(PROJECT / "docs" / "build"))

from imports import DRAWING, LAYERS, imports, packages, svg  # noqa: E402


def layer_of(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


def test_imports_go_down():
    uses = packages()
    assert set(uses) == {name for layer in LAYERS for name in layer}
    for module, used in uses.items():
        for name in used:
            assert layer_of(name) >= layer_of(module), f"align.{module} imports align.{name} above it"


def test_the_drawing_is_of_the_imports():
    assert DRAWING.read_text("utf-8") == svg(), "run: python docs/build/imports.py"


def test_no_packages_import_each_other_in_a_circle():
    graphlib.TopologicalSorter(packages()).prepare()


def test_every_package_says_what_is_in_it():
    for file in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(file.read_text("utf-8"))), file.relative_to(PACKAGE.parent)


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
    assert not imports(PACKAGE / "stages" / "spec.py")


def test_the_store_of_ratings_knows_no_web():
    for file in [*(PACKAGE / "review" / "store").glob("*.py"), PACKAGE / "review" / "agreement.py"]:
        used = {node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)}
        web = ("fastapi", "align.review.app", "align.review.dependencies")
        assert not [name for name in used if name and name.startswith(web)], file.name


def test_what_answers_before_training_needs_no_torch():
    modules = ["cli", "run.plan", "pipeline.runner", "run.stage", "training.tracking", "contract.inputs"]
    modules += ["data.loading.tables", "data.tokens.lengths"]
    modules += ["review.app", "review.routes.admin", "review.server", "review.actions"]
    modules = ", ".join(f"align.{module}" for module in modules)
    check = f"import sys, {modules}; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"

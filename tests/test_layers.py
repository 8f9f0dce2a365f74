"""Imports go down the layers, or sideways, never up and never in a circle; and the lower layers need no torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "align"

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


def layer_of(module: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if module in names)


def imports(file: Path) -> set[str]:
    """The modules and packages of align that a file imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "align":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("align."):
            declares = node.module == f"align.{DECLARATIONS}"
            found.add(DECLARATIONS if declares else node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("align.")}
    return found


def packages() -> dict[str, set[str]]:
    """Module or package at the top of align -> those that it imports."""
    uses: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).with_suffix("").parts[0]
        name = DECLARATIONS if file == PACKAGE / "stages" / "spec.py" else name
        if name != "__init__":
            uses[name] = uses.get(name, set()) | imports(file) - {name}
    return uses


def test_imports_go_down():
    uses = packages()
    assert set(uses) == {name for layer in LAYERS for name in layer}
    for module, used in uses.items():
        for name in used:
            assert layer_of(name) >= layer_of(module), f"align.{module} imports align.{name} above it"


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

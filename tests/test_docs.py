"""The documentation is compared with the program: commands compose or parse, links lead somewhere."""

import ast
import hashlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from align.cli import build_parser
from align.config.compose import compose, expand_sweep
from align.config.schema import FORMATS
from align.errors import UserError
from align.pipeline.runner import load_steps, split_name
from align.stages.spec import STAGES

PROJECT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", PROJECT / "data" / "README.md"]
    + [path for folder in ("docs", "examples") for path in (PROJECT / folder).rglob("*.md")]
)
README = (PROJECT / "README.md").read_text("utf-8")
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*((?:deepspeed|python|align) .*)$")


@cache
def commands(page: Path) -> list[list[str]]:
    """The commands in a page's code blocks, whole and as a shell splits them; sketches with ` ...` are left out."""
    lines: list[str] = []
    fenced = False
    for line in page.read_text("utf-8").replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
    found = [match[1] for line in lines if (match := COMMAND.match(line)) and "..." not in match[1].split("#")[0]]
    return [shlex.split(text.split(" && ")[0], comments=True) for text in found]


def each(*starts: str) -> list:
    """The commands of every page that begin with one of `starts`."""
    return [
        pytest.param(words, id=f"{page.name}: {' '.join(words)[:80]}")
        for page in PAGES
        for words in commands(page)
        if any(f" {start} " in f" {' '.join(words)} " for start in starts)
    ]


def overrides_of(words: list[str]) -> list[str]:
    return [word for word in words if "=" in word and not word.startswith("--")]


def is_own(words: list[str]) -> bool:
    """Whether a command is for a project of the user's own, or a plug-in, whose configs are not here."""
    return "--config-dir" in words or "stage=simpo" in words


def test_the_readme_is_short_and_has_commands():
    assert len(README.splitlines()) <= 120 and len(commands(PROJECT / "README.md")) >= 7


@pytest.mark.parametrize("words", each("launch/run.py", "align run"))
def test_a_stage_shown_composes(words):
    if is_own(words):
        pytest.skip("composes in a project of the user's own: tests/test_wheel.py, tests/test_plugins.py")
    for job in expand_sweep(overrides_of(words)):
        try:
            assert compose(job).stage in STAGES
        except UserError as error:
            assert "trainer.bata" in str(error), error  # shown for the error it gives


@pytest.mark.parametrize("words", each("launch/pipeline.py", "align pipeline"))
def test_a_pipeline_shown_composes(words):
    if is_own(words):
        pytest.skip("composes in a project of the user's own: tests/test_wheel.py")
    name, rest = split_name(overrides_of(words))
    for step in load_steps(name, rest):
        compose([f"{key}={value}" for key, value in step.overrides.items()])


@pytest.mark.parametrize("words", each("align artifacts", "align data", "align review", "align runs", "align init"))
def test_another_command_shown_parses(words):
    build_parser().parse_args(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"https?://|mailto:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_stage_is_in_the_table_of_stages():
    table = (PROJECT / "docs" / "concepts.md").read_text("utf-8").split("## Artifact")[0]
    assert {
        name for row in table.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row)
    } >= set(STAGES)
    comment = (PROJECT / "conf" / "config.yaml").read_text("utf-8")
    assert re.search(r"- stage: null +# required: (.*)", comment)[1].split(", ") == list(STAGES)


def test_the_tree_names_every_package():
    tree = README.split("## The tree")[1].split("**Reading order**")[0]
    packages = {folder.name for folder in (PROJECT / "align").iterdir() if (folder / "__init__.py").exists()}
    assert set(re.findall(r"^ {6}(\w+)/ ", tree, re.M)) == packages


def test_the_table_of_formats_names_the_stages_that_read_each():
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", (PROJECT / "data" / "README.md").read_text("utf-8"), re.M)
    table = {
        format: set(re.findall(r"\b(\w+)\b", re.sub(r"\(.*?\)", "", stages)))
        for format, stages in rows
        if format in FORMATS
    }
    readers = {format: {name for name, spec in STAGES.items() if format in spec.formats} for format in FORMATS}
    assert table == readers


def test_the_reference_is_what_the_program_says():
    spec = importlib.util.spec_from_file_location("reference", PROJECT / "docs" / "build" / "reference.py")
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    for name, write in reference.PAGES.items():
        page = (PROJECT / "docs" / "reference" / name).read_text("utf-8")
        assert page == write(), f"run: python docs/build/reference.py ({name})"


def test_every_message_in_the_troubleshooting_guide_is_in_the_code():
    """A quoted message is split at its `…`, which stand for values; each piece is a piece of one string in align/."""
    trees = [ast.parse(file.read_text("utf-8")) for file in (PROJECT / "align").rglob("*.py")]
    strings = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    source = "\0".join(text for text in strings if isinstance(text, str))
    guide = (PROJECT / "docs" / "guides" / "troubleshooting.md").read_text("utf-8")
    messages = re.findall(r"^```text\n(.*)\n```$", guide, re.M)
    assert len(messages) >= 25
    missing = [piece for message in messages for piece in message.split("…") if piece not in source]
    assert not missing


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    command += ["-f", str(PROJECT / "docs" / "build" / "mkdocs.yml")]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PPOTrainer" in (tmp_path / "site" / "reference" / "python" / "index.html").read_text("utf-8")
    outside = re.compile(r"""(?:src|href)=["']https?://(?!github)[^"']+\.(?:js|css|woff2?)""")
    assert not outside.search((tmp_path / "site" / "index.html").read_text("utf-8")), "no file from elsewhere"


@pytest.mark.parametrize("page", sorted((PROJECT / "docs" / "zh").rglob("*.md")), ids=lambda page: page.name)
def test_a_translation_is_of_the_page_as_it_is(page):
    """Translate what has changed in the English page, then put its new digest into the first line."""
    source, digest = re.match(r"<!-- translates (\S+) at (\w+) -->", page.read_text("utf-8")).groups()
    now = hashlib.sha256((page.parent / source).resolve().read_bytes()).hexdigest()[:12]
    assert digest == now, f"{page.relative_to(PROJECT)} lags behind {source}, which is at {now}"

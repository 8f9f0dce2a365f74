"""What packages outside align add: the plug-ins in examples/, run as a user would after installing them."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.config.paths import PROJECT
from tests.conftest import FEW_STEPS

EXAMPLES = {"align_simpo": PROJECT / "examples" / "plugin_stage"}
EXAMPLES["align_helpdesk"] = PROJECT / "examples" / "plugin_functions"
GROUPS = ("align.stages", "align.configs", "align.layouts", "align.rewards", "align.judges")


def install(package: str, site: Path) -> None:
    """A package of the examples with its entry points, as pip writes them."""
    shutil.copytree(EXAMPLES[package], site, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md", "*.toml"))
    project = project_of(package)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def project_of(package: str) -> dict:
    return tomllib.loads((EXAMPLES[package] / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture
def installed(tmp_path) -> dict[str, str]:
    """The environment of a process that has the stage installed."""
    site = tmp_path / "site"
    install("align_simpo", site)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(PROJECT)])}


def run(env: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "align.cli", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_stage_of_another_package_runs_as_one_of_aligns(installed, tiny_store):
    few = [f"{key}={value}" for key, value in FEW_STEPS.items()]
    rows = ["data=demo", "data.preference.max_rows=32", "data.preference.eval=null"]
    given = ["stage=simpo", f"artifacts.root={tiny_store}", *few, *rows]
    done = run(installed, "run", *given)
    assert done.returncode == 0, done.stderr
    version = Store(tiny_store).resolve("simpo:latest")
    assert version.manifest.type == "model" and version.manifest.notes["stage"] == "simpo"
    assert version.manifest.inputs["policy"]["ref"] == "sft:v1"
    steps = [json.loads(line) for line in (version.path / "metrics.jsonl").read_text().splitlines()]
    assert any("rewards/margins" in row for row in steps)
    again = run(installed, "run", *given)
    assert again.returncode == 0 and "nothing to do: simpo:v1 is this run's result" in again.stdout
    wrong = run(installed, "run", "stage=simpo", "trainer.simpo_gama=1")
    assert wrong.returncode == 2 and "did you mean trainer.simpo_gamma?" in wrong.stderr
    assert "stage=simpo" not in run(dict(os.environ), "run", "stage=simpo").stdout


@pytest.mark.parametrize("package", EXAMPLES)
def test_the_example_is_a_package_that_can_be_installed(package):
    folder = EXAMPLES[package]
    for group, entries in project_of(package)["entry-points"].items():
        assert group in GROUPS
        for value in entries.values():
            assert (folder / value.partition(":")[0].replace(".", "/")).exists()
    for config in folder.rglob("conf/stage/*.yaml"):
        assert config.read_text().startswith("# @package")


TICKETS = [
    {
        "customer": f"Question {n}?",
        "reply_1": f"Restart box {n}.",
        "reply_2": f"No idea, sorry {n}.",
        "resolved_by": by,
    }
    for n, by in enumerate(["first", "second", "first", "third"])
]


@pytest.fixture(scope="module")
def helpdesk(tmp_path_factory, tiny_models) -> dict:
    """What one process says that has the functions installed: `data check`, and runs of grpo and evaluate."""
    folder = tmp_path_factory.mktemp("helpdesk")
    install("align_helpdesk", folder / "site")
    shutil.copytree(tiny_models, folder / "artifacts")
    (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TICKETS))
    rows = ["data=demo", "data.prompt_only.max_rows=16", f"artifacts.root={folder / 'artifacts'}"]
    few = ["trainer.max_steps=1", "trainer.per_device_train_batch_size=4", "trainer.num_generations=4"]
    few += ["trainer.max_completion_length=4", "trainer.eval_strategy='no'", "trainer.save_strategy='no'"]
    polite = "online.reward_functions=[{function: polite, weight: 2.0}]"
    grpo = ["run", "stage=grpo", "inputs.policy=sft:v1", "inputs.reward_model=null", polite, *rows, *few]
    judged = ["run", "stage=evaluate", "inputs.policy=sft:v1", *rows, "evaluate.max_prompts=4"]
    judged += ["evaluate.max_new_tokens=4", "evaluate.bootstrap=20"]
    commands = {
        "check": ["data", "check", str(folder / "tickets.jsonl"), "--json"],
        "grpo": grpo,
        "judged": [*judged, "evaluate.judge=brief"],
        "unknown": [*judged, "evaluate.judge=breif"],
    }
    script = """
import contextlib, io, json, sys
from align.cli import main
said = {}
for name, words in json.loads(sys.argv[1]).items():
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    said[name] = [code]
    for stream in (out, err):
        stream.seek(0)
        said[name].append(stream.read())
print(json.dumps(said))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(PROJECT)])}
    words = [sys.executable, "-c", script, json.dumps(commands)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "store": Store(folder / "artifacts")}


@pytest.mark.slow
def test_a_layout_of_another_package_is_recognised(helpdesk):
    code, report, _ = helpdesk["check"]
    report = json.loads(report)
    assert code == 0 and report["layout"] == "ticket" and report["rows_used"] == 3
    assert list(report["refused"]) == ["resolved_by is 'third', neither 'first' nor 'second'"]
    assert report["recognised"] == "a ticket with two replies: 4 of the first 4 rows"


@pytest.mark.slow
def test_functions_of_another_package_go_by_their_names(helpdesk):
    for name in ("grpo", "judged"):
        assert helpdesk[name][0] == 0, helpdesk[name]
    metrics = (helpdesk["store"].resolve("grpo:v1").path / "metrics.jsonl").read_text()
    assert "rewards/polite/mean" in metrics
    assert "sft:v1/gold" in helpdesk["store"].resolve("evaluate:v1").manifest.metrics
    code, _, error = helpdesk["unknown"]
    assert code == 2 and "names no function" in error and "(there are: brief, polite)" in error

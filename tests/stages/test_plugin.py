"""A stage that a package outside align declares: examples/plugin_stage, run as a user would after installing it."""

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

EXAMPLE = PROJECT / "examples" / "plugin_stage"


@pytest.fixture
def installed(tmp_path) -> dict[str, str]:
    """The environment of a process that has the example installed: its package, and its entry points as pip writes."""
    site = tmp_path / "site"
    shutil.copytree(EXAMPLE / "align_simpo", site / "align_simpo")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
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


def test_the_example_is_a_package_that_can_be_installed():
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))
    for group, entries in project["project"]["entry-points"].items():
        assert group in ("align.stages", "align.configs")
        for value in entries.values():
            assert (EXAMPLE / value.partition(":")[0].replace(".", "/")).exists()
    assert Path(EXAMPLE / "align_simpo" / "conf" / "stage" / "simpo.yaml").read_text().startswith("# @package")

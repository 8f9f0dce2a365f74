"""The wheel, installed in an environment of its own outside any checkout, runs a project that `align init` made."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from align.config.paths import PROJECT
from align.distributed import kernels


def run(*words: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def align(tmp_path_factory) -> Path:
    """The `align` command of a fresh environment, which has the wheel and this environment's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, PROJECT, cwd=folder)
    (wheel,) = folder.glob("align-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", wheel, cwd=folder)
    # .pth files of a folder that is named in one are not read, so that this environment's editable align stays out
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "align"


@pytest.mark.slow
def test_a_project_of_ones_own_runs_from_the_wheel(align, tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env["TORCH_EXTENSIONS_DIR"] = str(kernels.folder())  # compiled once for both environments
    home = run(align.with_name("python"), "-c", "import align; print(align.__path__[0])", cwd=tmp_path, env=env)
    assert Path(home.strip()).is_relative_to(align.parents[1])
    run(align, "init", "mine", cwd=tmp_path, env=env)
    project = tmp_path / "mine"
    dry = run(align, "pipeline", "--config-dir", "conf", "pipeline=mine", "--dry-run", cwd=project, env=env)
    assert "[1/4] pretrain: runs" in dry and "data: train data/pairs.jsonl" in dry and "judge: judge.py:judge" in dry
    # one stage on one process, and one on two under DeepSpeed
    short = ["trainer.max_steps=2", "trainer.save_strategy=no", "trainer.eval_strategy=no"]
    few = [f"{step}.{word}" for step in ("pretrain", "sft") for word in short]
    two = ["launcher=deepspeed", "launcher.num_accelerators=2", "deepspeed=zero2"]
    rows = ["pretrain.data.language_modeling.max_rows=64", "sft.trainer.per_device_train_batch_size=2"]
    given = ["pipeline", "--config-dir", "conf", "pipeline=mine", "--until", "sft", *few, *rows]
    out = run(align, *given, *(f"sft.{word}" for word in two), cwd=project, env=env)
    assert "published pretrain:v1" in out and "published sft:v1" in out
    manifest = json.loads((project / "artifacts" / "sft" / "v0001" / "manifest.json").read_text())
    assert manifest["notes"]["world_size"] == 2
    assert "sft:v1" in run(align, "artifacts", "lineage", "sft:v1", cwd=project, env=env)


def test_a_folder_that_holds_something_is_left_alone(tmp_path, capsys):
    from align.cli import main

    (tmp_path / "file").touch()
    assert main(["init", str(tmp_path)]) == 2
    assert "exists already; name a folder" in capsys.readouterr().err and [*tmp_path.iterdir()] == [tmp_path / "file"]

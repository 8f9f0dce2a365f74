"""Equal configs share one trajectory, and it is committed.

Plain training is compared with the committed losses to 1e-4, which holds across machines and their vector units. What
divides the same arithmetic otherwise (processes, accumulation, ZeRO, offload) is compared with plain training made in
the same session, to 1e-5.
"""

import fnmatch
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from align.artifacts.model_files import tensor_shapes
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.config.paths import PROJECT
from align.distributed.ranks import free_port
from tests.conftest import run_command
from tests.regression import world

ACROSS_MACHINES = 1e-4
WITHIN_A_SESSION = 1e-5
KINDS = sorted(path.stem for path in (PROJECT / "conf" / "deepspeed").glob("*.yaml"))
PROCESSES = 2


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `base:v1` and `judge:v1`, the data beside it."""
    root = tmp_path_factory.mktemp("regression") / "artifacts"
    world.write_data(root.parent / "data")
    run_command(world.base_overrides(root))
    run_command(world.judge_overrides(root))
    return root


@pytest.fixture(scope="module")
def plain(root: Path) -> Callable[[str], Version]:
    """The plain run of a stage: one process, one micro-batch a step, made once."""
    made: dict[str, Version] = {}

    def get(run: str) -> Version:
        if run not in made:
            made[run] = run_command(world.overrides(root, run))
        return made[run]

    return get


@pytest.fixture(scope="module")
def launched(root: Path) -> Callable[[str], dict[str, Version]]:
    """All runs under one file of conf/deepspeed/, in two processes that `deepspeed` starts, made once."""
    made: dict[str, dict[str, Version]] = {}

    def get(kind: str) -> dict[str, Version]:
        if kind not in made:
            names = {run: f"{run}-{kind}" for run in (*world.STAGES, *world.BY_LAYOUT)}
            # Swapping to disk takes 2 GB of buffers a run, and DeepSpeed does not give them back: here they are small.
            small = (
                {"deepspeed__config__zero_optimization__offload_param__buffer_size": 10**6} if "nvme" in kind else {}
            )
            commands = [
                world.overrides(
                    root,
                    run,
                    name=name,
                    processes=PROCESSES,
                    deepspeed=kind,
                    **(small if kind == "zero3_nvme" else {}),
                )
                for run, name in names.items()
            ]
            todo = root.parent / f"{kind}.json"
            todo.write_text(json.dumps(commands), "utf-8")
            deepspeed(Path(__file__).parent / "driver.py", str(todo))
            store = Store(root)
            made[kind] = {run: store.resolve(name) for run, name in names.items()}
        return made[kind]

    return get


def deepspeed(script: Path, *arguments: str) -> str:
    """`deepspeed --num_accelerators 2 script arguments`; what it printed. It must end well."""
    ranks = ["--num_accelerators", str(PROCESSES), "--master_port", str(free_port())]
    return python("-m", "deepspeed.launcher.runner", *ranks, str(script), *arguments)


def python(*words: str) -> str:
    """What `python words` printed. It must end well."""
    ended = subprocess.run(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-5000:]
    return ended.stdout


def assert_same_weights(ours: Version, theirs: Version) -> None:
    """The published weights have the same names and shapes, none is empty, and values agree."""
    from safetensors.torch import load_file

    assert tensor_shapes(ours.model_dir) == tensor_shapes(theirs.model_dir)
    assert all(0 not in shape for shape in tensor_shapes(ours.model_dir).values())
    weights = load_file(theirs.model_dir / "model.safetensors")
    for name, tensor in load_file(ours.model_dir / "model.safetensors").items():
        apart = (tensor - weights[name]).abs().max().item()
        assert apart < WITHIN_A_SESSION, f"{ours.ref}: {name} is {apart:.1e} away from {theirs.ref}"


@pytest.mark.parametrize("run", (*world.STAGES, *world.SAMPLED))
def test_plain_is_the_committed_trajectory(plain, run):
    ours = world.losses(plain(run))
    assert len(ours) == world.STEPS
    assert ours == pytest.approx(world.reference(run), abs=ACROSS_MACHINES)


@pytest.mark.slow
def test_the_reference_explains_the_metrics_that_runs_log(plain):
    """Each name that a stage logs is in a chapter for it, and each name there is logged by one of its stages."""
    runs = (*world.STAGES, *world.SAMPLED)
    logged = {run: logged_names(plain(run)) for run in runs}
    page = (PROJECT / "docs" / "reference" / "metrics.md").read_text("utf-8")
    known: dict[str, set[str]] = {run: set() for run in runs}
    for title, chapter in re.findall(r"^## (.+)\n([^#]*)", page, re.MULTILINE):
        stages = runs if title == "Every trained stage" else [run for run in runs if run in re.split(r"[ ,]+", title)]
        rows = "".join(line.split("|")[1] for line in chapter.splitlines() if line.startswith("| `"))
        for pattern in re.findall(r"`([^`]+)`", rows):
            names = {run: set(fnmatch.filter(logged[run], pattern)) for run in stages}
            assert any(names.values()), f"no run of {title} logs {pattern}"
            for run in stages:
                known[run] |= names[run]
    assert {run: logged[run] - known[run] for run in runs} == {run: set() for run in runs}


def logged_names(version: Version) -> set[str]:
    lines = (version.path / "metrics.jsonl").read_text("utf-8").splitlines()
    return {name.removeprefix("eval_") for line in lines for name in json.loads(line)}


@pytest.mark.parametrize("run", world.STAGES)
def test_one_row_eight_times_is_eight_rows_once(root, plain, run):
    accumulated = run_command(world.overrides(root, run, name=f"{run}-1x8", accumulation=world.GLOBAL_BATCH))
    assert world.losses(accumulated) == pytest.approx(world.losses(plain(run)), abs=WITHIN_A_SESSION)
    assert_same_weights(accumulated, plain(run))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(launched, plain, kind):
    assert len(KINDS) >= 7
    for run in world.STAGES:
        ours = launched(kind)[run]
        assert ours.manifest.notes["world_size"] == PROCESSES
        assert world.losses(ours) == pytest.approx(world.losses(plain(run)), abs=WITHIN_A_SESSION), run
        assert_same_weights(ours, plain(run))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_what_differs_by_processes_is_the_same_under_every_zero(launched, kind):
    for run in world.BY_LAYOUT:
        ours, theirs = launched(kind)[run], launched("none")[run]
        assert len(set(world.losses(theirs))) > world.STEPS / 2  # it moves
        assert world.losses(ours) == pytest.approx(world.losses(theirs), abs=WITHIN_A_SESSION), run
        assert_same_weights(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("run", "kind"), [("dpo", "zero3_offload"), ("sft", "zero3_nvme")])
def test_the_line_a_user_types(root, plain, run, kind):
    overrides = world.overrides(root, run, name=f"{run}-typed", processes=PROCESSES, deepspeed=kind)
    said = deepspeed(PROJECT / "launch" / "run.py", *overrides)
    assert f"published {run}-typed:v1" in said
    ours = Store(root).resolve(f"{run}-typed")
    assert world.losses(ours) == pytest.approx(world.losses(plain(run)), abs=WITHIN_A_SESSION)
    assert_same_weights(ours, plain(run))


@pytest.mark.slow
def test_one_process_under_zero_needs_no_launcher(root, plain):
    overrides = world.overrides(root, "reward", name="reward-alone", deepspeed="zero2_offload")
    assert "published reward-alone:v1" in python(str(PROJECT / "launch" / "run.py"), *overrides)
    ours = Store(root).resolve("reward-alone")
    assert world.losses(ours) == pytest.approx(world.losses(plain("reward")), abs=WITHIN_A_SESSION)
    assert_same_weights(ours, plain("reward"))

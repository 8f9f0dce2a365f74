"""Low-rank adapters under ZeRO, in two processes: the trajectory and the weights of plain training.

Under ZeRO activations are computed again in the backward pass, and alone they are kept: neither changes a gradient.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.artifacts.bases import is_adapter
from align.artifacts.store import Store
from align.artifacts.version import Version
from tests.conftest import run_command
from tests.regression import world
from tests.regression.test_trajectories import PROCESSES, WITHIN_A_SESSION, deepspeed

STEPS = 4
LORA = {"adapter": "lora", "adapter.r": 4, "trainer.learning_rate": 1e-2, "trainer.max_steps": STEPS}
# What each run starts from, beside its stage: new adapters, adapters that go on, one merged and trained in full.
RUNS = {
    "sft": LORA,
    "reward": LORA,
    "reward_on_adapter": {**LORA, "inputs.policy": "given:v1"},
    "reward_goes_on": {**LORA, "inputs.policy": "rated:v1"},
    "dpo_on_adapter": {**LORA, "inputs.policy": "given:v1"},
    "dpo_merged": {"inputs.policy": "given:v1", "trainer.max_steps": STEPS},
    "kto_on_adapter": {**LORA, "inputs.policy": "given:v1"},
    "ppo": LORA,
    "ppo_on_adapter": {**LORA, "inputs.policy": "given:v1", "inputs.reward_model": "rated:v1"},
}
# ZeRO-3 divides the weights themselves, so every way of loading is tried there.
LAUNCHED = [(run, "zero3") for run in RUNS] + [
    (run, "zero2") for run in ("sft", "reward", "dpo_on_adapter", "dpo_merged", "ppo_on_adapter")
]


def command(root: Path, run: str, name: str, **more: object) -> list[str]:
    stage = run.partition("_")[0]
    fields = {key.replace(".", "__"): value for key, value in RUNS[run].items()}
    return world.overrides(root, stage, name=name, **fields, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with base:v1, given:v1, an adapter on it, and rated:v1, a reward adapter on it."""
    root = tmp_path_factory.mktemp("adapters") / "artifacts"
    world.write_data(root.parent / "data")
    run_command(world.base_overrides(root))
    run_command(world.judge_overrides(root))
    run_command(command(root, "sft", "given", trainer__seed=1))
    run_command(command(root, "reward", "rated", trainer__seed=1))
    return root


@pytest.fixture(scope="module")
def plain(root: Path) -> dict[str, Version]:
    return {run: run_command(command(root, run, run)) for run in RUNS}


@pytest.fixture(scope="module")
def launched(root: Path) -> dict[tuple[str, str], Version]:
    """All of `LAUNCHED`, in one launch."""
    todo = root.parent / "runs.json"
    shared = {"processes": PROCESSES, "trainer__activation_checkpointing": "true"}
    todo.write_text(
        json.dumps([command(root, run, f"{run}-{kind}", deepspeed=kind, **shared) for run, kind in LAUNCHED])
    )
    deepspeed(Path(__file__).parent / "driver.py", str(todo))
    store = Store(root)
    return {(run, kind): store.resolve(f"{run}-{kind}") for run, kind in LAUNCHED}


@pytest.mark.slow
@pytest.mark.parametrize("run, kind", LAUNCHED)
def test_an_adapter_trains_under_zero_as_it_does_alone(plain, launched, run, kind):
    ours, alone = launched[run, kind], plain[run]
    assert world.losses(ours) == pytest.approx(world.losses(alone), abs=WITHIN_A_SESSION)
    assert len(set(world.losses(alone))) == STEPS  # it moves
    assert is_adapter(ours.model_dir) == (run != "dpo_merged")
    assert ours.manifest.adapter == alone.manifest.adapter
    file = "adapter_model.safetensors" if is_adapter(ours.model_dir) else "model.safetensors"
    weights, expected = load_file(ours.model_dir / file), load_file(alone.model_dir / file)
    assert weights.keys() == expected.keys()
    if run.startswith("reward"):
        assert "base_model.model.score.weight" in weights
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=0, msg=name)

"""The examples at tiny settings, each as its page says; the larger ones have tests of their own in tests/stages."""

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from align.artifacts.store import Store
from align.cli import main
from align.config.paths import PROJECT
from align.models.load import load_policy
from tests.conftest import run_command

EXAMPLES = PROJECT / "examples"
FEW_STEPS = ["trainer.max_steps=2", "trainer.per_device_train_batch_size=8", "trainer.save_strategy='no'"]
FEW_PROMPTS = ["evaluate.max_prompts=8", "evaluate.max_new_tokens=8", "evaluate.bootstrap=20"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ppo(tiny_models, tmp_path):
    example = load("ppo")
    answer = [{"role": "assistant", "content": "In CAPITALS: FIG."}]
    assert example.capitals([], [answer, [{"role": "assistant", "content": "FIG 7"}]]) == [12 / 13, 0.3]
    rewards = example.main(str(Store(tiny_models).resolve("sft:v1").path / "model"), str(tmp_path / "out"), steps=4)
    assert len(rewards) == 2 and all(0 <= reward <= 1 for reward in rewards)
    load_policy(tmp_path / "out")


def test_the_pairs_are_what_the_script_writes(tmp_path):
    subprocess.run([sys.executable, EXAMPLES / "own_pairs" / "generate.py", "--out", tmp_path], check=True)
    assert (tmp_path / "pairs.jsonl").read_bytes() == (EXAMPLES / "own_pairs" / "pairs.jsonl").read_bytes()


def test_own_pairs(tiny_store, capsys):
    columns = "prompt=question,chosen=better,rejected=worse"
    words = ["data", "import", str(EXAMPLES / "own_pairs" / "pairs.jsonl"), "--columns", columns]
    assert main(["--artifacts", str(tiny_store), *words, "--drop", "duplicates", "--name", "pairs"]) == 0
    assert "left out: duplicates: 52" in capsys.readouterr().out
    store = f"artifacts.root={tiny_store}"
    dataset = ["inputs.policy=sft", "inputs.dataset=pairs:v1", "data.as_chat=true"]
    policy = run_command(["experiment=tiny_dpo", *dataset, store, *FEW_STEPS])
    judge = f"evaluate.judge={EXAMPLES / 'own_pairs' / 'judge.py'}:terse"
    models = [f"inputs.policy={policy.ref}", "inputs.baseline=sft"]
    report = run_command(["experiment=tiny_evaluate", *models, judge, store, *FEW_PROMPTS])
    assert f"{policy.ref}/gold_gain" in report.manifest.metrics


@pytest.mark.slow
def test_the_review_loop(tiny_store, capsys, monkeypatch):
    example = load("review_loop")
    monkeypatch.setattr(example, "judge", lambda prompt, answer: len(answer) / 100)  # no answer is right so soon
    few = {"sample": ["sample.max_prompts=12", "sample.max_new_tokens=8"], "dpo": FEW_STEPS, "evaluate": FEW_PROMPTS}
    example.main(tiny_store, "sft:v1", few)
    said = capsys.readouterr().out
    assert "Ada rated" in said and "Ben rated" in said and "ratings of 2 raters, alpha 1.00" in said
    store = Store(tiny_store)
    assert store.resolve("dpo:v1").manifest.inputs["dataset"]["ref"] == "loop-prefs:v1"
    assert said.rstrip().splitlines()[-2].strip().startswith("r1")

"""examples/arithmetic: its data are what its script writes, and its configs run for a few steps."""

import json
import subprocess
import sys

import pytest

from align.config.paths import PROJECT
from align.pipeline.runner import load_steps
from align.rewards import format, math_answer
from tests.conftest import run_command

EXAMPLE = PROJECT / "examples" / "arithmetic"
FORMAT = r".*\n#### \d+"
FEW = ["trainer.max_steps=2", "trainer.per_device_train_batch_size=8", "trainer.save_strategy='no'"]


def rows(name):
    return [json.loads(line) for line in (EXAMPLE / "data" / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def configs(monkeypatch):
    monkeypatch.setenv("ALIGN_CONF", str(EXAMPLE / "conf"))


def test_the_data_are_what_the_script_writes(tmp_path):
    subprocess.run([sys.executable, EXAMPLE / "generate.py", "--out", tmp_path], check=True)
    for file in (EXAMPLE / "data").iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_held_out_questions_are_new_and_references_are_right():
    files = {name: rows(name) for name in ("demonstrations", "train", "validation", "test")}
    questions = {name: {row["question"] for row in held} for name, held in files.items()}
    assert questions["demonstrations"] == questions["train"]
    apart = [questions[name] for name in ("train", "validation", "test")]
    assert sum(map(len, apart)) == len(set.union(*apart)) == 1348
    for name, held in files.items():
        answers = [row["answer"] for row in held]
        assert set(format(answers, pattern=FORMAT)) == {1.0}
        words = {"plus": "+", "minus": "-"} | {word: str(number) for number, word in enumerate(NUMBERS)}
        sums = ["".join(words[word] for word in row["question"][8:-1].split()) for row in held]
        right = math_answer(answers, [str(eval(one)) for one in sums])
        share = pytest.approx(0.7, abs=0.05) if name == "demonstrations" else 1
        assert sum(right) / len(right) == share


NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


def test_its_configs_run_for_a_few_steps(configs, tiny_store):
    store = f"artifacts.root={tiny_store}"
    sft = run_command(["experiment=arithmetic_sft", "inputs.policy=sft:v1", "name=solutions", store, *FEW])
    grpo = run_command(
        ["experiment=arithmetic_grpo", f"inputs.policy={sft.ref}", store, *FEW, "trainer.logging_steps=1"]
    )
    lines = [json.loads(line) for line in (grpo.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {"rewards/math_answer/mean", "rewards/format/mean"} <= {key for line in lines for key in line}
    few = ["evaluate.max_prompts=8", "evaluate.max_new_tokens=8", "evaluate.bootstrap=20"]
    judged = run_command(
        ["experiment=arithmetic_evaluate", f"inputs.policy={grpo.ref}", "inputs.baseline=sft:v1", store, *few]
    )
    assert {f"{grpo.ref}/gold", f"{grpo.ref}/gold_gain", f"{grpo.ref}/win_rate"} <= judged.manifest.metrics.keys()


def test_its_pipeline_is_four_steps(configs):
    assert [step.name for step in load_steps("arithmetic", [])] == ["pretrain", "sft", "grpo", "evaluate"]

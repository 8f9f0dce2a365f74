"""Sample completions: taken on held-out prompts, recorded, and no burden to the training that goes on."""

import json
from pathlib import Path

import pytest

from align.config.schema import DataConfig, DatasetConfig
from align.data.loading.examples import Examples
from align.data.loading.tables import to_dataset
from align.records import Demonstration
from align.training.samples import pick_prompts
from tests.conftest import launch_stage, run_stage

PROMPTS = ("tracking.sample_prompts=3", "tracking.sample_tokens=6")


def lines(version, name: str) -> list[dict]:
    file: Path = version.path / name
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line] if file.is_file() else []


def losses(version) -> list[float]:
    return [line["loss"] for line in lines(version, "metrics.jsonl") if "loss" in line]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["stage=sft", "adapter=lora", "adapter.lora_dropout=0.2", "trainer.activation_checkpointing=true"],
        ["stage=dpo"],
        pytest.param(["stage=kto", "adapter=lora"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_training_goes_on_as_without(tiny_store, overrides):
    """With dropout each step draws random numbers: one drawn by the sampling would change every loss after it."""
    plain = run_stage(tiny_store, *overrides, "name=plain", "tracking.sample_prompts=0")
    often = run_stage(tiny_store, *overrides, "name=often", *PROMPTS, "tracking.sample_every=1")
    assert losses(plain) == losses(often) and len(losses(plain)) == 4
    assert plain.digest == often.digest  # the weights, to the last bit
    assert lines(plain, "samples.jsonl") == []
    samples = lines(often, "samples.jsonl")
    assert [sample["step"] for sample in samples] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert len({sample["prompt"] for sample in samples}) == 3
    assert set(samples[0]) == {"step", "prompt", "completion", "ended"}


@pytest.mark.slow
def test_one_table_at_the_end(tiny_store):
    version = run_stage(tiny_store, "stage=sft", "trainer.max_steps=2", *PROMPTS)
    assert [sample["step"] for sample in lines(version, "samples.jsonl")] == [2, 2, 2]


def test_prompts_are_held_out_different_and_always_the_same(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"p{n % 20}"}) + "\n" for n in range(40)))
    data = DataConfig(prompt_only=DatasetConfig(train="nowhere.jsonl", eval=str(file)))
    rows = to_dataset([Demonstration(prompt=f"q{n}", completion="c") for n in range(5)])
    examples = Examples(rows, rows)
    picked = pick_prompts(data, examples, limit=8)
    assert picked == pick_prompts(data, examples, limit=8) and len(set(picked)) == 8
    assert all(prompt.startswith("p") for prompt in picked)
    own = pick_prompts(DataConfig(), examples, limit=8)
    assert sorted(own) == [f"q{n}" for n in range(5)]
    assert pick_prompts(DataConfig(), Examples(rows, None), limit=8) == []
    assert pick_prompts(data, examples, limit=0) == []


def test_without_room_for_an_answer_nothing_is_sampled(tiny_store):
    version = run_stage(tiny_store, "stage=sft", "trainer.max_steps=1", *PROMPTS[:1], "tracking.sample_tokens=128")
    assert lines(version, "samples.jsonl") == []


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_two_ranks_under_zero3(tiny_store, adapter):
    """Partitioned weights are gathered on all ranks and put back as they were; the answers are one process's."""
    few = ["trainer.max_steps=2", "trainer.per_device_train_batch_size=4", f"adapter={adapter}"]
    given = ["stage=dpo", *few, *PROMPTS, "tracking.sample_every=1"]
    ranks = launch_stage(tiny_store, 2, *given, "name=ranks", "deepspeed=zero3")
    alone = run_stage(tiny_store, *given, "name=alone", "trainer.gradient_accumulation_steps=2")
    assert losses(ranks) == pytest.approx(losses(alone), abs=1e-5)
    samples = lines(ranks, "samples.jsonl")
    assert [sample["step"] for sample in samples] == [1, 1, 1, 2, 2, 2]
    assert samples == lines(alone, "samples.jsonl")
    if adapter == "none":
        without = launch_stage(tiny_store, 2, *given, "name=without", "deepspeed=zero3", "tracking.sample_prompts=0")
        assert losses(without) == losses(ranks) and without.digest == ranks.digest

"""Reward functions in the stages that train on the policy's own answers: columns, weights, and what is refused."""

import json
from importlib.metadata import version

import pytest
import torch
from safetensors.torch import load_file

from align.artifacts.store import Store
from align.errors import UserError
from tests.conftest import run_stage
from tests.data.data_command import write

ROWS = [
    {"prompt": [{"role": "user", "content": f"What is {n} and {n}?"}], "answer": f"#### {2 * n}", "tags": [f"t{n}"]}
    for n in range(16)
]
RULES = """
def same_row(prompts, completions, answer, tags, **columns):
    for prompt, reference, tag in zip(prompts, answer, tags, strict=True):
        number = int(prompt[0]["content"].split()[2])
        assert reference == f"#### {2 * number}" and tag == [f"t{number}"], (prompt, reference, tag)
    prompts.clear()
    return [1.0] * len(completions)


def ten(completions, log_extra, log_metric):
    log_extra("words", [len(completion[0]["content"].split()) for completion in completions])
    log_metric("tens", 10)
    return [10.0] * len(completions)


def length(completions, answer):
    return [len(completion[0]["content"]) - len(reference) for completion, reference in zip(completions, answer)]
"""
SMALL = {
    "ppo": ("trainer.generation_batch_size=8", "trainer.num_iterations=1"),
    "rloo": ("trainer.num_generations=2",),
    "grpo": ("trainer.num_generations=2",),
}
SCORE = {"ppo": "objective/scores", "rloo": "reward", "grpo": "reward"}


@pytest.fixture
def online(tiny_store, tmp_path):
    """`online(stage, functions, *overrides)`: a run on sixteen prompts with answers."""
    data = write(tmp_path / "prompts.jsonl", ROWS)
    (tmp_path / "rules.py").write_text(RULES)

    def run(stage, functions, *overrides):
        named = ",".join(f"{tmp_path}/rules.py:{name}" for name in functions)
        given = (
            f"stage={stage}",
            "data=local",
            f"data.prompt_only.train={data}",
            "data.prompt_only.eval_fraction=0.1",
        )
        given += ("trainer.max_steps=2", "inputs.reward_model=null", *SMALL[stage], "tracking.sample_prompts=2")
        return run_stage(tiny_store, *given, f"online.reward_functions=[{named}]", *overrides)

    return run


@pytest.mark.parametrize("stage", SMALL)
def test_functions_get_the_columns_of_their_rows_and_weights_count(online, stage, capsys):
    version = online(stage, ["same_row", "ten"], "trainer.reward_weights=[1.0,0.5]")
    lines = [json.loads(line) for line in (version.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    (first, *_) = [line for line in lines if SCORE[stage] in line]
    assert first["rewards/same_row/mean"] == 1 and first["rewards/ten/mean"] == 10
    assert first[SCORE[stage]] == pytest.approx(6)
    assert first["tens"] == 10
    samples = [json.loads(line) for line in (version.path / "samples.jsonl").read_text("utf-8").splitlines()]
    assert samples and all(sample["words"] == len(sample["completion"].split()) for sample in samples)
    assert "columns answer, tags" in capsys.readouterr().out


@pytest.mark.parametrize(
    "functions, overrides, message",
    [
        (["ten"], ["trainer.reward_weights=[1.0,0.5]"], "has 2 weights, and the rewards are 1: ten; give one weight"),
        (
            ["length"],
            ["data.prompt_only.keep=[tags]"],
            "needs answer, and the prompts have the columns tags; give every",
        ),
        (["length"], ["data.prompt_only.keep=[answer,id]"], "data.prompt_only.keep: id is a name that records use"),
        (["length"], ["data.prompt_only.keep=[answer,topic]"], "topic is missing (the row has prompt, answer, tags)"),
    ],
)
def test_a_mistake_is_a_sentence_before_a_model_is_loaded(online, monkeypatch, functions, overrides, message):
    monkeypatch.setattr("align.stages.grpo.load_policy", None)
    with pytest.raises(UserError) as error:
        online("grpo", functions, *overrides)
    assert message in str(error.value)


def test_the_wrong_kind_of_config_is_named(online):
    with pytest.raises(UserError, match="online.reward_functions is 3, but takes a list of texts or mappings"):
        online("grpo", [], "online.reward_functions=3")


def test_functions_and_their_parameters_are_in_the_identity(tiny_store):
    from align.config.compose import compose
    from align.config.identity import identity_config

    def of(functions):
        return identity_config(compose(["stage=grpo", f"online.reward_functions={functions}"]))

    assert of("[{function: align.rewards.format, tags: [a]}]") != of("[{function: align.rewards.format, tags: [b]}]")
    assert of("[align.rewards.math_answer]") != of("[align.rewards.exact_answer]")
    (code,) = of("[align.rewards.math_answer]")["online"]["reward_code"]
    assert code == f"align.rewards {version('math-verify')}", "another verifier may give other scores"


@pytest.mark.slow
@pytest.mark.parametrize("stage", SMALL)
def test_a_run_that_reads_columns_resumes_as_if_it_had_not_stopped(online, tiny_store, stage, monkeypatch):
    options = ("trainer.max_steps=6", "trainer.save_strategy=steps", "trainer.save_steps=2", "trainer.logging_steps=1")
    online(stage, ["length"], *options, "name=whole")
    from align.training.progress import TrackingCallback

    step_end = TrackingCallback.on_step_end

    def die(self, args, state, control, **more):
        if state.global_step == 5:
            raise RuntimeError("died")
        return step_end(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(TrackingCallback, "on_step_end", die)
        with pytest.raises(RuntimeError, match="died"):
            online(stage, ["length"], *options, "name=broken")
    online(stage, ["length"], *options, "name=broken")
    whole, broken = (
        load_file(Store(tiny_store).resolve(name).model_dir / "model.safetensors") for name in ("whole", "broken")
    )
    assert all(torch.equal(broken[name], weight) for name, weight in whole.items())

"""What a run will do, decided before torch: defaults, precedence, identity."""

import json

import pytest

from align.artifacts.store import Store
from align.config.compose import compose
from align.data.loading.examples import load_split
from align.errors import UserError
from align.run.plan import make_plan
from align.run.preflight import preflight


def plan(root, *overrides, world_size=1):
    return make_plan(compose([*overrides, f"artifacts.root={root}"]), Store(root), world_size=world_size)


def test_a_stage_alone_takes_the_demo_data_the_latest_sft_and_its_context(tiny_store):
    made = plan(tiny_store, "stage=dpo")
    assert made.inputs["policy"].ref == made.inputs["ref_model"].ref == "sft:v1"
    assert made.data["preference"]["train"]["file"] == "data/demo/preferences.train.jsonl"
    assert made.cfg.trainer["max_length"] == 128


def test_a_report_names_the_rows_that_were_held_out(tiny_store):
    records = plan(tiny_store, "stage=evaluate", "inputs.policy=sft", "inputs.baseline=null").to_manifest()
    assert records["data.prompt_only"]["ref"] == "data/demo/prompts.eval.jsonl"
    assert plan(tiny_store, "stage=dpo").to_manifest()["data.preference"]["ref"].endswith("preferences.train.jsonl")


def test_model_names_the_policy_only_where_none_is_given(tiny_store):
    folder = tiny_store / "pretrain" / "v0001" / "model"
    named = ("stage=dpo", "data=demo", f"model.source={folder}")
    assert plan(tiny_store, *named).inputs["policy"].path == folder
    given = plan(tiny_store, *named, "inputs.policy=sft:v1")
    assert given.inputs["policy"].ref == "sft:v1"


def test_the_identity_is_what_can_change_a_number(tiny_store):
    base = plan(tiny_store, "stage=dpo").identity
    same = ["tracking=wandb_offline", "trainer.logging_steps=1", "name=other", "inputs.policy=sft:v1"]
    for override in same:
        assert plan(tiny_store, "stage=dpo", override).identity == base, override
    other = ["trainer.beta=0.2", "trainer.seed=7", "data.preference.max_rows=10", "deepspeed=zero2", "precision=fp32"]
    for override in [*other, "inputs.policy=pretrain:v1", "adapter=lora"]:
        assert plan(tiny_store, "stage=dpo", override).identity != base, override
    assert plan(tiny_store, "stage=dpo", world_size=2).identity != base


def test_a_model_is_evaluated_without_a_reference_that_is_gone(tiny_store, run_stage, capsys):
    run_stage(tiny_store, "stage=dpo", "trainer.max_steps=1")
    evaluate = ("stage=evaluate", "data=demo", "inputs.policy=dpo", "inputs.baseline=null")
    assert plan(tiny_store, *evaluate).inputs["references"]["dpo:v1"].ref == "sft:v1"
    (tiny_store / "sft").rename(tiny_store / ".moved")
    assert plan(tiny_store, *evaluate).inputs["references"] == {}
    assert "dpo:v1 is measured without its reference: artifact 'sft:v1' is not in" in capsys.readouterr().out


def test_the_demo_data_is_a_default_for_the_demos_models_alone(tiny_store, run_stage, tmp_path):
    folder = tiny_store / "sft" / "v0001" / "model"
    outsider = ("stage=dpo", f"inputs.policy={folder}")
    with pytest.raises(UserError, match=f"stage dpo would use {folder} with the demo data, because no data is named"):
        plan(tiny_store, *outsider)
    assert plan(tiny_store, *outsider, "data=demo").data["preference"]["train"]["file"].startswith("data/demo/")
    # what is trained on other data is no longer of the demo, whatever it began as
    rows = tmp_path / "answers.jsonl"
    rows.write_text('{"prompt": "2+2?", "completion": "4"}\n' * 3)
    own = ("data=local", f"data.prompt_completion.train={rows}", "data.prompt_completion.eval_fraction=0")
    run_stage(tiny_store, "stage=sft", "name=own", "trainer.max_steps=1", *own)
    plan(tiny_store, "stage=dpo", "inputs.policy=sft:v1")
    with pytest.raises(UserError, match="stage dpo would use own:v1 with the demo data"):
        plan(tiny_store, "stage=dpo", "inputs.policy=own:v1")


def test_prompts_are_taken_from_another_format_where_none_are_named(tiny_store, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n} + 1?", "chosen": str(n + 1), "rejected": "no"} for n in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = ("data=local", f"data.preference.train={pairs}", f"data.preference.eval={pairs}")
    for stage in ("ppo", "grpo", "sample"):
        made = plan(tiny_store, f"stage={stage}", "inputs.policy=sft:v1", *local)
        assert made.data["prompt_only"]["train"]["file"] == str(pairs)
        prompts = load_split(made.cfg.data, None, "prompt_only", "train").records
        assert [record.prompt for record in prompts] == [row["prompt"] for row in rows]
    made = plan(tiny_store, "stage=evaluate", "inputs.policy=sft:v1", *local)
    assert set(made.data) == {"preference", "prompt_only"}


def test_an_evaluation_needs_no_train_file(tiny_store, tmp_path):
    held = tmp_path / "held.jsonl"
    held.write_text('{"prompt": "1 + 1?"}\n')
    made = plan(tiny_store, "stage=evaluate", "inputs.policy=sft:v1", "data=local", f"data.prompt_only.eval={held}")
    assert set(made.data["prompt_only"]) >= {"eval"} and "train" not in made.data["prompt_only"]
    preflight(made)


def test_an_optional_format_that_is_asked_for_must_be_named(tiny_store):
    with pytest.raises(UserError, match="trainer.ptx_coef reads language_modeling data and none is named"):
        plan(tiny_store, "stage=ppo", "trainer.ptx_coef=0.1", "data.language_modeling.train=null")
    with pytest.raises(UserError, match="reward.center reads prompt_completion data and none is named"):
        plan(tiny_store, "stage=reward", "reward.center=demonstrations", "data.prompt_completion.train=null")

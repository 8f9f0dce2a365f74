"""What a run will do, decided before torch: defaults, precedence, identity."""

from align.artifacts.store import Store
from align.config.compose import compose
from align.run.plan import make_plan


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
    assert plan(tiny_store, "stage=dpo", f"model.source={folder}").inputs["policy"].path == folder
    given = plan(tiny_store, "stage=dpo", f"model.source={folder}", "inputs.policy=sft:v1")
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
    evaluate = ("stage=evaluate", "inputs.policy=dpo", "inputs.baseline=null")
    assert plan(tiny_store, *evaluate).inputs["references"]["dpo:v1"].ref == "sft:v1"
    (tiny_store / "sft").rename(tiny_store / ".moved")
    assert plan(tiny_store, *evaluate).inputs["references"] == {}
    assert "dpo:v1 is measured without its reference: artifact 'sft:v1' is not in" in capsys.readouterr().out

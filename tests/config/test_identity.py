"""What is in a run's identity, and what is not."""

import pytest

from align.config.compose import compose
from align.config.identity import formats_read, identity_config

BASE = ["stage=dpo", "deepspeed=zero3_nvme"]


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "tracking=wandb_offline",
        "tracking.sample_prompts=3",
        "launcher=deepspeed",
        "launcher.env.X=1",
        "artifacts.root=/elsewhere",
        "inputs.policy=sft:v2",
        "model=gpt2",
        "data.preference.train=other.jsonl",
        "data.unpaired_preference.max_rows=3",
        "trainer.logging_steps=1",
        "trainer.save_steps=7",
        "trainer.dataloader_num_workers=2",
        "evaluate.seed=3",
        "reward.center=demonstrations",
    ],
)
def test_what_changes_no_number_is_not_in_the_identity(override):
    changed = identity_config(compose([*BASE, override]))
    if override == "model=gpt2":  # its template and pad token do count; its source is an input
        changed["model"] |= {"chat_template": None, "pad_token": None}
    assert changed == identity_config(compose(BASE))


@pytest.mark.parametrize(
    "override",
    [
        "trainer.beta=0.2",
        "trainer.seed=1",
        "trainer.dataloader_drop_last=true",
        "precision=fp32",
        "model.dtype=bfloat16",
        "adapter=lora",
        "data.preference.max_rows=3",
        "data.preference.columns.chosen=better",
        "data.overlong=drop",
        "deepspeed.config.zero_optimization.sub_group_size=1000",
        "model.chat_template=conf/model/chat.jinja",
    ],
)
def test_what_can_change_a_number_is_in_the_identity(override):
    assert identity_config(compose([*BASE, override])) != identity_config(compose(BASE))


def test_saving_counts_where_it_chooses_the_best_checkpoint():
    best = ["stage=dpo", "trainer.load_best_model_at_end=true"]
    assert identity_config(compose([*best, "trainer.save_steps=7"])) != identity_config(compose(best))


def test_an_edited_judge_or_template_is_another_run(tmp_path):
    template, judge = tmp_path / "t.jinja", tmp_path / "j.py"
    typed = ["stage=evaluate", f"model.chat_template={template}", f"evaluate.judge={judge}:judge"]
    identities = []
    for text in ("a", "b"):
        template.write_text(text)
        judge.write_text("c")
        identities.append(identity_config(compose(typed)))
        judge.write_text(text)
        identities.append(identity_config(compose(typed)))
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])


def test_the_formats_a_run_reads():
    assert formats_read(compose(["stage=reward"])) == ("preference",)
    assert formats_read(compose(["stage=reward", "reward.center=demonstrations"])) == (
        "preference",
        "prompt_completion",
    )
    assert formats_read(compose(["stage=kto", "inputs.dataset=judged:v1"])) == ()

"""Sweeps: one command line as many, in order."""

import pytest

from align.config.compose import compose, expand_sweep
from align.errors import UserError


def test_a_sweep_is_every_combination_in_order():
    jobs = expand_sweep(["stage=dpo", "trainer.beta=0.1,0.2", "trainer.seed=range(0,2)", "name='a=b'"])
    assert jobs == [
        ["stage=dpo", f"trainer.beta={beta}", f"trainer.seed={seed}", "name='a=b'"]
        for beta in (0.1, 0.2)
        for seed in (0, 1)
    ]
    assert [compose(job).trainer["seed"] for job in jobs] == [0, 1, 0, 1]


def test_a_sweep_of_a_group():
    assert expand_sweep(["deepspeed=glob(zero3*)", "stage=sft"]) == [
        [f"deepspeed={kind}", "stage=sft"] for kind in ("zero3", "zero3_nvme", "zero3_offload")
    ]
    assert expand_sweep(["stage=dpo"]) == [["stage=dpo"]]


def test_a_sweep_keeps_lists_and_strings_apart():
    jobs = expand_sweep(["stage=dpo", "trainer.loss_type=[sigmoid,sft],ipo", 'name="x,y",z'])
    assert [job[1] for job in jobs] == ["trainer.loss_type=[sigmoid,sft]"] * 2 + ["trainer.loss_type=ipo"] * 2
    assert [compose(job).name for job in jobs[:2]] == ["x,y", "z"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.beta=interval(0,1)", "is an interval without steps; list values: trainer.beta=0.1,0.2"),
        ("model=glob(nothing*)", "meets no file of conf/model"),
    ],
)
def test_a_sweep_without_jobs_is_refused(override, sentence):
    with pytest.raises(UserError) as caught:
        expand_sweep(["stage=dpo", override])
    assert sentence in str(caught.value)

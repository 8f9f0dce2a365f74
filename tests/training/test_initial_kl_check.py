"""Where the policy begins as its own reference, both say the same at step 0, or the run stops there."""

import importlib
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from align.errors import UserError
from align.run import stage
from align.training.initial_kl_check import SameAtStart, has_dropout
from tests.conftest import stage_overrides


def check(*, reward: float = 0.0, loss: float = math.log(2), step: int = 0, bf16: bool = False, **args) -> None:
    args = {"beta": 0.1, "bf16": bf16, "fp16": False, "loss_type": ["sigmoid"], **args}
    trainer = SimpleNamespace(
        model=torch.nn.Linear(1, 1),
        args=SimpleNamespace(**args),
        _tr_loss=torch.tensor(loss),
        _metrics={"train": defaultdict(list, {"rewards/chosen": [reward], "rewards/rejected": [0.0]})},
    )
    SameAtStart(trainer).on_pre_optimizer_step(trainer.args, SimpleNamespace(global_step=step), None)


def test_log_ratios_are_zero_and_the_sigmoid_loss_is_log_2():
    check()
    check(reward=3.0, step=1)  # it has moved
    check(loss=1.5, loss_type=["ipo"])
    check(reward=0.01, bf16=True)  # 0.1 nats of rounding in 16 bits
    check(reward=-1e-6, beta=-0.1)
    check(beta=0.0)  # the reference plays no part
    with pytest.raises(UserError, match="off by up to 0.1 nats: the reference was loaded from other"):
        check(reward=-0.01)
    with pytest.raises(UserError, match="the loss is 0.8 where it should be log 2"):
        check(loss=0.8)


@pytest.mark.parametrize("name", ["objective/kl", "kl"])
def test_an_online_stage_begins_without_kl(name):
    def check(kl):
        trainer = SimpleNamespace(
            model=torch.nn.Linear(1, 1),
            args=SimpleNamespace(bf16=False, fp16=False),
            _tr_loss=torch.tensor(0.0),
            _metrics={"train": defaultdict(list, {name: [kl]})},
        )
        SameAtStart(trainer).on_pre_optimizer_step(trainer.args, SimpleNamespace(global_step=0), None)

    check(1e-6)
    with pytest.raises(UserError, match="off by up to 0.5 nats"):
        check(0.5)


def test_what_draws_is_not_compared():
    assert has_dropout(torch.nn.Sequential(torch.nn.Dropout(0.1))) and not has_dropout(torch.nn.Dropout(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo", "kto", "ppo"])
def test_a_reference_of_other_weights_stops_the_run(tiny_store, monkeypatch, capsys, method):
    module = importlib.import_module(f"align.stages.{method}")
    load = module.load_frozen

    def load_another(*args, **options):
        model = load(*args, **options)
        with torch.no_grad():
            model.transformer.wte.weight.mul_(-1)
        return model

    monkeypatch.setattr(module, "load_frozen", load_another)
    assert stage.main(stage_overrides(tiny_store, f"stage={method}")) == 2
    assert "begins as its own reference, but their log-ratios" in capsys.readouterr().err

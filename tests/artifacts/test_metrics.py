"""Which numbers speak for a version, and the conditions that a user writes."""

import math

import pytest

from align.artifacts.metrics import HEADLINES, Condition, Metric, headline, key_metrics, named_metric, numbers
from align.errors import UserError
from align.stages.spec import STAGES

PPO = {
    "train_loss": 0.007,
    "eval_rewards/reward/std": 0.65,
    "eval_rewards/reward/mean": 1.6,
    "eval_objective/scores": 1.6,
    "eval_objective/kl": 1.8,
}
EVALUATION = {
    "reward:v1/accuracy": 0.87,
    "sft:v1/gold": 0.41,
    "dpo:v1/gold": 0.49,
    "ppo:v1/gold": 0.58,
    "dpo:v1/win_rate": 0.56,
    "ppo:v1/win_rate": 0.7,
}


def test_every_stage_declares_its_headline():
    assert HEADLINES.keys() == STAGES.keys()


@pytest.mark.parametrize(
    ("stage", "metrics", "names"),
    [
        ("ppo", PPO, ["eval_objective/scores", "eval_objective/kl"]),
        ("evaluate", EVALUATION, ["ppo:v1/gold", "ppo:v1/win_rate"]),
        ("evaluate", {"reward:v1/accuracy": 0.87, "reward:v1/ece": 0.1}, ["reward:v1/accuracy"]),
        ("sft", {"train_loss": 1.0, "train_runtime": 3.0}, ["train_loss"]),
        ("ppo", {"train_loss": 1.0}, []),  # a loss says nothing of a policy that writes its own data
        (None, {"rewards/reward/std": 0.6, "rewards/reward/mean": 0.5, "epoch": 1}, ["rewards/reward/mean"]),
        ("import", {"rows_in": 4, "rows_used": 4, "train_records": 3}, ["train_records", "rows_in"]),
    ],
    ids=str,
)
def test_a_headline_is_what_the_stage_is_judged_by(stage, metrics, names):
    assert headline(stage, metrics) == names


def test_metrics_that_the_user_names_come_first():
    assert key_metrics("ppo", PPO, first=["train_loss"]) == (
        "train_loss=0.007 eval_objective/scores=1.6 eval_objective/kl=1.8"
    )


def test_numbers_of_a_manifest():
    read = numbers({"eval": {"gold": 0.5}, "text": "x", "flag": True, "loss": "nan", "count": 3})
    assert math.isnan(read.pop("loss")) and read == {"eval/gold": 0.5, "count": 3}


@pytest.mark.parametrize(
    ("text", "stage", "metric"),
    [
        ("eval_loss", None, Metric("eval_loss", "min")),
        ("eval_loss:max", None, Metric("eval_loss", "max")),
        ("*/gold", "evaluate", Metric("*/gold", "max")),
        ("dpo:v1/gold", None, Metric("dpo:v1/gold", "max")),
        ("dpo:v1/perplexity", None, Metric("dpo:v1/perplexity", "min")),
        ("objective/kl", None, Metric("objective/kl", "min")),
        ("rewards/margins", None, Metric("rewards/margins", "max")),
    ],
)
def test_the_direction_of_a_metric(text, stage, metric):
    assert named_metric(text, stage) == metric


def test_a_direction_that_is_none():
    with pytest.raises(UserError, match=r"'eval_loss:lowest' ends in neither :min nor :max; write eval_loss:max"):
        named_metric("eval_loss:lowest")


def test_the_best_comes_first_and_what_lacks_the_metric_last():
    rows = [{"a": 1.0}, {}, {"a": math.nan}, {"a": 3.0}]
    assert sorted(rows, key=Metric("a", "max").sort_key)[:2] == [{"a": 3.0}, {"a": 1.0}]
    assert sorted(rows, key=Metric("a", "min").sort_key)[:2] == [{"a": 1.0}, {"a": 3.0}]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("train_loss<0.01", True),
        ("train_loss < 0.001", False),
        ("eval_objective/kl>=1.8", True),
        ("eval_objective/kl!=1.8", False),
        ("eval_rewards/*>1", True),
        ("eval_loss<9", False),
    ],
)
def test_conditions(text, holds):
    assert Condition.parse(text).holds(PPO) is holds


@pytest.mark.parametrize("text", ["eval_loss", "eval_loss<low", "<3", ""])
def test_a_condition_that_is_none(text):
    with pytest.raises(UserError, match="is not a condition; write a metric, a comparison and a number"):
        Condition.parse(text)

"""Stage ppo as a user runs it, a few steps at a time, and its sisters rloo and grpo."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from align.artifacts.store import Store
from align.errors import UserError
from align.ppo.trainer import PPOTrainer
from align.rewards.load import default_completion_length
from tests.conftest import launch_stage

# Two rollouts of 16 completions, each gone through twice in minibatches of 8: eight steps.
PPO = (
    "stage=ppo",
    "trainer.max_steps=8",
    "trainer.generation_batch_size=16",
    "trainer.num_iterations=2",
    "trainer.learning_rate=1e-3",
)
# One step on each rollout, so that what it does is first seen by the next.
ONE_STEP = ("trainer.generation_batch_size=8", "trainer.num_iterations=1")
# The names that PPO users know.
METRICS = [
    "objective/kl",
    "objective/entropy",
    "objective/non_score_reward",
    "objective/rlhf_reward",
    "objective/scores",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "policy/entropy_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/ratio",
    "val/explained_variance",
    "kl_coef",
    "time/rollout",
    "time/scoring",
    "time/update",
    "time/tokens_per_second",
]
LORA = ("adapter=lora", "adapter.r=4", "adapter.lora_alpha=8")


def lines(version):
    return [json.loads(line) for line in (version.path / "metrics.jsonl").read_text("utf-8").splitlines()]


def numbers(version):
    """Every logged number but those of the clock."""
    clock = ("time/", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    return [
        {key: value for key, value in line.items() if not key.startswith((*clock, "eval_runtime", "eval_s", "_", "t"))}
        for line in lines(version)
    ]


def weights(version):
    return load_file(version.model_dir / "model.safetensors")


@pytest.fixture(scope="module")
def straight(tiny_models, tmp_path_factory):
    """A store with one plain run: ppo:v1 and ppo-value:v1."""
    from tests.conftest import run_stage

    root = tmp_path_factory.mktemp("ppo") / "artifacts"
    shutil.copytree(tiny_models, root)
    run_stage(root, *PPO, "tracking.sample_prompts=4")
    return root


def test_it_publishes_a_plain_policy_and_the_value_model(straight):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    store = Store(straight)
    ppo, value = store.resolve("ppo:v1"), store.resolve("ppo-value:v1")
    assert value.manifest.type == "value_model" and value.manifest.identity == ppo.manifest.identity
    assert {role for role, _ in ppo.manifest.each_input()} == {
        "policy",
        "ref_model",
        "reward_model",
        "data.prompt_only",
    }
    policy, report = AutoModelForCausalLM.from_pretrained(ppo.model_dir, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    before = load_file(store.resolve("sft:v1").model_dir / "model.safetensors")
    assert any(not torch.equal(before[name], weight) for name, weight in weights(ppo).items())
    _, report = AutoModelForSequenceClassification.from_pretrained(value.model_dir, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    head = load_file(store.resolve("reward:v1").model_dir / "model.safetensors")["score.weight"]
    trained = load_file(value.model_dir / "model.safetensors")["score.weight"]
    assert 0 < (trained - head).abs().max() < 0.1, "the value model begins as the reward model"


def test_metrics_have_the_names_that_are_known(straight):
    told = {key for line in lines(Store(straight).resolve("ppo")) for key in line}
    assert set(METRICS) <= told
    first = lines(Store(straight).resolve("ppo"))[0]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5), "policy and reference begin as one"
    shares = [line for line in lines(Store(straight).resolve("ppo")) if "time/update" in line][0]
    assert sum(shares[f"time/{phase}"] for phase in ("rollout", "scoring", "update")) == pytest.approx(1)


def test_completions_are_kept_with_score_and_kl(straight):
    file = Store(straight).resolve("ppo").path / "samples.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert len(rows) == 4 and {"step", "prompt", "completion", "reward", "score", "kl"} <= rows[0].keys()


def test_interrupted_and_resumed_is_straight(straight, run_stage, monkeypatch, capsys):
    """Saving is asked for in the middle of an update and put off to its end; then the run dies."""
    saves = ("trainer.save_strategy=steps", "trainer.save_steps=3", "trainer.normalize_scores=true")
    adaptive = ("trainer.kl_target=0.01", "trainer.kl_horizon=64", "trainer.kl_budget=5", "trainer.logging_steps=3")
    run_stage(straight, *PPO, *saves, *adaptive, "name=whole", "tracking.tags=[a]")
    with monkeypatch.context() as patch:

        def die(self, *_, **__):
            if self._step == 6:
                raise RuntimeError("died")
            return step(self, *_, **__)

        step = PPOTrainer._compute_loss
        patch.setattr(PPOTrainer, "_compute_loss", die)
        with pytest.raises(RuntimeError, match="died"):
            run_stage(straight, *PPO, *saves, *adaptive, "name=broken")
    run_stage(straight, *PPO, *saves, *adaptive, "name=broken")
    assert "continues after step 4/8" in capsys.readouterr().out
    whole, broken = Store(straight).resolve("whole"), Store(straight).resolve("broken")
    assert numbers(broken) == numbers(whole)
    assert all(torch.equal(weights(broken)[name], weight) for name, weight in weights(whole).items())
    ours, theirs = (weights(Store(straight).resolve(f"{name}-value")) for name in ("broken", "whole"))
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_a_kl_budget_stops_with_the_last_good_weights(straight, run_stage, capsys):
    version = run_stage(straight, *PPO, "trainer.kl_budget=1e-4", "trainer.learning_rate=1e-2", "name=stopped")
    said = capsys.readouterr().out
    assert "above kl_budget 0.0001" in said and "as it was one rollout before" in said
    before = load_file(Store(straight).resolve("sft:v1").model_dir / "model.safetensors")
    assert all(torch.equal(before[name], weight) for name, weight in weights(version).items())


@pytest.mark.slow
def test_two_processes_keep_the_last_good_weights_between_them(straight, tmp_path):
    root = tmp_path / "artifacts"
    shutil.copytree(straight, root)
    options = ("trainer.per_device_train_batch_size=4", "trainer.kl_budget=1e-4", "trainer.learning_rate=1e-2")
    version = launch_stage(root, 2, *PPO, *options, "name=stopped")
    before = load_file(Store(root).resolve("sft:v1").model_dir / "model.safetensors")
    assert all(torch.equal(before[name], weight) for name, weight in weights(version).items())


def test_a_completion_takes_half_the_context_where_no_length_is_given():
    assert [default_completion_length(context) for context in (128, 8192, None)] == [64, 256, 256]


@pytest.mark.slow
def test_too_large_a_step_leaves_the_rest_of_the_rollout_out(straight, run_stage):
    """Only the first minibatch of each rollout is learnt from, whatever comes after it."""
    early = (
        "trainer.max_approx_kl=1e-12",
        "trainer.max_completion_length=null",
        "trainer.max_steps=4",
        "trainer.lr_scheduler_type=constant",
    )
    one = run_stage(straight, *PPO, *early, "trainer.num_iterations=2", "name=early")
    taken = [line["loss"] for line in lines(one) if "loss" in line]
    assert taken[1] != 0 and taken[2:] == [0, 0]  # the first step's ratio is exactly one


@pytest.mark.parametrize(
    "given, told",
    [
        (["trainer.ratio_threshold=1e-9"], "mean ratio to the rollout's is 1"),
        (["trainer.learning_rate=1e30", "trainer.max_grad_norm=1e30"], "is no number"),
        (["trainer.learning_rate=1e38", "trainer.max_grad_norm=1e38", *ONE_STEP], "steps the policy's logits are no"),
        (["trainer.generation_batch_size=12"], "does not divide into minibatches of 8"),
        (["trainer.generation_batch_size=128"], "a rollout takes 128 prompts and there are 64"),
        (["trainer.num_generations=3"], "does not divide into groups of num_generations 3"),
        (["trainer.sync_ref_model=true"], "leave it false"),
        (["trainer.router_aux_loss_coef=0.01"], "no term of PPO's loss"),
        (["trainer.kl_estimator=k2"], "takes one of k1, k3"),
        (["trainer.max_completion_length=500"], "leaves no room for a prompt in the context of sft:v1, 128 tokens"),
        (["trainer.max_completion_length=120"], "lower trainer.max_completion_length"),
        (["inputs.reward_model=sft:v1"], "needs input reward_model of type reward_model; sft:v1 is a model"),
        (["inputs.reward_model=null"], "nothing that scores a completion"),
        (["trainer.ptx_coef=0.1", "data.language_modeling.train=null"], "ptx_coef"),
        (["online.reward_functions=[nowhere.py:score]"], "there is no file"),
    ],
)
def test_a_mistake_is_a_sentence(straight, run_stage, given, told):
    with pytest.raises(UserError) as error:
        run_stage(straight, *PPO, *given, "name=mistake")
    assert told in str(error.value)


FUNCTIONS = """
def nan(prompts, completions, **columns):
    return [float("nan")] * len(prompts)

def fails(prompts, completions, **columns):
    raise ValueError("no such thing")

def none(prompts, completions, **columns):
    return [None] * len(prompts)

def short(prompts, completions, **columns):
    return [float(len(completion[0]["content"]) < 20) for completion in completions]
"""


@pytest.mark.parametrize(
    "function, told",
    [
        ("nan", "rewards.py:nan. gave nan for the prompt"),
        ("fails", "rewards.py:fails. raised ValueError: no such thing"),
        ("none", "no reward function gave a score for the prompt"),
    ],
)
def test_a_reward_function_that_fails_is_named(straight, run_stage, tmp_path, function, told):
    (tmp_path / "rewards.py").write_text(FUNCTIONS, "utf-8")
    named = f"online.reward_functions=[{tmp_path}/rewards.py:{function}]"
    with pytest.raises(UserError, match=told):
        run_stage(straight, *PPO, "inputs.reward_model=null", named, "name=fails")


@pytest.mark.slow
def test_models_and_functions_are_weighed_together(straight, run_stage, tmp_path):
    (tmp_path / "rewards.py").write_text(FUNCTIONS, "utf-8")
    version = run_stage(
        straight,
        *PPO,
        f"online.reward_functions=[{tmp_path}/rewards.py:short]",
        "trainer.reward_weights=[0.5,2.0]",
        "trainer.missing_eos_penalty=1.0",
        "trainer.length_penalty=0.01",
        "trainer.max_steps=1",
        "name=weighed",
    )
    first = lines(version)[0]
    plain = 0.5 * first["rewards/reward/mean"] + 2.0 * first["rewards/short/mean"]
    penalty = first["completions/clipped_ratio"] + 0.01 * first["completions/mean_length"]
    assert first["objective/scores"] == pytest.approx(plain - penalty, abs=1e-5)


@pytest.mark.slow
def test_a_reward_model_of_another_tokenizer_reads_the_text(straight, run_stage):
    """A reward model with a vocabulary of its own gives the scores it gives that text by itself."""
    from align.models.load import load_reward_model, load_tokenizer
    from align.models.scoring import reward_scores
    from tests.conftest import TINY_MODEL

    other = {**TINY_MODEL, "model.new.tokenizer.vocab_size": "400", "name": "other"}
    run_stage(straight, "stage=pretrain", *(f"{key}={value}" for key, value in other.items()), "trainer.max_steps=1")
    chat = "model.chat_template=conf/model/chat.jinja"
    run_stage(straight, "stage=reward", "inputs.policy=other:v1", "name=judge", chat, "trainer.max_steps=1")
    given = ("inputs.reward_model=judge:v1", "tracking.sample_prompts=16", "trainer.max_steps=1")
    version = run_stage(straight, *PPO, *given, "name=judged")
    folder = Store(straight).resolve("judge").model_dir
    rows = [json.loads(line) for line in (version.path / "samples.jsonl").read_text("utf-8").splitlines()]
    pairs = [
        ([{"role": "user", "content": row["prompt"]}], [{"role": "assistant", "content": row["completion"]}])
        for row in rows
    ]
    expected = reward_scores(load_reward_model(folder), load_tokenizer(folder), pairs)
    assert [row["judge"] for row in rows] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_pretraining_texts_are_mixed_in(straight, run_stage):
    version = run_stage(straight, *PPO, "trainer.ptx_coef=0.5", "trainer.ptx_batch_size=2", "name=mixed")
    told = [line["loss/ptx_avg"] for line in lines(version) if "loss/ptx_avg" in line]
    assert len(told) == 2 and told[1] < told[0], "the texts' own loss goes down"
    assert "data.language_modeling" in dict(version.manifest.each_input())


@pytest.mark.slow
def test_the_value_can_be_read_from_the_policys_states(straight, run_stage):
    version = run_stage(straight, *PPO, "trainer.share_backbone=true", "trainer.kl_estimator=k3", "name=shared")
    assert {"loss/value_avg", "loss/kl_avg"} <= {key for line in lines(version) for key in line}
    assert not Store(straight).numbers("shared-value")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["rloo", "grpo"])
def test_its_sisters_take_the_same_inputs(straight, run_stage, stage):
    version = run_stage(straight, f"stage={stage}", "trainer.num_generations=2", "tracking.sample_prompts=2")
    logged = {key for line in lines(version) for key in line}
    assert {"rewards/reward/mean", "kl", "eval_objective/scores"} <= logged
    assert {"objective/scores", "policy/entropy_avg", "policy/clipfrac_avg"} <= logged & set(METRICS)
    assert version.manifest.type == "model" and (version.path / "samples.jsonl").is_file()


@pytest.mark.slow
def test_adapters_share_one_base(straight, run_stage):
    """A new adapter on the policy, and a reward adapter of the same base: no second network is held."""
    from align.models.load import load_reward_model

    run_stage(straight, "stage=reward", *LORA, "name=judge_lora", "trainer.learning_rate=1e-2")
    held = []
    built = PPOTrainer.train

    def look(self, *arguments, **options):
        held.append(self)
        return built(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PPOTrainer, "train", look)
        given = ("inputs.reward_model=judge_lora:v1", "trainer.activation_checkpointing=true", "name=ppo_lora")
        version = run_stage(straight, *PPO, *LORA, *given, "trainer.learning_rate=1e-2")
    trainer = held[0]
    assert trainer.ref_model is None and trainer.model.value_model is None
    assert set(trainer.policy.peft_config) == {"default", "value", "reward0"}
    assert lines(version)[0]["objective/kl"] == pytest.approx(0, abs=1e-5)
    store = Store(straight)
    assert version.manifest.adapter["base"]["ref"] == "sft:v1"
    value = store.resolve("ppo_lora-value")
    begun = load_file(store.resolve("judge_lora").model_dir / "adapter_model.safetensors")
    ended = load_file(value.model_dir / "adapter_model.safetensors")
    assert begun.keys() == ended.keys() and any(not torch.equal(begun[name], ended[name]) for name in begun)
    assert load_reward_model(value.model_dir).score.weight.shape == (1, 32)
    again = run_stage(straight, *PPO, *LORA, "inputs.policy=ppo_lora:v1", "name=ppo_more", "trainer.max_steps=4")
    assert lines(again)[0]["objective/kl"] == pytest.approx(0, abs=1e-5), "its reference is the adapter as it came in"

"""Proximal Policy Optimization: a policy from a reward model, on its own answers.

Schulman et al. 2017 (arXiv:1707.06347) on language models as Ziegler et al. 2019 (arXiv:1909.08593) and Ouyang et al.
2022 (arXiv:2203.02155) have it.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from align.artifacts.bases import is_adapter
from align.artifacts.model_files import context_length
from align.config.schema import Config
from align.data.loading.examples import load_examples
from align.models.adapters import build_lora, build_quantization
from align.models.load import load_frozen, load_policy, load_tokenizer
from align.models.save import finish_model, save_merged
from align.ppo import PPOConfig, PPOTrainer
from align.rewards.load import (
    base_digest,
    default_completion_length,
    load_rewards,
    load_value_model,
    place_rewards,
    room_for_prompts,
    value_sources,
)
from align.training.initial_kl_check import SameAtStart
from align.training.progress import TrackingCallback
from align.training.samples import RolloutSamples
from align.training.tracking import Tracker
from align.training.trainer import build_arguments, build_trainer, fit, resolve_dtype


def run(cfg: Config, inputs: dict[str, Any], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Train the policy on answers to `prompt_only` rows; publish a model, and its value model."""
    # arguments
    args = build_arguments(
        PPOConfig,
        cfg.trainer,
        output_dir=output_dir.parent / "checkpoints",
        precision=cfg.precision,
        deepspeed=cfg.deepspeed.config,
    )

    # models
    policy_path = inputs["policy"].path
    lora = build_lora(asdict(cfg.adapter), task_type="CAUSAL_LM")
    dtype = resolve_dtype(cfg.model.dtype, cfg.precision, frozen=lora is not None)
    tokenizer = load_tokenizer(policy_path, **cfg.model.tokenizer_options())
    policy = load_policy(
        policy_path,
        lora=lora,
        dtype=dtype,
        quantization_config=build_quantization(asdict(cfg.adapter), dtype=dtype),
        **cfg.model.load_options(),
    )
    ref_model = None
    if lora is None or inputs["ref_model"].digest != inputs["policy"].digest:
        # An adapter needs no second model: its reference is the base, or a frozen copy of the adapter it began as.
        ref_model = load_frozen(inputs["ref_model"].path, dtype=dtype, **cfg.model.load_options())
    base = None
    value_model = value_adapter = None
    if lora is not None:
        # Policy, reference, value, and a reward adapter of the same base share that base.
        base = base_digest(inputs["policy"]) or inputs["policy"].digest
        value_adapter = next((one.path for one in value_sources(inputs) if base_digest(one) == base), None)
    elif not args.share_backbone:
        value_model = load_value_model(cfg, inputs, dtype=dtype)
    rewards = load_rewards(cfg, inputs, base=base)

    # data
    context = context_length(policy_path)
    args.max_completion_length = args.max_completion_length or default_completion_length(context)
    room, remedy = room_for_prompts(context, args.max_completion_length)
    examples = load_examples(
        cfg.data,
        inputs.get("dataset"),
        "prompt_only",
        tokenizer=tokenizer,
        max_length=room,
        remedy=remedy,
        columns=True,
    )
    texts = None
    if args.ptx_coef:
        texts = load_examples(cfg.data, None, "language_modeling", tokenizer=None).train

    # train
    trainer = build_trainer(
        PPOTrainer,
        model=policy,
        reward_funcs=rewards,
        ref_model=ref_model,
        value_model=value_model,
        value_adapter=value_adapter,
        args=args,
        train_dataset=examples.train,
        eval_dataset=examples.eval,
        ptx_dataset=texts,
        processing_class=tokenizer,
        peft_config=None if is_adapter(policy_path) else lora,
        callbacks=[TrackingCallback(tracker, cfg.name)],
    )
    if inputs["ref_model"].digest == inputs["policy"].digest:
        trainer.add_callback(SameAtStart(trainer))
    place_rewards(rewards, inputs, trainer)
    trainer.add_callback(RolloutSamples(trainer, tracker, cfg.tracking))
    metrics = fit(trainer, checkpoints_gb=cfg.artifacts.checkpoints_gb) | examples.metrics

    # save
    trainer.save_model(str(output_dir / "model"))
    finish_model(trainer.policy, tokenizer, output_dir / "model")
    if trainer.save_value_model(output_dir / "value_model"):
        finish_model(trainer.model.value_model or trainer.policy, tokenizer, output_dir / "value_model")
    if lora is not None and cfg.adapter.merge:
        save_merged(output_dir / "model", partial(load_policy, **cfg.model.load_options()))
    return metrics

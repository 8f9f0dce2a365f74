"""REINFORCE Leave-One-Out: a policy from a reward model, each answer measured against the others to its prompt.

Ahmadian et al. 2024 (arXiv:2402.14740).
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from trl import RLOOConfig, RLOOTrainer

from align.artifacts.bases import is_adapter
from align.artifacts.model_files import context_length
from align.config.schema import Config
from align.data.loading.examples import load_examples
from align.models.adapters import build_lora, build_quantization
from align.models.load import load_policy, load_tokenizer
from align.models.save import save_merged, save_model
from align.rewards.load import (
    CommonMetrics,
    default_completion_length,
    load_rewards,
    place_rewards,
    room_for_prompts,
)
from align.training.initial_kl_check import SameAtStart
from align.training.progress import TrackingCallback
from align.training.samples import RolloutSamples
from align.training.tracking import Tracker
from align.training.trainer import build_arguments, build_trainer, fit, resolve_dtype


def run(cfg: Config, inputs: dict[str, Any], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Train the policy on answers to `prompt_only` rows; publish a model."""
    # arguments
    args = build_arguments(
        RLOOConfig,
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
    rewards = load_rewards(cfg, inputs)

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

    # train
    trainer = build_trainer(
        RLOOTrainer,
        model=policy,
        reward_funcs=rewards,
        args=args,
        train_dataset=examples.train,
        eval_dataset=examples.eval,
        processing_class=tokenizer,
        peft_config=None if is_adapter(policy_path) else lora,
        callbacks=[CommonMetrics(), TrackingCallback(tracker, cfg.name)],
    )
    trainer.add_callback(SameAtStart(trainer))
    place_rewards(rewards, inputs, trainer)
    trainer.add_callback(RolloutSamples(trainer, tracker, cfg.tracking))
    metrics = fit(trainer, checkpoints_gb=cfg.artifacts.checkpoints_gb) | examples.metrics

    # save
    save_model(trainer, output_dir / "model")
    if lora is not None and cfg.adapter.merge:
        save_merged(output_dir / "model", partial(load_policy, **cfg.model.load_options()))
    return metrics

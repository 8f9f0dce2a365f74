"""Supervised fine-tuning: imitate demonstrations, loss on the completion or on every assistant turn.

Ouyang et al. 2022 (arXiv:2203.02155), step 1.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from trl import SFTConfig, SFTTrainer

from align.artifacts.bases import is_adapter
from align.artifacts.inputs import Input
from align.config.schema import Config
from align.data.loading.examples import load_examples
from align.data.tokens.loss_mask import Loss
from align.models.adapters import build_lora, build_quantization
from align.models.load import load_policy, load_tokenizer
from align.models.save import save_merged, save_model
from align.training.progress import TrackingCallback
from align.training.samples import add_samples
from align.training.tracking import Tracker
from align.training.trainer import build_arguments, build_trainer, fit, resolve_dtype


def run(cfg: Config, inputs: dict[str, Input], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Train the policy on `prompt_completion` rows; publish a model."""
    # arguments
    args = build_arguments(
        SFTConfig,
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

    # data
    examples = load_examples(
        cfg.data,
        inputs.get("dataset"),
        "prompt_completion",
        tokenizer=tokenizer,
        max_length=args.max_length,
        loss=Loss.of(cfg.trainer),
    )

    # train
    trainer = build_trainer(
        SFTTrainer,
        model=policy,
        args=args,
        train_dataset=examples.train,
        eval_dataset=examples.eval,
        processing_class=tokenizer,
        peft_config=None if is_adapter(policy_path) else lora,
        callbacks=[TrackingCallback(tracker, cfg.name)],
    )
    add_samples(trainer, tracker, cfg.tracking, cfg.data, examples)
    metrics = fit(trainer, checkpoints_gb=cfg.artifacts.checkpoints_gb) | examples.metrics

    # save
    save_model(trainer, output_dir / "model")
    if lora is not None and cfg.adapter.merge:
        save_merged(output_dir / "model", partial(load_policy, **cfg.model.load_options()))
    return metrics

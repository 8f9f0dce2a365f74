"""Simple Preference Optimization: preferences without a reference model.

Meng et al. 2024 (arXiv:2405.14734), eq. 6, on TRL's experimental CPO trainer.
"""

from pathlib import Path

from trl.experimental.cpo import CPOConfig, CPOTrainer

from align.artifacts.inputs import Input
from align.config.schema import Config
from align.data.loading.examples import load_examples
from align.models.load import load_policy, load_tokenizer
from align.models.save import save_model
from align.training.progress import TrackingCallback
from align.training.tracking import Tracker
from align.training.trainer import build_arguments, build_trainer, fit, resolve_dtype


def run(cfg: Config, inputs: dict[str, Input], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Train the policy on `preference` rows; publish a model."""
    # arguments
    args = build_arguments(
        CPOConfig,
        cfg.trainer,
        output_dir=output_dir.parent / "checkpoints",
        precision=cfg.precision,
        deepspeed=cfg.deepspeed.config,
    )

    # models
    policy_path = inputs["policy"].path
    tokenizer = load_tokenizer(policy_path, **cfg.model.tokenizer_options())
    dtype = resolve_dtype(cfg.model.dtype, cfg.precision, frozen=False)
    policy = load_policy(policy_path, dtype=dtype, **cfg.model.load_options())

    # data
    examples = load_examples(
        cfg.data, inputs.get("dataset"), "preference", tokenizer=tokenizer, max_length=args.max_length
    )

    # train
    trainer = build_trainer(
        CPOTrainer,
        model=policy,
        args=args,
        train_dataset=examples.train,
        eval_dataset=examples.eval,
        processing_class=tokenizer,
        callbacks=[TrackingCallback(tracker, cfg.name)],
    )
    metrics = fit(trainer, checkpoints_gb=cfg.artifacts.checkpoints_gb) | examples.metrics

    # save
    save_model(trainer, output_dir / "model")
    return metrics

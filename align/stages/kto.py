"""Kahneman-Tversky Optimization: a policy from single completions labelled good or bad.

Ethayarajh et al. 2024 (arXiv:2402.01306), eq. 8. The KL estimate of the `kto` loss is taken over the device batch
(TRL 1.16), so its numbers depend on `per_device_train_batch_size` and the number of processes;
`loss_type: apo_zero_unpaired` has no such term.
"""

import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path

from trl import KTOConfig, KTOTrainer

from align.artifacts.bases import is_adapter
from align.artifacts.inputs import Input
from align.config.schema import Config
from align.data.loading.examples import load_examples
from align.distributed import ranks
from align.models.adapters import build_lora, build_quantization
from align.models.load import load_frozen, load_policy, load_tokenizer
from align.models.save import save_merged, save_model
from align.training.initial_kl_check import SameAtStart
from align.training.progress import TrackingCallback
from align.training.samples import add_samples
from align.training.tracking import Tracker
from align.training.trainer import build_arguments, build_trainer, fit, resolve_dtype


def run(cfg: Config, inputs: dict[str, Input], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Train the policy on `unpaired_preference` rows against the reference; publish a model."""
    # arguments
    args = build_arguments(
        KTOConfig,
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
        # An adapter needs no second model: its reference is the base, or TRL's frozen copy of the adapter it began as.
        ref_model = load_frozen(inputs["ref_model"].path, dtype=dtype, **cfg.model.load_options())

    # data
    examples = load_examples(
        cfg.data,
        inputs.get("dataset"),
        "unpaired_preference",
        tokenizer=tokenizer,
        max_length=args.max_length,
    )
    advise(examples.train["label"], args.desirable_weight, args.undesirable_weight)

    # train
    trainer = build_trainer(
        KTOTrainer,
        model=policy,
        ref_model=ref_model,
        args=args,
        # TRL reads KTO rows in order and takes a neighbour's answer for the KL: neighbours must be strangers.
        train_dataset=examples.train.shuffle(seed=args.data_seed or args.seed),
        eval_dataset=examples.eval,
        processing_class=tokenizer,
        peft_config=None if is_adapter(policy_path) else lora,
        callbacks=[TrackingCallback(tracker, cfg.name)],
    )
    if inputs["ref_model"].digest == inputs["policy"].digest:
        trainer.add_callback(SameAtStart(trainer))
    add_samples(trainer, tracker, cfg.tracking, cfg.data, examples)
    metrics = fit(trainer, checkpoints_gb=cfg.artifacts.checkpoints_gb) | examples.metrics

    # save
    save_model(trainer, output_dir / "model")
    if lora is not None and cfg.adapter.merge:
        save_merged(output_dir / "model", partial(load_policy, **cfg.model.load_options()))
    return metrics


def advise(labels: list[bool], desirable: float, undesirable: float) -> None:
    """Say so where weight x count of good and bad completions is not within 1:1 to 4:3, as the paper says (eq. 8)."""
    logging.getLogger("trl.trainer.kto_trainer").addFilter(_is_no_advice)
    good = max(sum(labels), 1)
    bad = max(len(labels) - good, 1)
    ratio = (good * desirable) / (bad * undesirable)
    if not 0.99 <= ratio <= 1.34 and ranks.is_main():
        low, high = bad * undesirable / good, good * desirable / bad
        print(
            f"kto: {good} good and {bad} bad completions weigh {ratio:.2g} to 1, advised is 1 to 1.33: "
            f"set trainer.desirable_weight to {low:.2f}-{4 / 3 * low:.2f} "
            f"or trainer.undesirable_weight to {3 / 4 * high:.2f}-{high:.2f}",
            flush=True,
        )


def _is_no_advice(record: logging.LogRecord) -> bool:
    """False for TRL's own, longer words on the weights."""
    return "EITHER desirable_weight" not in record.getMessage()

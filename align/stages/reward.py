"""Reward modelling: one score for a prompt with its completion, learned from preferences.

Bradley-Terry loss: Ouyang et al. 2022 (arXiv:2203.02155), eq. 1; with a margin: Touvron et al. 2023
(arXiv:2307.09288), eq. 2. Centring on reference completions: Stiennon et al. 2020 (arXiv:2009.01325), appendix.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from trl import RewardConfig, RewardTrainer

from align.artifacts.inputs import Input
from align.config.schema import Config
from align.data.loading.examples import load_examples
from align.data.tokens.chat_template import answered
from align.distributed import ranks
from align.evaluation.statistics import preference_metrics
from align.models.adapters import build_lora, build_quantization
from align.models.load import load_reward_model, load_tokenizer
from align.models.reward_probe import write_probe
from align.models.save import save_merged, save_model
from align.models.scoring import reward_scores
from align.training.progress import TrackingCallback
from align.training.tracking import Tracker
from align.training.trainer import build_arguments, build_trainer, fit, resolve_dtype

SIDES = ("chosen", "rejected")
PROBED = 2  # pairs whose scores are kept beside the model, to be asked for again by who loads it


def run(cfg: Config, inputs: dict[str, Input], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Train a score head, and the body under it, on `preference` rows; publish a reward model."""
    # arguments
    args = build_arguments(
        RewardConfig,
        cfg.trainer,
        output_dir=output_dir.parent / "checkpoints",
        precision=cfg.precision,
        deepspeed=cfg.deepspeed.config,
    )

    # models
    policy_path = inputs["policy"].path
    lora = build_lora(asdict(cfg.adapter), task_type="SEQ_CLS")
    dtype = resolve_dtype(cfg.model.dtype, cfg.precision, frozen=lora is not None)
    tokenizer = load_tokenizer(policy_path, **cfg.model.tokenizer_options())
    reward_model = load_reward_model(
        policy_path,
        lora=lora,
        head="keep" if inputs["policy"].type == "reward_model" else "new",
        seed=args.seed,
        dtype=dtype,
        quantization_config=build_quantization(asdict(cfg.adapter), dtype=dtype),
        **cfg.model.load_options(),
    )

    # data
    examples = load_examples(
        cfg.data,
        inputs.get("dataset"),
        "preference",
        tokenizer=tokenizer,
        max_length=args.max_length,
    )

    # train
    trainer = build_trainer(
        RewardTrainer,
        model=reward_model,
        args=args,
        train_dataset=examples.train,
        eval_dataset=examples.eval,
        processing_class=tokenizer,
        peft_config=None if hasattr(reward_model, "peft_config") else lora,
        callbacks=[TrackingCallback(tracker, cfg.name)],
    )
    metrics = fit(trainer, checkpoints_gb=cfg.artifacts.checkpoints_gb) | examples.metrics

    def score(pairs: list) -> list[float]:
        return reward_scores(trainer.model_wrapped, tokenizer, pairs, max_length=args.max_length)

    trainer.model.eval()
    trainer.model.config.score_center = 0.0  # the policy's own, if it was a reward model, holds no more
    if examples.eval is not None:
        sides = [answered(row, side) for side in SIDES for row in examples.eval]
        scores = ranks.map_batches(score, sides, args.per_device_eval_batch_size)
        half = len(scores) // 2
        margins = [chosen - rejected for chosen, rejected in zip(scores[:half], scores[half:], strict=True)]
        metrics |= {f"eval_{key}": value for key, value in preference_metrics(margins).items()}
    if cfg.reward.center == "demonstrations":
        demonstrations = load_examples(
            cfg.data, None, "prompt_completion", tokenizer=tokenizer, max_length=args.max_length
        ).train
        answers = [answered(row, "completion") for row in demonstrations]
        scores = ranks.map_batches(score, answers, args.per_device_eval_batch_size)
        metrics["score_center"] = trainer.model.config.score_center = sum(scores) / len(scores)

    some = examples.train.select(range(min(PROBED, len(examples.train))))
    probe = [answered(row, side) for row in some for side in SIDES]
    probed = ranks.map_batches(score, probe, args.per_device_eval_batch_size)

    # save
    save_model(trainer, output_dir / "model")
    if ranks.is_main() and cfg.adapter.kind != "qlora":  # whose base is read in 4 bits here and whole elsewhere
        write_probe(output_dir / "model", probe, probed, args.max_length)
    if lora is not None and cfg.adapter.merge:
        save_merged(output_dir / "model", partial(load_reward_model, **cfg.model.load_options()))
    return metrics

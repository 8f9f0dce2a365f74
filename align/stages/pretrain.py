"""Pretraining: a language model from plain text, from scratch or continued.

With `model.new` the tokenizer is learned from the corpus and the weights are drawn from `trainer.seed`; with
`inputs.policy` an existing model goes on.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from trl import SFTConfig, SFTTrainer

from align.artifacts.bases import is_adapter
from align.artifacts.inputs import Input
from align.config.schema import Config
from align.data.loading.examples import load_examples
from align.data.tokens.chat_template import text_of
from align.distributed import ranks
from align.errors import UserError
from align.models.adapters import build_lora, build_quantization
from align.models.load import build_model, load_policy, load_tokenizer
from align.models.save import save_merged, save_model
from align.models.train_tokenizer import train_tokenizer
from align.training.progress import TrackingCallback
from align.training.tracking import Tracker
from align.training.trainer import build_arguments, build_trainer, fit, resolve_dtype


def run(cfg: Config, inputs: dict[str, Input], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Train on `language_modeling` text; publish a model."""
    # arguments
    args = build_arguments(
        SFTConfig,
        cfg.trainer,
        output_dir=output_dir.parent / "checkpoints",
        precision=cfg.precision,
        deepspeed=cfg.deepspeed.config,
    )

    # models
    policy_path = inputs["policy"].path if "policy" in inputs else None
    lora = None
    if policy_path is not None:
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
    else:
        if cfg.adapter.kind != "none":
            raise UserError(
                f"adapter={cfg.adapter.kind} needs a base, and stage=pretrain with model.new starts from random "
                "weights: use adapter=none"
            )
        corpus = load_examples(cfg.data, inputs.get("dataset"), "language_modeling", tokenizer=None)
        tokenizer_dir = output_dir.parent / "tokenizer"
        with ranks.main_first():
            if ranks.is_main():
                texts = (text_of(row["text"] if "text" in row else row["messages"]) for row in corpus.train)
                learned = train_tokenizer(texts, **asdict(cfg.model.new.tokenizer))
                learned.save_pretrained(str(tokenizer_dir))
        tokenizer = load_tokenizer(tokenizer_dir, **cfg.model.tokenizer_options())
        policy = build_model(cfg.model.new.architecture, tokenizer, seed=args.seed)

    # data
    examples = load_examples(
        cfg.data,
        inputs.get("dataset"),
        "language_modeling",
        tokenizer=tokenizer,
        max_length=args.max_length,
        splits_long=args.packing,
    )

    # train
    trainer = build_trainer(
        SFTTrainer,
        model=policy,
        args=args,
        train_dataset=examples.train,
        eval_dataset=examples.eval,
        processing_class=tokenizer,
        peft_config=None if policy_path is None or is_adapter(policy_path) else lora,
        callbacks=[TrackingCallback(tracker, cfg.name)],
    )
    metrics = fit(trainer, checkpoints_gb=cfg.artifacts.checkpoints_gb) | examples.metrics

    # save
    save_model(trainer, output_dir / "model")
    if lora is not None and cfg.adapter.merge:
        save_merged(output_dir / "model", partial(load_policy, **cfg.model.load_options()))
    return metrics

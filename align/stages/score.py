"""Scoring: what a reward model thinks of every answer in a dataset, written beside its records.

What is then done with the numbers needs no model: `align data make` filters by score or margin, keeps the best of
several answers to a prompt (rejection sampling: Touvron et al. 2023, arXiv:2307.09288, section 3.2.3), or pairs them.
"""

from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input
from align.artifacts.model_files import context_length
from align.config.schema import Config
from align.data.build.publish import write_report
from align.data.build.scores import load_split, score_metrics, write_scored
from align.data.chats import Chats
from align.distributed import ranks
from align.models.inference import open_reward_model
from align.models.load import load_tokenizer
from align.models.reward_probe import check_probe
from align.models.scoring import reward_scores
from align.training.tracking import Tracker
from align.training.trainer import resolve_dtype


def run(cfg: Config, inputs: dict[str, Any], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Score `inputs["dataset"]` with `inputs["reward_model"]`; publish a dataset of the same format and splits."""
    # arguments
    judge: Input = inputs["reward_model"]
    dataset: Input = inputs["dataset"]
    max_length = cfg.score.max_length or context_length(judge.path)

    # models
    dtype = resolve_dtype(cfg.model.dtype, cfg.precision, frozen=True)
    load = {"dtype": dtype, **cfg.model.load_options()}
    reward_model = open_reward_model(judge.path, **load)
    tokenizer = load_tokenizer(judge.path, **cfg.model.tokenizer_options())
    check_probe(reward_model, tokenizer, judge.path)

    # data
    options = {"overlong": cfg.data.overlong, "chats": Chats.of(cfg.data)}
    loaded = {split: load_split(dataset, split, tokenizer, max_length, **options) for split in ("train", "eval")}
    splits = {split: scored for split, scored in loaded.items() if scored is not None and scored.records}

    # score
    def score(answers: list) -> list[float]:
        return reward_scores(reward_model, tokenizer, answers, max_length=max_length)

    for split, scored in splits.items():
        if ranks.is_main():
            told = "" if scored.lengths is None else f"  {scored.lengths.summary()}"
            print(f"score  {split}: {len(scored.answers)} answers{told}", flush=True)
        scored.scores = ranks.map_batches(score, scored.answers, cfg.score.batch_size)

    # save
    if ranks.is_main():
        why = f"scored by {judge.ref}"
        write_report(output_dir, write_scored(output_dir, dataset, splits, f"Dataset {cfg.name}", why))
    return score_metrics(splits)

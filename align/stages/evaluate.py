"""Evaluation: what each model is worth on held-out data, next to a baseline.

For policies: the judge's and the reward model's scores, gain and win rate against the baseline with their intervals,
KL to the reference, implicit-reward accuracy, perplexity, completion length and the share that ends by itself. For a
reward model: accuracy and calibration on held-out pairs. What the inputs at hand do not allow is left out.
"""

import time
from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input
from align.artifacts.model_files import context_length
from align.artifacts.text import clock
from align.config.schema import Config
from align.data.loading.examples import held_out, held_out_records, shuffled
from align.distributed import ranks
from align.evaluation.conversations import conversation_tokens, converse
from align.evaluation.judges import judge_conversations, load_judge
from align.evaluation.metrics import (
    divergence,
    fitting,
    flat_metrics,
    implicit_accuracy,
    pair_tokens,
    piece_width,
    rate,
    rate_preferences,
    score_metrics,
)
from align.evaluation.report import samples_of, table, write_report
from align.models.inference import open_policy, open_reward_model
from align.models.load import load_tokenizer
from align.models.reward_probe import check_probe
from align.models.scoring import perplexity
from align.training.tracking import Tracker
from align.training.trainer import resolve_dtype


def run(cfg: Config, inputs: dict[str, Any], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Evaluate `inputs["policy"]`, a list, and the reward model; publish a report."""
    # arguments
    asked = cfg.evaluate
    size = asked.batch_size
    dtype = resolve_dtype(cfg.model.dtype, cfg.precision, frozen=True)
    load = {"dtype": dtype, **cfg.model.load_options()}
    judge = load_judge(asked.judge, batch_size=size) if asked.judge else None

    # models
    baseline: Input | None = inputs.get("baseline")
    systems: list[Input] = inputs.get("policy", [])
    if baseline is not None:
        systems = [baseline, *(system for system in systems if system.digest != baseline.digest)]
    judged_by: Input | None = inputs.get("reward_model")
    if judged_by is not None:
        reward_model = open_reward_model(judged_by.path, **load)
        reward_tokenizer = load_tokenizer(judged_by.path, **cfg.model.tokenizer_options())
        check_probe(reward_model, reward_tokenizer, judged_by.path)

    # data
    dataset = inputs.get("dataset")
    records = shuffled(held_out_records(cfg.data, dataset, "prompt_only"), seed=asked.seed, limit=asked.max_prompts)
    pairs, texts = (
        shuffled(held_out(cfg.data, dataset, format), seed=asked.seed, limit=asked.max_rows)
        for format in ("preference", "language_modeling")
    )
    readers = [
        (load_tokenizer(model.path, **cfg.model.tokenizer_options()), context_length(model.path))
        for model in [*systems, *([judged_by] if judged_by is not None else [])]
    ]
    records = fitting(
        records,
        readers,
        lambda reader, record: conversation_tokens(reader, record, asked.max_new_tokens),
        "prompts",
    )
    pairs = fitting(pairs, readers, pair_tokens, "preferences")
    texts = [row["text"] for row in texts if "text" in row]

    # evaluate
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    scores: dict[tuple[str, str], list[list[float]]] = {}  # (gold or reward, model) -> scores of each prompt's turns
    if judged_by is not None and pairs:
        metrics = rate_preferences(reward_model, reward_tokenizer, pairs, batch_size=size)
        rows.append({"model": judged_by.ref, **metrics})
    began = time.monotonic()
    for number, system in enumerate(systems, start=1):
        if ranks.is_main():
            done = number - 1
            left = (time.monotonic() - began) / max(done, 1) * (len(systems) - done)
            eta = f"  {clock(left)} left" if done else ""
            print(f"evaluate  model {number}/{len(systems)}  {system.ref}{eta}", flush=True)
        policy = open_policy(system.path, **load)
        tokenizer = load_tokenizer(system.path, **cfg.model.tokenizer_options())
        reference: Input | None = inputs["references"].get(system.ref)
        ref_model = open_policy(reference.path, **load) if reference is not None else None
        row: dict[str, Any] = {"model": system.ref}
        if records:
            conversations = converse(
                policy,
                tokenizer,
                records,
                context=context_length(system.path),
                max_new_tokens=asked.max_new_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                batch_size=size,
                seed=asked.seed,
            )
            completions = [completion for one in conversations for completion in one.completions]
            row["length"] = sum(len(completion.completion_ids) for completion in completions) / len(completions)
            row["ended"] = sum(completion.ended for completion in completions) / len(completions)
            if judge is not None:
                scores["gold", system.ref] = judge_conversations(judge, conversations, system.ref)
            if judged_by is not None:
                answers = [answer for one in conversations for answer in one.answered()]
                rewards = iter(rate(reward_model, reward_tokenizer, answers, batch_size=size))
                scores["reward", system.ref] = [[next(rewards) for _ in one.completions] for one in conversations]
            for name, model in scores:
                if model == system.ref:
                    theirs = scores[name, baseline.ref] if baseline is not None and system is not baseline else None
                    options = {"resamples": asked.bootstrap, "seed": asked.seed}
                    row |= score_metrics(name, scores[name, model], theirs, **options)
            if ref_model is not None:
                row["kl"] = divergence(policy, ref_model, tokenizer, completions, batch_size=size)
            samples += samples_of(
                system.ref, conversations, scores.get(("gold", system.ref)), scores.get(("reward", system.ref))
            )
        if ref_model is not None and pairs:
            row["accuracy"] = implicit_accuracy(policy, ref_model, tokenizer, pairs, batch_size=size)
        if texts:
            width = piece_width(asked.max_length, context_length(system.path))
            row["perplexity"] = perplexity(policy, tokenizer, texts, batch_size=size, width=width)
        rows.append(row)
        del policy, ref_model  # before the next ones are loaded
        tracker.progress(number, len(systems), "models")

    # save
    if ranks.is_main():
        write_report(output_dir, rows=rows, samples=samples, shown=asked.samples, baseline=baseline and baseline.ref)
        columns = list(dict.fromkeys(key for sample in samples for key in sample))
        tracker.log_table("completions", columns, [[sample.get(key) for key in columns] for sample in samples])
        print(table(rows), flush=True)
    return flat_metrics(rows)

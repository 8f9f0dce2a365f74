"""Evaluation: what each model is worth on held-out data, beside a baseline.

For policies: gold score, gain and win rate against the baseline, reward-model score, KL to the reference,
implicit-reward accuracy, perplexity, completion length and the share that ends by itself. For a reward model:
accuracy and calibration on held-out pairs. What the inputs at hand do not allow is left out, never guessed.
"""

import time
from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input
from align.artifacts.model_files import context_length
from align.artifacts.text import clock
from align.config.schema import Config
from align.data.loading.examples import held_out, shuffled
from align.data.tokens.chat_template import text_of
from align.distributed import ranks
from align.distributed.device import own_device
from align.evaluation.judges import Answer, load_judge
from align.evaluation.metrics import (
    compare,
    divergence,
    fitting,
    implicit_accuracy,
    pair_tokens,
    piece_width,
    prompt_tokens,
    rate,
    rate_preferences,
)
from align.evaluation.report import table, write_report
from align.models.generation import generate
from align.models.load import load_frozen, load_reward_model, load_tokenizer
from align.models.reward_probe import check_probe
from align.models.scoring import perplexity
from align.training.tracking import Tracker
from align.training.trainer import resolve_dtype

FORMATS = ("prompt_only", "preference", "language_modeling")


def run(cfg: Config, inputs: dict[str, Any], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Evaluate `inputs["policy"]`, a list, and the reward model; publish a report."""
    # arguments
    asked = cfg.evaluate
    size = asked.batch_size
    load = {"dtype": resolve_dtype(cfg.model.dtype, cfg.precision, frozen=True), **cfg.model.load_options()}
    judge = load_judge(asked.judge) if asked.judge else None

    # models
    baseline: Input | None = inputs.get("baseline")
    systems: list[Input] = inputs.get("policy", [])
    if baseline is not None:
        systems = [baseline, *(system for system in systems if system.digest != baseline.digest)]
    judged_by: Input | None = inputs.get("reward_model")
    if judged_by is not None:
        reward_model = load_reward_model(judged_by.path, **load).eval().to(own_device())
        reward_tokenizer = load_tokenizer(judged_by.path, **cfg.model.tokenizer_options())
        check_probe(reward_model, reward_tokenizer, judged_by.path)

    # data
    held = {format: held_out(cfg.data, inputs.get("dataset"), format) for format in FORMATS}
    limits = {format: asked.max_prompts if format == "prompt_only" else asked.max_rows for format in FORMATS}
    held = {format: shuffled(rows, seed=asked.seed, limit=limits[format]) for format, rows in held.items()}
    readers = [
        (load_tokenizer(one.path, **cfg.model.tokenizer_options()), context_length(one.path))
        for one in [*systems, *([judged_by] if judged_by is not None else [])]
    ]
    answered = fitting(
        held["prompt_only"], readers, lambda reader, row: prompt_tokens(reader, row) + asked.max_new_tokens, "prompts"
    )
    prompts, tools = [row["prompt"] for row in answered], [row.get("tools") for row in answered]
    pairs = fitting(held["preference"], readers, pair_tokens, "preferences")
    texts = [row["text"] for row in held["language_modeling"] if "text" in row]

    # evaluate
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    gold: dict[str, list[float]] = {}
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
        policy = load_frozen(system.path, **load).to(own_device())
        tokenizer = load_tokenizer(system.path, **cfg.model.tokenizer_options())
        reference: Input | None = inputs["references"].get(system.ref)
        ref_model = load_frozen(reference.path, **load).to(own_device()) if reference is not None else None
        row: dict[str, Any] = {"model": system.ref}
        if prompts:
            completions = generate(
                policy,
                tokenizer,
                prompts,
                tools=tools,
                max_new_tokens=asked.max_new_tokens,
                temperature=asked.temperature,
                top_p=asked.top_p,
                batch_size=size,
                seed=asked.seed,
            )
            row["length"] = sum(len(completion.completion_ids) for completion in completions) / len(completions)
            row["ended"] = sum(completion.ended for completion in completions) / len(completions)
            if judge is not None:
                gold[system.ref] = judge.score(
                    [Answer(prompt, said.text, said.text) for prompt, said in zip(prompts, completions, strict=True)]
                )
                row["gold"] = sum(gold[system.ref]) / len(prompts)
                if baseline is not None and system is not baseline:
                    theirs = gold[baseline.ref]
                    row |= compare(gold[system.ref], theirs, resamples=asked.bootstrap, seed=asked.seed)
            if judged_by is not None:
                answers = [
                    (prompt, completion.text if isinstance(prompt, str) else completion.messages, named)
                    for prompt, completion, named in zip(prompts, completions, tools, strict=True)
                ]
                row["reward"] = sum(rate(reward_model, reward_tokenizer, answers, batch_size=size)) / len(answers)
            if ref_model is not None:
                row["kl"] = divergence(policy, ref_model, tokenizer, completions, batch_size=size)
            scores = gold.get(system.ref, [None] * len(prompts))
            samples += [
                {"model": system.ref, "prompt": text_of(prompt), "completion": completion.text, "gold": score}
                for prompt, completion, score in zip(prompts, completions, scores, strict=True)
            ]
        if ref_model is not None and pairs:
            row["accuracy"] = implicit_accuracy(policy, ref_model, tokenizer, pairs, batch_size=size)
        if texts:
            width = piece_width(asked.max_length, context_length(system.path))
            row["perplexity"] = perplexity(policy, tokenizer, texts, batch_size=size, width=width)
        rows.append(row)
        tracker.progress(number, len(systems), "models")

    # save
    if ranks.is_main():
        write_report(output_dir, rows=rows, samples=samples, shown=asked.samples, baseline=baseline and baseline.ref)
        columns = ["model", "prompt", "completion", "gold"]
        tracker.log_table("completions", columns, [[sample[key] for key in columns] for sample in samples])
        print(table(rows), flush=True)
    return {
        f"{row['model']}/{key}": value for row in rows for key, value in row.items() if isinstance(value, int | float)
    }

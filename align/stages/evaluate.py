"""Evaluation: what each model is worth on held-out data, beside a baseline.

For policies: gold score, win rate and paired interval against the baseline, reward-model score, KL to the reference,
implicit-reward accuracy, perplexity, completion length and share that ends by itself. For the reward model: accuracy
and calibration on held-out pairs. What cannot be computed from the inputs at hand is left out, never guessed.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from align import distributed
from align.artifacts.inputs import Input
from align.config import PROJECT, Config
from align.data.examples import held_out
from align.data.rendering import render, text_of
from align.generation import generate
from align.judges import load_judge
from align.models import context_length, load_frozen, load_reward_model, load_tokenizer
from align.report import write_report
from align.scoring import perplexity, reward_scores, token_logps, token_logps_and_kl
from align.statistics import paired_bootstrap, preference_metrics, shuffled, win_rate
from align.tracking import Tracker
from align.training import resolve_dtype


def run(cfg: Config, inputs: dict[str, Any], output_dir: Path, tracker: Tracker) -> dict[str, float]:
    """Evaluate `inputs["policy"]`, a list, and publish a report."""
    # arguments
    options = cfg.evaluate
    load = {"dtype": resolve_dtype(cfg.model.dtype, cfg.precision, frozen=True), **cfg.model.load_options()}
    judge = load_judge(options.judge, roots=[Path.cwd(), PROJECT]) if options.judge else None

    # models
    reward_input: Input | None = inputs.get("reward_model")
    reward_model = reward_tokenizer = None
    if reward_input is not None:
        reward_model = load_reward_model(reward_input.path, **load).eval()
        reward_tokenizer = load_tokenizer(reward_input.path, **cfg.model.tokenizer_options())
    baseline: Input | None = inputs.get("baseline")
    systems: list[Input] = inputs.get("policy", [])
    if baseline is not None:
        systems = [baseline] + [system for system in systems if system.digest != baseline.digest]

    # data
    prompts = shuffled(
        held_out(cfg.data, inputs.get("dataset"), "prompt_only"), seed=options.seed, limit=options.max_prompts
    )
    pairs = shuffled(
        held_out(cfg.data, inputs.get("dataset"), "preference"), seed=options.seed, limit=options.max_rows
    )
    texts = shuffled(
        held_out(cfg.data, inputs.get("dataset"), "language_modeling"), seed=options.seed, limit=options.max_rows
    )

    # evaluate
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    gold: dict[str, list[float]] = {}
    if reward_model is not None and pairs:
        sides = [(pair["prompt"], pair[side]) for side in ("chosen", "rejected") for pair in pairs]
        scores = distributed.map_batches(
            lambda batch: reward_scores(reward_model, reward_tokenizer, batch), sides, options.batch_size
        )
        margins = [a - b for a, b in zip(scores[: len(pairs)], scores[len(pairs) :], strict=True)]
        rows.append({"model": reward_input.ref, **preference_metrics(margins)})
    for number, system in enumerate(systems, start=1):
        if distributed.is_main():
            print(f"evaluate  {number}/{len(systems)}  {system.ref}", flush=True)
        model = load_frozen(system.path, **load)
        tokenizer = load_tokenizer(system.path, **cfg.model.tokenizer_options())
        reference = inputs["references"].get(system.ref)
        ref_model = load_frozen(reference.path, **load) if reference is not None else None
        row: dict[str, Any] = {"model": system.ref}
        if prompts:
            completions = generate(
                model,
                tokenizer,
                [prompt["prompt"] for prompt in prompts],
                max_new_tokens=options.max_new_tokens,
                temperature=options.temperature,
                top_p=options.top_p,
                batch_size=options.batch_size,
                seed=options.seed,
            )
            row["length"] = sum(len(completion.completion_ids) for completion in completions) / len(completions)
            row["ended"] = sum(completion.ended for completion in completions) / len(completions)
            answers = [
                (prompt["prompt"], _as(prompt["prompt"], completion.text))
                for prompt, completion in zip(prompts, completions, strict=True)
            ]
            if judge is not None:
                gold[system.ref] = [
                    float(judge(prompt["prompt"], completion.text))
                    for prompt, completion in zip(prompts, completions, strict=True)
                ]
                row["gold"] = sum(gold[system.ref]) / len(prompts)
                if baseline is not None and system.ref != baseline.ref:
                    base = gold[baseline.ref]
                    differences = [a - b for a, b in zip(gold[system.ref], base, strict=True)]
                    interval = paired_bootstrap(differences, resamples=options.bootstrap, seed=options.seed)
                    row["gold_gain"] = asdict(interval)
                    row["win_rate"] = win_rate(gold[system.ref], base)
            if reward_model is not None:
                scores = distributed.map_batches(
                    lambda batch: reward_scores(reward_model, reward_tokenizer, batch), answers, options.batch_size
                )
                row["reward"] = sum(scores) / len(scores)
            if ref_model is not None:
                divergences = distributed.map_batches(
                    lambda batch, model=model, ref_model=ref_model, pad=tokenizer.pad_token_id: [
                        kl for _, kl in token_logps_and_kl(model, ref_model, pad, batch)
                    ],
                    [(completion.prompt_ids, completion.completion_ids) for completion in completions],
                    options.batch_size,
                )
                row["kl"] = sum(divergences) / len(divergences)
            samples += [
                {
                    "model": system.ref,
                    "prompt": text_of(prompt["prompt"]),
                    "completion": completion.text,
                    **({"gold": gold[system.ref][index]} if judge else {}),
                }
                for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
            ]
        if ref_model is not None and pairs:
            sides = [
                render(tokenizer, pair["prompt"], pair[side]) for side in ("chosen", "rejected") for pair in pairs
            ]

            def log_ratio(batch: list, model=model, ref_model=ref_model, pad=tokenizer.pad_token_id) -> list[float]:
                ours, theirs = token_logps(model, pad, batch), token_logps(ref_model, pad, batch)
                return [(a - b).sum().item() for a, b in zip(ours, theirs, strict=True)]

            ratios = distributed.map_batches(log_ratio, sides, options.batch_size)
            margins = [a - b for a, b in zip(ratios[: len(pairs)], ratios[len(pairs) :], strict=True)]
            row["accuracy"] = preference_metrics(margins)["accuracy"]
        if texts:
            row["perplexity"] = perplexity(
                model,
                tokenizer,
                [text["text"] for text in texts],
                batch_size=options.batch_size,
                width=context_length(model) or options.max_length,
            )
        rows.append(row)

    # save
    if distributed.is_main():
        write_report(output_dir, rows=rows, samples=samples, shown=options.samples, baseline=baseline and baseline.ref)
        tracker.log_table(
            "completions",
            ["model", "prompt", "completion", "gold"],
            [[s["model"], s["prompt"], s["completion"], s.get("gold")] for s in samples[: 20 * len(systems)]],
        )
        print((output_dir / "report.md").read_text("utf-8").split("## Samples")[0].strip(), flush=True)
    return {
        f"{row['model']}/{key}": value for row in rows for key, value in row.items() if isinstance(value, int | float)
    }


def _as(prompt: Any, text: str) -> Any:
    """A completion's text in the kind of its prompt: a string, or one assistant message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]

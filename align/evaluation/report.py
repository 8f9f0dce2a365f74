"""The report of an evaluation: `report.json` for programs, `report.md` for people, completions in `samples.jsonl`."""

import json
from pathlib import Path
from typing import Any

from align.artifacts.manifest import json_numbers
from align.records import readable_json

COLUMNS = (
    ("model", "model", ""),
    ("gold", "gold score", ".3f"),
    ("gold_gain", "gain [95% interval]", ""),
    ("win_rate", "wins", ".2f"),
    ("accuracy", "accuracy", ".3f"),
    ("ece", "ECE", ".3f"),
    ("reward", "reward", ".2f"),
    ("kl", "KL", ".2f"),
    ("perplexity", "perplexity", ".2f"),
    ("length", "tokens", ".1f"),
    ("ended", "ended", ".0%"),
)

NOTES = {
    "gold": "Gold score: mean of the judge over held-out prompts, from 0 to 1.",
    "gold_gain": "Gain: mean paired difference of gold scores on the same prompts, percentile bootstrap.",
    "win_rate": "Wins: share of prompts with a higher gold score than the baseline, ties half.",
    "accuracy": "Accuracy: share of held-out pairs whose chosen side scores higher; for a policy by its "
    "implicit reward, log pi(y|x) - log ref(y|x) summed over tokens.",
    "ece": "ECE, calibration error: expected gap between the predicted and the observed share of winners, 10 bins.",
    "reward": "Reward: mean score that the reward model gives to the completions.",
    "kl": "KL: nats a completion, exact over the vocabulary at each token the policy wrote.",
    "perplexity": "Perplexity: a token of held-out plain text.",
    "ended": "Ended: share of completions that stopped by themselves.",
}


def write_report(
    folder: Path, *, rows: list[dict[str, Any]], samples: list[dict[str, Any]], shown: int, baseline: str | None
) -> None:
    """Write the three files.

    Args:
        rows: one dict of metrics a model.
        samples: every completion: model, prompt, completion, gold (None without a judge).
        shown: prompts whose completions the readable report shows side by side.
        baseline: the model that gains and win rates are measured against.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(
        readable_json(json_numbers({"baseline": baseline, "models": rows}), indent=2) + "\n", "utf-8"
    )
    with (folder / "samples.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    used = [key for key, _, _ in COLUMNS if any(key in row for row in rows)]
    lines = ["# Evaluation", ""]
    if baseline:
        lines += [f"Baseline: {baseline}.", ""]
    lines += [table(rows), ""]
    lines += [f"- {NOTES[key]}" for key in used if key in NOTES]
    lines += ["", "## Samples", ""]
    prompts = list(dict.fromkeys(sample["prompt"] for sample in samples))[:shown]
    for prompt in prompts:
        lines.append(f"> {_one_line(prompt)}")
        lines.append("")
        for sample in samples:
            if sample["prompt"] == prompt:
                gold = f" ({sample['gold']:.2f})" if sample["gold"] is not None else ""
                lines.append(f"- **{sample['model']}**{gold}: {_one_line(sample['completion'])}")
        lines.append("")
    (folder / "report.md").write_text("\n".join(lines), "utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """The metrics as a Markdown table, aligned so that it also reads well in a terminal."""
    columns = [column for column in COLUMNS if any(column[0] in row for row in rows)]
    cells = [[title for _, title, _ in columns]]
    cells += [[_cell(row.get(key), spec) for key, _, spec in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def gain(interval: dict[str, float]) -> str:
    """A mean difference with its interval, as `+0.123 [+0.100, +0.146]`."""
    return f"{interval['mean']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _cell(value: Any, spec: str) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return gain(value)
    return format(value, spec)


def _one_line(text: str) -> str:
    """Text on one line; a model's output must not break the page's structure."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "(empty)"

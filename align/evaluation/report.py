"""The report of an evaluation: `report.json` for programs, `report.md` for people, completions in `samples.jsonl`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from align.artifacts.manifest import json_numbers
from align.data.tokens.chat_template import text_of
from align.evaluation.conversations import Conversation
from align.records import readable_json

WIN_RATE = "0.2f"
COLUMNS = (
    ("model", "model", ""),
    ("gold", "gold score", ".3f"),
    ("gold_gain", "gain [95% interval]", ""),
    ("win_rate", "wins", WIN_RATE),
    ("accuracy", "accuracy", ".3f"),
    ("ece", "ECE", ".3f"),
    ("reward", "reward", ".2f"),
    ("reward_gain", "reward gain [95% interval]", ""),
    ("reward_win_rate", "reward wins", WIN_RATE),
    ("kl", "KL", ".2f"),
    ("perplexity", "perplexity", ".2f"),
    ("length", "tokens", ".1f"),
    ("ended", "ended", ".0%"),
)

NOTES = {
    "gold": "Gold score: mean of the judge over held-out prompts; of a prompt with several turns, their mean.",
    "gold_gain": "Gain: mean paired difference of gold scores on the same prompts, percentile bootstrap.",
    "win_rate": "Wins: share of prompts with a higher gold score than the baseline, ties half, with its 95% interval.",
    "accuracy": "Accuracy: share of held-out pairs whose chosen side scores higher; for a policy by its "
    "implicit reward, log pi(y|x) - log ref(y|x) summed over tokens.",
    "ece": "ECE, calibration error: expected gap between the predicted and the observed share of winners, 10 bins.",
    "reward": "Reward: mean score that the reward model gives to the completions.",
    "reward_gain": "Reward gain: mean paired difference of the reward model's scores on the same prompts, percentile "
    "bootstrap.",
    "reward_win_rate": "Reward wins: share of prompts that the reward model scores higher than the baseline's answer, "
    "ties half, with its 95% interval.",
    "kl": "KL: nats per completion, exact over the vocabulary at each token the policy wrote.",
    "perplexity": "Perplexity: a token of held-out plain text.",
    "ended": "Ended: share of completions that stopped by themselves.",
}


def write_report(
    folder: Path, *, rows: list[dict[str, Any]], samples: list[dict[str, Any]], shown: int, baseline: str | None
) -> None:
    """Write the three files.

    Args:
        rows: one dict of metrics a model.
        samples: every completion, as `samples_of` gives them.
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
    by_question: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for sample in samples:
        by_question.setdefault((sample.get("number"), sample.get("turn"), sample["prompt"]), []).append(sample)
    for (_, turn, prompt), answers in list(by_question.items())[:shown]:
        lines += [f"> {f'Turn {turn}: ' if turn else ''}{_one_line(prompt)}", ""]
        for sample in answers:
            gold = f" ({sample['gold']:.2f})" if sample["gold"] is not None else ""
            lines.append(f"- **{sample['model']}**{gold}: {_one_line(sample['completion'])}")
        lines.append("")
    (folder / "report.md").write_text("\n".join(lines), "utf-8")


def samples_of(
    model: str,
    conversations: Sequence[Conversation],
    gold: Sequence[Sequence[float]] | None,
    reward: Sequence[Sequence[float]] | None,
) -> list[dict[str, Any]]:
    """A model's completions as `samples.jsonl` has them.

    Args:
        gold, reward: of each conversation, the scores of its turns; None where nobody gave any.

    Returns:
        One dict for each turn: model, prompt (of a later turn its question), completion, gold (None without a judge);
        reward, where there is a reward model; number of the prompt and turn, where there are several turns.
    """
    samples = []
    several = any(conversation.record.later_turns for conversation in conversations)
    for number, conversation in enumerate(conversations):
        for turn, (question, completion) in enumerate(
            zip(conversation.questions(), conversation.completions, strict=True)
        ):
            sample: dict[str, Any] = {"model": model, "prompt": text_of(question), "completion": completion.text}
            sample["gold"] = None if gold is None else gold[number][turn]
            sample |= {} if reward is None else {"reward": reward[number][turn]}
            samples.append(sample | ({"number": number, "turn": turn + 1} if several else {}))
    return samples


def table(rows: list[dict[str, Any]]) -> str:
    """The metrics as a Markdown table, aligned so that it also reads well in a terminal."""
    columns = [column for column in _with_turns(rows) if any(column[0] in row for row in rows)]
    cells = [[title for _, title, _ in columns]]
    cells += [[_cell(row.get(key), spec, row.get(f"{key}_interval")) for key, _, spec in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _with_turns(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The columns, those of single turns behind the score that they are of."""
    turns = {
        name: sorted({key for row in rows for key in row if key.startswith(f"{name}_turn_")})
        for name in ("gold", "reward")
    }
    columns = []
    for key, title, spec in COLUMNS:
        columns.append((key, title, spec))
        columns += [
            (turn, f"{key} {turn.removeprefix(f'{key}_').replace('_', ' ')}", spec) for turn in turns.get(key, ())
        ]
    return columns


def gain(interval: dict[str, float]) -> str:
    """A mean difference with its interval, as `+0.123 [+0.100, +0.146]`."""
    return f"{interval['mean']:+.3f} [{interval['low']:+.3f}, {interval['high']:+.3f}]"


def _cell(value: Any, spec: str, interval: dict[str, float] | None) -> str:
    """A number of the table; a win rate with its interval, which a mean score has in report.json alone."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return gain(value)
    bounds = f" [{interval['low']:.2f}, {interval['high']:.2f}]" if interval and spec == WIN_RATE else ""
    return format(value, spec) + bounds


def _one_line(text: str) -> str:
    """Text on one line; a model's output must not break the page's structure."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "(empty)"

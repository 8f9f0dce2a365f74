"""A dataset whose answers are scored: what a reward model has to read, and the rows with what it said of them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from align.artifacts.inputs import Input
from align.data.chats import Chats
from align.data.layouts.annotations import SCORES
from align.data.layouts.parse import Outcome, Reading
from align.data.loading.tables import json_line
from align.data.quality.agreement import auc
from align.data.quality.findings import Report
from align.data.quality.inspection import Inspection
from align.data.quality.report import judge
from align.data.readers.files import Source
from align.data.tokens.chat_template import Answered, check_system
from align.data.tokens.lengths import LengthReport, left_out, length_remedy, length_report, token_lengths
from align.errors import UserError
from align.records import FORMATS, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCORABLE = ("preference", "unpaired_preference", "prompt_completion")


@dataclass
class ScoredSplit:
    """The records of one split, each with its row as the artifact has it, and in the end with its scores."""

    records: list[Record]
    rows: list[dict[str, Any]]
    lengths: LengthReport | None = None  # what was too long, where a length is set
    scores: list[float] = field(default_factory=list)  # of `answers`, in their order

    @property
    def answers(self) -> list[Answered]:
        """Every answer there is: of a pair the chosen one, then the rejected one."""
        return [(one.prompt, getattr(one, side), one.tools) for one in self.records for side in _sides(one)]

    def scored_rows(self) -> list[dict[str, Any]]:
        """The rows with their scores; what an earlier reward model said is gone."""
        scores = iter(self.scores)
        rows = []
        for record, row in zip(self.records, self.rows, strict=True):
            kept = {name: value for name, value in row.items() if name not in SCORES}
            names = {side: "score" if side == "completion" else f"score_{side}" for side in _sides(record)}
            rows.append(kept | {names[side]: next(scores) for side in _sides(record)})
        return rows


def load_split(
    dataset: Input,
    split: str,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    overlong: str,
    chats: Chats = Chats(),  # noqa: B008 (frozen)
) -> ScoredSplit | None:
    """One split of a dataset artifact, every answer within `max_length` tokens as `data.overlong` says.

    Args:
        chats: how records are rendered; the rows that are written again stay as they are.

    Raises:
        UserError: answers are too long, and `overlong` is refuse.
    """
    path = dataset.path / "records" / f"{split}.jsonl"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="\n") as file:
        rows = [json.loads(line) for line in file]
    records = [chats.apply(FORMATS[dataset.manifest.format].from_row(row)) for row in rows]
    check_system(records, tokenizer, f"{dataset.ref} {split}")
    if max_length is None:
        return ScoredSplit(records, rows)
    report = length_report(records, token_lengths(records, tokenizer), max_length)
    remedy = length_remedy(tokenizer, max_length, "score.max_length")
    out = left_out(report, overlong, f"{dataset.ref} {split}", remedy)
    kept = [number for number in range(len(rows)) if number not in out]
    return ScoredSplit([records[number] for number in kept], [rows[number] for number in kept], report)


def write_scored(folder: Path, dataset: Input, splits: dict[str, ScoredSplit], title: str, why: str) -> Report:
    """Fill `folder/records`; the report on what is there now, the scores included."""
    (folder / "records").mkdir()
    seen = Inspection("trl")
    for split, scored in splits.items():
        with (folder / "records" / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for number, (record, row) in enumerate(zip(scored.records, scored.scored_rows(), strict=True)):
                file.write(json_line(row))
                seen.observe(Outcome(f"{dataset.ref} {split}", number, row, [record]), split)
    reading = Reading("trl", dataset.manifest.format, why=why)
    source = Source(dataset.ref, dataset.path)
    return judge(seen, [source], reading, title=title, digests={dataset.ref: dataset.digest})


def score_metrics(splits: dict[str, ScoredSplit]) -> dict[str, float]:
    """Mean and spread of the scores of each split, and how far they agree with its labels or pairs."""
    metrics: dict[str, float] = {}
    for split, scored in splits.items():
        scores = np.array(scored.scores)
        metrics |= {f"{split}_records": len(scored.records), f"{split}_score_mean": float(scores.mean())}
        metrics[f"{split}_score_std"] = float(scores.std())
        metrics[f"{split}_overlong"] = len(scored.lengths.over) if scored.lengths else 0
        if hasattr(scored.records[0], "chosen"):
            metrics[f"{split}_accuracy"] = float((scores[::2] > scores[1::2]).mean())
        if hasattr(scored.records[0], "label"):
            good = np.array([record.label for record in scored.records])
            if good.any() and not good.all():
                metrics[f"{split}_auc"] = auc(scores[good], scores[~good])
    return metrics


def check_scorable(dataset: Input | None) -> None:
    """Raises UserError where there are no answers to score."""
    if dataset is None:
        raise UserError("stage score needs a dataset artifact; give one: inputs.dataset=<ref> (align data import)")
    if dataset.manifest.format not in SCORABLE:
        raise UserError(
            f"inputs.dataset={dataset.text} is {dataset.manifest.format}, which has no answers to score; stage score "
            f"reads {', '.join(SCORABLE)}"
        )


def _sides(record: Record) -> tuple[str, ...]:
    return ("chosen", "rejected") if hasattr(record, "chosen") else ("completion",)

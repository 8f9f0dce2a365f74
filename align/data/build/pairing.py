"""Single answers to the same prompts become pairs: by what people said of each, or by a reward model's scores.

Two answers of equal worth are never a pair. Only numbers are kept of the answers, 40 bytes each; their words are read
again from the file when a pair is made of them.
"""

import json
import math
from array import array
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from align.data.layouts.annotations import scores
from align.data.layouts.carried import stored_columns
from align.data.record_texts import text_hash
from align.errors import UserError
from align.records import (
    FORMATS,
    Columns,
    Preference,
    Record,
    RecordError,
    UnpairedPreference,
    columns_of,
    prompt_key,
    with_columns,
)


class Answers:
    """The answers in `records/<split>.jsonl` of a dataset, grouped by prompt.

    Args:
        name: of the set, in messages.
        format: `unpaired_preference`, or `prompt_completion` with scores.
        by: `label`, `score`, or None: labels where there are any.
    """

    def __init__(self, path: Path, name: str, format: str, by: str | None):
        self.path, self.name, self.format = path, name, format
        self.by = by or ("label" if format == UnpairedPreference.format else "score")
        if self.by == "label" and format != UnpairedPreference.format:
            raise UserError(f"{name} is {format}, whose answers have no labels: pair them by score")
        self.offsets = array("Q")
        self.worth: list[tuple[float, float]] = []  # what decides, and what chooses among equals
        self.prompts: dict[int, list[int]] = defaultdict(list)
        with path.open("rb") as file:
            at = 0
            for number, line in enumerate(file):
                record, row = self._parse(line)
                score = scores(row, record).get("completion", math.nan)
                if self.by == "score" and math.isnan(score):
                    raise UserError(
                        f"{name}, {path.name} row {number}: the answer has no score; score the set first: deepspeed "
                        "launch/run.py stage=score inputs.reward_model=<ref> inputs.dataset=<ref>"
                    )
                among = 0.0 if math.isnan(score) else score
                self.worth.append((float(record.label), among) if self.by == "label" else (score, 0.0))
                self.prompts[text_hash(prompt_key(record))].append(number)
                self.offsets.append(at)
                at += len(line)

    def pairs(self, which: str) -> Iterator[tuple[int, int]]:
        """(better, worse) answers, prompt by prompt: `best_worst` one pair each, `all` every two that differ."""
        for members in self.prompts.values():
            # of equals the earlier one counts as the better
            order = sorted(members, key=lambda number: (*(-worth for worth in self.worth[number]), number))
            candidates = [(order[0], order[-1])] if which == "best_worst" else combinations(order, 2)
            yield from (pair for pair in candidates if self.worth[pair[0]][0] > self.worth[pair[1]][0])

    def preferences(self, which: str) -> Iterator[tuple[str, Preference, dict[str, Any]]]:
        """(id, pair, what stands beside it); two answers of the same words make none."""
        with self.path.open("rb") as file:
            for pair in self.pairs(which):
                read = []
                for number in pair:
                    file.seek(self.offsets[number])
                    read.append(self._parse(file.readline()))
                (better, one), (worse, other) = read
                sides = {"prompt": better.prompt, "chosen": better.completion, "rejected": worse.completion}
                sides["tools"] = better.tools
                try:
                    record = with_columns(Preference.from_row(sides), _shared(better, worse))
                except RecordError:
                    continue
                both = {"score_chosen": one.get("score"), "score_rejected": other.get("score")}
                kept = both if None not in both.values() else {}
                yield f"{one.get('id', pair[0])}>{other.get('id', pair[1])}", record, kept

    def _parse(self, line: bytes) -> tuple[Record, dict[str, Any]]:
        row = json.loads(line)
        return with_columns(FORMATS[self.format].from_row(row), stored_columns(row)), row


def _shared(better: Record, worse: Record) -> Columns:
    """The columns in which two answers agree: those of their prompt."""
    others = columns_of(worse)
    return {name: value for name, value in columns_of(better).items() if others.get(name) == value}

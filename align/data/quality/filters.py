"""What is let into a set: each record is repaired and weighed; changes and omissions are counted and reported."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from align.data.quality.near_duplicates import ngram_hashes, word_hashes
from align.data.quality.repairs import repair, unwanted
from align.data.record_texts import flat, pair_hash, record_hash, sides_of
from align.records import Record, RecordError, prompt_key


class Admission:
    """The rules of one set, and what they did so far in `done`: `fix NAME` and `left out: REASON` -> how often.

    Args:
        fix, drop: names of `repairs.FIXES` and `repairs.DROPS`.
        against: a benchmark's name -> its n-grams of `ngram` words.
        blocked: what `blocked` found in a first pass.
        tell: takes every change and every record left out, as a row of repairs.jsonl, which undoes it.
    """

    def __init__(
        self,
        fix: Sequence[str] = (),
        drop: Sequence[str] = (),
        *,
        against: Mapping[str, np.ndarray] | None = None,
        ngram: int = 13,
        blocked: Mapping[str, set[int]] | None = None,
        tell: Callable[[dict[str, Any]], None] = lambda change: None,
    ):
        self.fix, self.drop = fix, drop
        self.against, self.ngram = against or {}, ngram
        self.blocked, self.tell = blocked or {}, tell
        self.done: Counter[str] = Counter()
        self._met: set[int] = set()

    def admit(self, record: Record, place: str, split: str = "train") -> Record | None:
        """The record as it goes into `split`; None where it does not."""
        try:
            repaired, changes = repair(record, self.fix)
            why = self.why_not(repaired, split)
        except RecordError as error:
            repaired, changes, why = record, [], f"repaired, {error.field} {error.why.split(' (')[0]}"
        for change in changes:
            self.done[f"fix {change['fix']}"] += 1
            self.tell({"id": place, **change})
        if why is None:
            return repaired
        self.done[f"left out: {why}"] += 1
        self.tell({"id": place, "left_out": why, "record": record.to_row()})
        return None

    def why_not(self, record: Record, split: str = "train") -> str | None:
        """Why a record is left out, if it is; one that is not is remembered, for those that repeat it."""
        if why := unwanted(record, self.drop):
            return why
        key = record_hash(record) if "duplicates" in self.drop else None
        if key is not None and key in self._met:
            return "duplicates"
        for name, hashes in self.blocked.items() if split == "train" else ():
            if (pair_hash(record) if name == "contradictions" else hash(prompt_key(record))) in hashes:
                return name
        if "overlap" in self.drop and self.against and overlaps(record, self.against, self.ngram):
            return "overlap"
        if key is not None:
            self._met.add(key)
        return None


def blocked(drop: Sequence[str], train: Iterable[Record], evaluated: Iterable[Record]) -> dict[str, set[int]]:
    """What a first pass over a set must know: answers that are contradicted, and the prompts of eval."""
    found: dict[str, set[int]] = {}
    if "contradictions" in drop:
        said: dict[int, int] = {}
        found["contradictions"] = set()
        for record in train:
            turned, whole = pair_hash(record), record_hash(record)
            if said.setdefault(turned, whole) != whole:
                found["contradictions"].add(turned)
    if "overlap" in drop:
        found["overlap"] = {hash(prompt_key(record)) for record in evaluated}
    return found


def overlaps(record: Record, against: Mapping[str, np.ndarray], ngram: int) -> bool:
    """Whether `record` shares `ngram` words in a row with a benchmark."""
    words = word_hashes("\n".join(flat(content) for content in sides_of(record).values()))
    grams = ngram_hashes(words, ngram)
    return any(np.isin(grams, known, kind="sort").any() for known in against.values())

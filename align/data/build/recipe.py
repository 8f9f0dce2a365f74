"""What `align data make` is asked for: parts with their weights, and what every record of them must be."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.data.layouts.annotations import margin, scores
from align.data.quality import patterns
from align.data.quality.filters import overlaps
from align.data.quality.repairs import unwanted
from align.data.record_texts import flat, sides_of
from align.errors import UserError
from align.records import Preference, Record

_PART = re.compile(r"(?P<ref>[^*=]+)(?:\*(?P<weight>[0-9.]+))?(?:=(?P<cap>\d+))?")


@dataclass(frozen=True)
class Part:
    """A set that goes in: `hh:v1`, `hh:v1*0.3` (its weight) and `hh:v1=5000` (at most so many train records)."""

    ref: str
    weight: float | None = None
    cap: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Raises UserError."""
        found = _PART.fullmatch(text)
        try:
            weight = float(found["weight"]) if found and found["weight"] else None
        except ValueError:
            found = None
        if not found or weight == 0:
            raise UserError(f"{text!r} is no part of a set: write REF, REF*WEIGHT or REF=AT_MOST, such as hh:v1*0.3")
        return cls(found["ref"], weight, int(found["cap"]) if found["cap"] else None)


@dataclass(frozen=True)
class Recipe:
    """What to do with the parts."""

    format: str | None = None  # to convert to
    rows: int | None = None  # train records in all
    eval_fraction: float | None = None  # split anew, that share of each part's prompts; None keeps the parts' splits
    min_chars: int | None = None  # of the shortest answer, or of a text
    max_chars: int | None = None  # of prompt and longest answer
    languages: tuple[str, ...] = ()  # guessed of the prompt; others are left out
    fix: tuple[str, ...] = ()  # repairs of text
    drop: tuple[str, ...] = ()
    system: str | None = None  # put before conversations that have none
    pairs: str = "best_worst"  # single answers become pairs: the best with the worst of a prompt, or `all` that differ
    by: str | None = None  # what says which answer is better: label or score; None: label where there is one
    min_score: float | None = None  # of an answer worth having: a completion, or the chosen one
    min_margin: float | None = None  # of the chosen answer's score over the rejected one's
    best: int | None = None  # so many answers a prompt, by score
    ngram: int = 13
    seed: int = 0

    def why_not(self, record: Record, kept: Mapping[str, Any], against: Mapping[str, np.ndarray]) -> str:
        """Why a record is left out, empty where it is not; `kept` is what stands beside it.

        Raises:
            UserError: it has no score, and one is asked for.
        """
        lengths = {side: len(flat(content)) for side, content in sides_of(record).items()}
        answers = [count for side, count in lengths.items() if side != "prompt"] or list(lengths.values())
        if self.min_chars is not None and min(answers) < self.min_chars:
            return "shorter than min_chars"
        whole = max(answers) + (lengths.get("prompt", 0) if len(lengths) > 1 else 0)
        if self.max_chars is not None and whole > self.max_chars:
            return "longer than max_chars"
        if self.languages:
            language = patterns.language_of(flat(next(iter(sides_of(record).values()))))
            if language not in self.languages:
                return f"language {language}"
        if self.min_score is not None and good_score(record, kept, "--min-score") < self.min_score:
            return "score below min_score"
        if self.min_margin is not None and pair_margin(record, kept) < self.min_margin:
            return "margin below min_margin"
        if "overlap" in self.drop and against and overlaps(record, against, self.ngram):
            return "overlap"
        return unwanted(record, self.drop) or ""


def good_score(record: Record, kept: Mapping[str, Any], asked: str) -> float:
    """The score of a completion, or of a preference's chosen answer. Raises UserError where there is none."""
    found = scores(kept, record)
    if not found:
        raise UserError(_unscored(asked))
    return found.get("chosen", found.get("completion"))


def pair_margin(record: Record, kept: Mapping[str, Any]) -> float:
    """By how much a pair's chosen answer is better. Raises UserError where nobody said."""
    if not isinstance(record, Preference):
        raise UserError(f"--min-margin is of pairs, and these are {record.format}: make pairs with --as preference")
    found = margin(kept, record)
    if found is None:
        raise UserError(_unscored("--min-margin"))
    return found


def _unscored(asked: str) -> str:
    return (
        f"{asked} needs scores, and there are records that have none; score the set first: deepspeed launch/run.py "
        "stage=score inputs.reward_model=<ref> inputs.dataset=<ref>"
    )

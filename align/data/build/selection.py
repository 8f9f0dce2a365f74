"""What becomes of every record of the parts: some 50 bytes each, decided before anything is written.

What is decided of a record depends on its words and the seed alone, so that the same sets and options give the same
files.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from align.artifacts.inputs import Input
from align.data.build.parts import Piece
from align.data.build.recipe import Part, Recipe, good_score
from align.data.record_texts import record_hash, text_hash
from align.records import prompt_key


@dataclass
class Ledger:
    """One part's; a number a record in each list."""

    order: list[int] = field(default_factory=list)  # decides who goes first
    prompts: list[int] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)  # in the part's eval
    fate: list[str] = field(default_factory=list)  # why it is left out; empty: it is not
    scores: list[float] = field(default_factory=list)  # where the best are asked for

    @classmethod
    def of(cls, pieces: Iterable[Piece], recipe: Recipe, against: Mapping[str, np.ndarray]) -> "Ledger":
        """Everything that can be told from a part alone."""
        ledger = cls()
        met: set[int] = set()
        for piece in pieces:
            fate = piece.fate or recipe.why_not(piece.record, piece.beside, against)
            if not fate and "duplicates" in recipe.drop:
                key = record_hash(piece.record)
                fate = "duplicates" if key in met else ""
                met.add(key)
            ledger.order.append(text_hash(f"{recipe.seed}\n{piece.record.to_row()}"))
            ledger.prompts.append(text_hash(prompt_key(piece.record)))
            ledger.held.append(piece.held)
            ledger.fate.append(fate)
            if recipe.best is not None:
                ledger.scores.append(good_score(piece.record, piece.beside, "--best"))
        if recipe.best is not None:
            ledger._keep_best(recipe.best)
        if recipe.eval_fraction is not None:
            ledger._split(recipe.eval_fraction)
        return ledger

    def kept(self, held: bool) -> list[bool]:
        """Whether each record is in that split of the new set."""
        return [not fate and is_held == held for fate, is_held in zip(self.fate, self.held, strict=True)]

    def account(self, part: Part, given: Input) -> dict[str, Any]:
        """records in = train + eval + left out, by reason."""
        return {
            "ref": given.ref,
            "weight": part.weight,
            "cap": part.cap,
            "records_in": len(self.fate),
            "train": sum(self.kept(False)),
            "eval": sum(self.kept(True)),
            "left_out": dict(Counter(fate for fate in self.fate if fate)),
        }

    def _keep_best(self, count: int) -> None:
        answers: dict[int, list[int]] = defaultdict(list)
        for number, prompt in enumerate(self.prompts):
            if not self.fate[number]:
                answers[prompt].append(number)
        for members in answers.values():
            for number in sorted(members, key=lambda number: (-self.scores[number], number))[count:]:
                self.fate[number] = f"not of the best {count} of its prompt"

    def _split(self, fraction: float) -> None:
        """Hold out that share of the part's prompts, exactly but for rounding: the parts are its strata."""
        prompts = sorted({prompt for prompt, fate in zip(self.prompts, self.fate, strict=True) if not fate})
        held = set(prompts[: round(fraction * len(prompts))])
        self.held = [prompt in held for prompt in self.prompts]


def keep_apart(ledgers: Sequence[Ledger]) -> None:
    """A prompt that any part holds out is in no part's train."""
    held = {
        prompt for ledger in ledgers for prompt, kept in zip(ledger.prompts, ledger.kept(True), strict=True) if kept
    }
    for ledger in ledgers:
        for number, in_train in enumerate(ledger.kept(False)):
            if in_train and ledger.prompts[number] in held:
                ledger.fate[number] = "prompt is in eval"


def portion(ledgers: Sequence[Ledger], parts: Sequence[Part], rows: int | None) -> None:
    """Leave out train records until caps, weights and the number asked for are kept to."""
    free = [[number for number, in_train in enumerate(ledger.kept(False)) if in_train] for ledger in ledgers]
    sizes = [len(one) if part.cap is None else min(len(one), part.cap) for one, part in zip(free, parts, strict=True)]
    if any(part.weight is not None for part in parts):
        weights = [part.weight if part.weight is not None else 1.0 for part in parts]
        total = min(size * sum(weights) / weight for size, weight in zip(sizes, weights, strict=True))
        total = min(total, rows) if rows is not None else total
        sizes = [int(total * weight / sum(weights) + 1e-9) for weight in weights]
    elif rows is not None and sum(sizes) > rows:
        sizes = [size * rows // sum(sizes) for size in sizes]
    for ledger, one, size in zip(ledgers, free, sizes, strict=True):
        for number in sorted(one, key=lambda number, ledger=ledger: (ledger.order[number], number))[size:]:
            ledger.fate[number] = "over its share"

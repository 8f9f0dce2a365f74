"""The records of one part of a set that is made, in the format wanted and in the order of its files."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input
from align.data.build.pairing import Answers
from align.data.build.recipe import Recipe
from align.data.layouts.annotations import beside, own
from align.data.layouts.parse import Reading, read_outcomes
from align.data.quality.repairs import repair
from align.data.readers.files import Source
from align.data.record_texts import sides_of
from align.errors import UserError
from align.records import Demonstration, Record, RecordError, Text

PAIRED = ("unpaired_preference", "prompt_completion")
"""The formats whose single answers can become pairs."""


@dataclass(frozen=True)
class Piece:
    """One record as a part gives it."""

    held: bool  # in the part's eval
    file: str
    row: int
    id: str
    record: Record
    beside: dict[str, Any]
    fate: str = ""  # why it is left out, whatever else it is
    changes: tuple[dict[str, Any], ...] = ()  # by repairs, each with what was there before


class PartReader:
    """Every record of a dataset artifact, made into `format`: the same ones in the same order, however often asked.

    Raises:
        UserError: while it is read, where a record does not become that.
    """

    def __init__(self, given: Input, format: str, recipe: Recipe):
        self.given, self.format, self.recipe = given, format, recipe
        self.have = given.manifest.format
        self.answers: list[Answers] = []  # a split each, where single answers become pairs
        paths = {split: given.path / "records" / f"{split}.jsonl" for split in ("train", "eval")}
        self.paths = {split: path for split, path in paths.items() if path.is_file()}
        if format == "preference" and self.have in PAIRED:
            self.answers = [Answers(path, given.ref, self.have, recipe.by) for path in self.paths.values()]

    def __iter__(self) -> Iterator[Piece]:
        for number, (split, path) in enumerate(self.paths.items()):
            pieces = self._pairs(self.answers[number], split) if self.answers else self._records(path, split)
            for piece in pieces:
                yield self._repaired(replace(piece, record=_with_system(piece.record, self.recipe.system)))

    def account(self) -> dict[str, dict[str, int]]:
        """How many of the single answers are in a pair, where pairs were made of them."""
        if not self.answers:
            return {}
        paired = sum(len({one for pair in each.pairs(self.recipe.pairs) for one in pair}) for each in self.answers)
        total = sum(len(each.worth) for each in self.answers)
        prompts = sum(len(each.prompts) for each in self.answers)
        return {"answers": {"in": total, "paired": paired, "in no pair": total - paired, "prompts": prompts}}

    def _repaired(self, piece: Piece) -> Piece:
        try:
            record, changes = repair(piece.record, self.recipe.fix)
        except RecordError as error:
            return replace(piece, fate=piece.fate or f"repaired, {error.field} {error.why.split(' (')[0]}")
        return replace(piece, record=record, changes=tuple(changes))

    def _pairs(self, answers: Answers, split: str) -> Iterator[Piece]:
        ref = self.given.ref
        for number, (name, record, kept) in enumerate(answers.preferences(self.recipe.pairs)):
            yield Piece(split == "eval", ref, number, f"{ref}:{name}", record, kept)

    def _records(self, path: Path, split: str) -> Iterator[Piece]:
        ref = self.given.ref
        # the good of answers that were judged one by one are demonstrations, which no format says by itself
        sorted_out = (self.have, self.format) == ("unpaired_preference", "prompt_completion")
        for outcome in read_outcomes([Source(ref, path)], Reading("trl", self.have if sorted_out else self.format)):
            if outcome.refusal is not None:
                raise UserError(
                    f"{ref}, {path.name}: row {outcome.row} does not become {self.format}: "
                    f"{outcome.refusal.field or 'it'} {outcome.refusal.why}"
                )
            named = outcome.raw.get("id") if isinstance(outcome.raw, dict) else None
            name = f"{ref}:{named if isinstance(named, str) else outcome.row}"
            for position, record in enumerate(outcome.records):
                kept = own(beside(outcome.raw), record)
                fate = "labelled bad" if sorted_out and not record.label else ""
                made = record
                if sorted_out:
                    made = Demonstration(record.prompt, record.completion, record.tools, record.columns)
                half = f".{position}" if len(outcome.records) > 1 else ""  # each answer of a pair has an id of its own
                yield Piece(split == "eval", ref, outcome.row, f"{name}{half}", made, kept, fate)


def _with_system(record: Record, system: str | None) -> Record:
    content = sides_of(record).get("prompt", getattr(record, "content", None))
    if system is None or not isinstance(content, list) or content[0]["role"] in ("system", "developer"):
        return record
    content = [{"role": "system", "content": system}, *content]
    return replace(record, **{"content" if isinstance(record, Text) else "prompt": content})

"""`align data make`: sets out of sets. Split by prompt, mixed by weight, filtered; no record goes without a reason.

What is decided of a record depends on its words and the seed alone, so that the same sets and options give the same
files. Two passes over the sets: the first keeps some 40 bytes a record, the second writes.
"""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from align.artifacts.inputs import Input
from align.artifacts.manifest import json_digest
from align.artifacts.refs import check_name
from align.artifacts.store import Store, Version, utc_now
from align.config.paths import PROJECT
from align.data import patterns
from align.data.datasets import json_line
from align.data.findings import Report, dump
from align.data.importing import Options, overlaps, record_hash, refuse
from align.data.inspection import Inspection, flat, sides_of
from align.data.intake import Outcome, Reading, Source, read_outcomes
from align.data.page import to_html
from align.data.repairs import unwanted
from align.data.verdict import judge
from align.errors import UserError
from align.provenance import git_commit, packages
from align.records import FORMATS, Record, Text, prompt_key

VERSION = 1  # of what equal sets and options give
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
    drop: tuple[str, ...] = ()
    system: str | None = None  # put before conversations that have none
    ngram: int = 13
    seed: int = 0


@dataclass
class _Ledger:
    """What the first pass keeps of a part."""

    order: list[int]  # a number a record that decides who goes first
    prompts: list[int]
    held: list[bool]  # in the part's eval
    fate: list[str]  # why a record is left out; empty: it is not


def make_dataset(
    store: Store,
    name: str,
    parts: Sequence[tuple[Part, Input]],
    recipe: Recipe,
    *,
    against: dict[str, np.ndarray] | None = None,
    benchmarks: dict[str, str] | None = None,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> tuple[Version, Report | None]:
    """Publish `name`, made of the parts; the report is None where just this was made before.

    Raises:
        UserError: sets of different formats, nothing left, or findings that may not pass.
    """
    check_name(name)
    format = _common_format(parts, recipe)
    identity = json_digest(
        {
            "make": VERSION,
            "parts": [[given.digest, part.weight, part.cap] for part, given in parts],
            "recipe": {**vars(recipe), "format": format},
            "benchmarks": benchmarks or {},
        }
    )
    if before := [version for version in store.find(identity) if version.name == name]:
        store.point(before[-1])
        return before[-1], None
    started, against = utc_now(), against or {}
    ledgers = [_survey(given, format, recipe, against) for _, given in parts]
    if recipe.eval_fraction is not None:
        for ledger in ledgers:
            _split(ledger, recipe.eval_fraction)
    _keep_apart(ledgers)
    _portion(ledgers, [part for part, _ in parts], recipe.rows)
    folder = store.stage(name)
    try:
        (folder / "records").mkdir()
        seen = Inspection("trl", against=against, ngram=recipe.ngram)
        sources: list[Source] = []
        for split in ("train", "eval"):
            path = folder / "records" / f"{split}.jsonl"
            with path.open("w", encoding="utf-8", newline="\n") as file:
                for outcome, record in _interleave(parts, ledgers, format, recipe, split == "eval"):
                    seen.observe(Outcome(outcome.file, outcome.row, {}, [record]), split)
                    given = outcome.raw.get("id") if isinstance(outcome.raw, dict) else None
                    extra = {"id": f"{outcome.file}:{given if isinstance(given, str) else outcome.row}"}
                    file.write(json_line({**record.to_row(), **extra}))
            if path.stat().st_size == 0:
                path.unlink()
        if not seen.splits["train"]:
            reasons = Counter(fate for ledger in ledgers for fate in ledger.fate if fate)
            told = ", ".join(f"{count} {why}" for why, count in reasons.items())
            raise UserError(f"{name}: no train record is left ({told or 'the parts hold none'})")
        digests = {given.ref: given.digest for _, given in parts}
        sources = [Source(given.ref, given.path) for _, given in parts]
        why = f"made of {', '.join(source.name for source in sources)}"
        report = judge(seen, sources, Reading("trl", format, why=why), title=f"Dataset {name}", digests=digests)
        refuse(report, options)
        (folder / "report.json").write_text(dump([report]), "utf-8")
        (folder / "report.html").write_text(to_html([report]), "utf-8")
        version = store.publish(
            folder,
            name=name,
            type="dataset",
            format=format,
            inputs={"parts": [given.to_manifest() for _, given in parts]},
            identity=identity,
            packages=packages(),
            git_commit=git_commit(PROJECT),
            seed=recipe.seed,
            metrics={f"{split}_records": count for split, count in seen.splits.items()},
            started=started,
            notes={
                "stage": "make",
                "recipe": {**vars(recipe), "languages": list(recipe.languages), "drop": list(recipe.drop)},
                "parts": [_account(part, given, ledger) for (part, given), ledger in zip(parts, ledgers, strict=True)],
                "benchmarks": benchmarks or {},
                "findings": {f.name: {"severity": f.severity, "count": f.count, "of": f.of} for f in report.findings},
                "verdict": report.verdict,
                "allowed": list(options.allow),
            },
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return version, report


def _common_format(parts: Sequence[tuple[Part, Input]], recipe: Recipe) -> str:
    for _, given in parts:
        if given.type != "dataset" or given.manifest is None or given.manifest.format not in FORMATS:
            raise UserError(f"{given.text} is no dataset artifact: import it first, align data import")
    formats = {given.ref: given.manifest.format for _, given in parts}
    if recipe.format is None and len(set(formats.values())) > 1:
        told = ", ".join(f"{ref} is {format}" for ref, format in formats.items())
        raise UserError(f"the sets differ ({told}): say what to make of them with --as")
    return recipe.format or next(iter(formats.values()))


def _records(given: Input, format: str, recipe: Recipe) -> Iterator[tuple[bool, Outcome, Record]]:
    """(in the part's eval, where from, record), in the order of the files; both passes see the same."""
    for split in ("train", "eval"):
        path = given.path / "records" / f"{split}.jsonl"
        if not path.is_file():
            continue
        for outcome in read_outcomes([Source(given.ref, path)], Reading("trl", format)):
            if outcome.refusal is not None:
                raise UserError(
                    f"{given.ref}, {split}.jsonl: row {outcome.row} does not become {format}: "
                    f"{outcome.refusal.field or 'it'} {outcome.refusal.why}"
                )
            for record in outcome.records:
                yield split == "eval", outcome, _with_system(record, recipe.system)


def _with_system(record: Record, system: str | None) -> Record:
    content = sides_of(record).get("prompt", getattr(record, "content", None))
    if system is None or not isinstance(content, list) or content[0]["role"] in ("system", "developer"):
        return record
    content = [{"role": "system", "content": system}, *content]
    field = "messages" if isinstance(record, Text) else "prompt"
    return FORMATS[record.format].from_row({**record.to_row(), field: content})


def _survey(given: Input, format: str, recipe: Recipe, against: dict[str, np.ndarray]) -> _Ledger:
    ledger = _Ledger([], [], [], [])
    met: set[int] = set()
    for held, _, record in _records(given, format, recipe):
        fate = _unfit(record, recipe, against)
        if not fate and "duplicates" in recipe.drop:
            key = record_hash(record)
            fate = "duplicates" if key in met else ""
            met.add(key)
        ledger.order.append(_number(f"{recipe.seed}\n{record.to_row()}"))
        ledger.prompts.append(_number(prompt_key(record)))
        ledger.held.append(held)
        ledger.fate.append(fate)
    return ledger


def _unfit(record: Record, recipe: Recipe, against: dict[str, np.ndarray]) -> str:
    lengths = {side: len(flat(content)) for side, content in sides_of(record).items()}
    answers = [count for side, count in lengths.items() if side != "prompt"] or list(lengths.values())
    if recipe.min_chars is not None and min(answers) < recipe.min_chars:
        return "shorter than min_chars"
    whole = max(answers) + (lengths.get("prompt", 0) if len(lengths) > 1 else 0)
    if recipe.max_chars is not None and whole > recipe.max_chars:
        return "longer than max_chars"
    if recipe.languages:
        language = patterns.language_of(flat(next(iter(sides_of(record).values()))))
        if language not in recipe.languages:
            return f"language {language}"
    if "overlap" in recipe.drop and against and overlaps(record, against, recipe.ngram):
        return "overlap"
    return unwanted(record, recipe.drop) or ""


def _split(ledger: _Ledger, fraction: float) -> None:
    """Hold out that share of the part's prompts, exactly but for rounding: the parts are its strata."""
    prompts = sorted({prompt for prompt, fate in zip(ledger.prompts, ledger.fate, strict=True) if not fate})
    held = set(prompts[: round(fraction * len(prompts))])
    ledger.held = [prompt in held for prompt in ledger.prompts]


def _keep_apart(ledgers: Sequence[_Ledger]) -> None:
    """A prompt that any part holds out is in no part's train."""
    held = {
        prompt
        for ledger in ledgers
        for prompt, is_held, fate in zip(ledger.prompts, ledger.held, ledger.fate, strict=True)
        if is_held and not fate
    }
    for ledger in ledgers:
        for number, prompt in enumerate(ledger.prompts):
            if not ledger.held[number] and not ledger.fate[number] and prompt in held:
                ledger.fate[number] = "prompt is in eval"


def _portion(ledgers: Sequence[_Ledger], parts: Sequence[Part], rows: int | None) -> None:
    """Leave out train records until caps, weights and the number asked for are kept to."""
    free = [[n for n, fate in enumerate(ledger.fate) if not fate and not ledger.held[n]] for ledger in ledgers]
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


def _interleave(
    parts: Sequence[tuple[Part, Input]], ledgers: Sequence[_Ledger], format: str, recipe: Recipe, held: bool
) -> Iterator[tuple[Outcome, Record]]:
    """The records of one split, each part's spread evenly over the whole."""
    totals, streams = [], []
    for (_, given), ledger in zip(parts, ledgers, strict=True):
        takes = [not fate and is_held == held for fate, is_held in zip(ledger.fate, ledger.held, strict=True)]
        totals.append(sum(takes))
        found = zip(takes, _records(given, format, recipe), strict=True)
        streams.append((outcome, record) for takes_it, (_, outcome, record) in found if takes_it)
    written = [0] * len(totals)
    for _ in range(sum(totals)):
        behind = min(
            (n for n, total in enumerate(totals) if written[n] < total), key=lambda n: (written[n] + 0.5) / totals[n]
        )
        written[behind] += 1
        yield next(streams[behind])


def _account(part: Part, given: Input, ledger: _Ledger) -> dict[str, Any]:
    """records in = train + eval + left out, by reason."""
    kept = [held for held, fate in zip(ledger.held, ledger.fate, strict=True) if not fate]
    return {
        "ref": given.ref,
        "weight": part.weight,
        "cap": part.cap,
        "records_in": len(ledger.fate),
        "train": len(kept) - sum(kept),
        "eval": sum(kept),
        "left_out": dict(Counter(fate for fate in ledger.fate if fate)),
    }


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big")

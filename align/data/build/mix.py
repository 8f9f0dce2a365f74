"""`align data make`: sets out of sets. Split by prompt, mixed by weight, filtered; no record goes without a reason.

Two passes over the parts: the first fills a ledger that decides of every record, the second writes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from align.artifacts.inputs import Input
from align.artifacts.manifest import json_digest
from align.artifacts.refs import check_name
from align.artifacts.store import Store, utc_now
from align.artifacts.version import Version
from align.data.build.parts import PAIRED, PartReader, Piece
from align.data.build.publish import Tolerance, publish, published_before, staged
from align.data.build.recipe import Part, Recipe
from align.data.build.selection import Ledger, keep_apart, portion
from align.data.layouts.parse import Outcome, Reading
from align.data.loading.tables import json_line
from align.data.quality.findings import Report
from align.data.quality.inspection import Inspection
from align.data.quality.report import judge
from align.data.readers.files import Source
from align.errors import UserError
from align.records import FORMATS

VERSION = 3  # of what equal sets and options give


def make_dataset(
    store: Store,
    name: str,
    parts: Sequence[tuple[Part, Input]],
    recipe: Recipe,
    *,
    against: dict[str, np.ndarray] | None = None,
    benchmarks: dict[str, str] | None = None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
) -> tuple[Version, Report | None]:
    """Publish `name`, made of the parts; the report is None where just this was made before.

    Raises:
        UserError: sets of different formats, nothing left, or findings that may not pass.
    """
    check_name(name)
    format = _common_format(parts, recipe)
    settings = {"recipe": {**vars(recipe), "format": format}, "benchmarks": benchmarks or {}}
    given_as = [[given.digest, part.weight, part.cap] for part, given in parts]
    identity = json_digest({"make": VERSION, "parts": given_as, **settings})
    if (before := published_before(store, name, identity)) is not None:
        return before, None
    started, against = utc_now(), against or {}
    readers = [PartReader(given, format, recipe) for _, given in parts]
    ledgers = [Ledger.of(reader, recipe, against) for reader in readers]
    keep_apart(ledgers)
    portion(ledgers, [part for part, _ in parts], recipe.rows)
    with staged(store, name) as folder:
        seen = Inspection("trl", against=against, ngram=recipe.ngram)
        done: Counter[str] = Counter()
        log = folder / "repairs.jsonl"
        for split in ("train", "eval"):
            path = folder / "records" / f"{split}.jsonl"
            with path.open("w", encoding="utf-8", newline="\n") as file, log.open("a", encoding="utf-8") as repairs:
                for piece in _interleave(readers, ledgers, split == "eval"):
                    seen.observe(Outcome(piece.file, piece.row, piece.beside, [piece.record]), split)
                    file.write(json_line({**piece.record.to_row(), "id": piece.id, **piece.beside}))
                    repairs.writelines(json_line({"id": piece.id, **change}) for change in piece.changes)
                    done.update(f"fix {change['fix']}" for change in piece.changes)
            if path.stat().st_size == 0:
                path.unlink()
        if log.stat().st_size == 0:
            log.unlink()
        if not seen.splits["train"]:
            reasons = Counter(fate for ledger in ledgers for fate in ledger.fate if fate)
            told = ", ".join(f"{count} {why}" for why, count in reasons.items())
            raise UserError(f"{name}: no train record is left ({told or 'the parts hold none'})")
        sources = [Source(given.ref, given.path) for _, given in parts]
        why = f"made of {', '.join(source.name for source in sources)}"
        digests = {given.ref: given.digest for _, given in parts}
        report = judge(seen, sources, Reading("trl", format, why=why), title=f"Dataset {name}", digests=digests)
        accounts = [
            ledger.account(part, given) | reader.account()
            for (part, given), ledger, reader in zip(parts, ledgers, readers, strict=True)
        ]
        version = publish(
            store,
            folder,
            report,
            name=name,
            inputs={"parts": [given.to_manifest() for _, given in parts]},
            identity=identity,
            started=started,
            metrics={f"{split}_records": count for split, count in seen.splits.items()},
            notes={"stage": "make", **settings, "parts": accounts, "repairs": dict(done)},
            tolerance=tolerance,
            seed=recipe.seed,
        )
    return version, report


def _common_format(parts: Sequence[tuple[Part, Input]], recipe: Recipe) -> str:
    """What is made of the parts: as asked, else what they all are. Raises UserError."""
    for _, given in parts:
        if given.type != "dataset" or given.manifest is None or given.manifest.format not in FORMATS:
            raise UserError(f"{given.text} is no dataset artifact: import it first, align data import")
    formats = {given.ref: given.manifest.format for _, given in parts}
    if recipe.format is None and len(set(formats.values())) > 1:
        told = ", ".join(f"{ref} is {format}" for ref, format in formats.items())
        raise UserError(f"the sets differ ({told}): say what to make of them with --as")
    made = recipe.format or next(iter(formats.values()))
    if recipe.by is not None and not (made == "preference" and set(formats.values()) & set(PAIRED)):
        raise UserError(f"--by {recipe.by} says which of two answers is better: it goes with --as preference")
    return made


def _interleave(readers: Sequence[PartReader], ledgers: Sequence[Ledger], held: bool) -> Iterator[Piece]:
    """The records of one split, each part's spread evenly over the whole."""
    totals, streams = [], []
    for reader, ledger in zip(readers, ledgers, strict=True):
        takes = ledger.kept(held)
        totals.append(sum(takes))
        streams.append(piece for takes_it, piece in zip(takes, reader, strict=True) if takes_it)
    written = [0] * len(totals)
    for _ in range(sum(totals)):
        behind = min(
            (n for n, total in enumerate(totals) if written[n] < total), key=lambda n: (written[n] + 0.5) / totals[n]
        )
        written[behind] += 1
        yield next(streams[behind])

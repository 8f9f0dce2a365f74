"""`align data import`: rows in, a dataset artifact out, with its report; nothing is dropped without being counted."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from align.artifacts.manifest import json_digest
from align.artifacts.refs import check_name
from align.artifacts.store import Store, utc_now
from align.artifacts.version import Version
from align.data.build.publish import Tolerance, publish, published_before, staged
from align.data.layouts.annotations import beside, own
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.judged import JUDGED
from align.data.layouts.mapping import Names
from align.data.layouts.parse import Outcome, Reading, read_outcomes
from align.data.layouts.recognition import recognise_source
from align.data.layouts.unread import ColumnUse
from align.data.loading.tables import json_line
from align.data.quality.filters import Admission, blocked
from align.data.quality.findings import Report
from align.data.quality.inspection import Inspection
from align.data.quality.report import judge
from align.data.readers.files import Source
from align.data.record_texts import fraction
from align.errors import UserError
from align.records import Record

VERSION = 4  # of what an import does with equal rows: part of its identity


@dataclass(frozen=True)
class Options:
    """How to read, repair and split."""

    format: str | None = None
    layout: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)
    eval_fraction: float = 0.05
    max_rows: int | None = None
    fix: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    ngram: int = 13
    keep: tuple[str, ...] | None = None  # columns that stay with the records; None: all that the layout does not read

    @property
    def names(self) -> Names:
        return Names(self.columns, self.labels, self.roles)


@dataclass(frozen=True)
class _Taken:
    """A record to be written, and where it came from."""

    record: Record
    id: str
    beside: dict[str, Any]

    def to_line(self) -> str:
        return json_line({**self.record.to_row(), "id": self.id, **self.beside})


def read_as(sources: Sequence[Source], options: Options) -> Reading:
    """One way to read all of the sources. Raises UserError where they are not of one kind."""
    readings = [
        recognise_source(source, layout=options.layout, names=options.names, wanted=options.format, keep=options.keep)
        for source in sources
    ]
    first = readings[0]
    for source, other in zip(sources, readings, strict=True):
        if (other.layout, other.format) != (first.layout, first.format):
            raise UserError(
                f"{source.name} is {other.layout} ({other.format}) and {sources[0].name} is {first.layout} "
                f"({first.format}): import them one by one, or say what both are with --layout and --as"
            )
    return first


def import_dataset(
    store: Store,
    name: str,
    sources: Sequence[Source],
    eval_sources: Sequence[Source] = (),
    *,
    against: dict[str, np.ndarray] | None = None,
    benchmarks: dict[str, str] | None = None,
    options: Options = Options(),
    tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
) -> tuple[Version, Report | None]:
    """Publish `name` from the sources; the report is None where just this was published before.

    Args:
        eval_sources: what is evaluated on; without any a share of the prompts is held out.
        against, benchmarks: name -> n-grams, and name -> digest, of texts that must not be in the set.

    Raises:
        UserError: nothing to import, or findings that `tolerance` does not let pass.
    """
    check_name(name)
    every = [*sources, *eval_sources]
    reading = read_as(every, options)
    told = {source.name: source.to_manifest() for source in every}
    inputs = {"sources": [told[source.name] for source in sources]}
    inputs |= {"eval": [told[source.name] for source in eval_sources]} if eval_sources else {}
    settings = vars(options) | {"layout": reading.layout, "format": reading.format, "benchmarks": benchmarks or {}}
    settings["eval_fraction"] = None if eval_sources else options.eval_fraction
    identity = json_digest({"import": VERSION, **inputs, **settings})
    if (before := published_before(store, name, identity)) is not None:
        return before, None
    started = utc_now()
    with staged(store, name) as folder:
        use = ColumnUse(reading)
        seen, done = _write(folder, sources, eval_sources, reading, options, against or {}, use)
        digests = {one: record["digest"] for one, record in told.items()}
        report = judge(
            seen,
            every,
            reading,
            title=f"Dataset {name}",
            digests=digests,
            use=use,
            importing=options.format is None,
        )
        if not seen.splits:
            reasons = ", ".join(f"{entry['count']} {why}" for why, entry in report.refused.items()) or "no rows"
            raise UserError(f"{sources[0].name}: no record came of {seen.rows_in} rows ({reasons})")
        version = publish(
            store,
            folder,
            report,
            name=name,
            inputs=inputs,
            identity=identity,
            started=started,
            metrics={"rows_in": seen.rows_in, "rows_used": seen.rows_used, **_sizes(seen)},
            notes={
                "stage": "import",
                "recognised": reading.why,
                "labels_read": report.labels,
                "columns_not_read": [column["name"] for column in report.unread],
                **settings,
                "rows_in": report.rows_in,
                "rows_used": report.rows_used,
                "rows_refused": {why: entry["count"] for why, entry in report.refused.items()},
                "columns_carried": list(report.carried["kept"]),
                "repairs": dict(done),
            },
            tolerance=tolerance,
        )
    return version, report


def _sizes(seen: Inspection) -> dict[str, int]:
    return {f"{split}_records": count for split, count in seen.splits.items()}


def _write(
    folder: Path,
    sources: Sequence[Source],
    eval_sources: Sequence[Source],
    reading: Reading,
    options: Options,
    against: dict[str, np.ndarray],
    use: ColumnUse,
) -> tuple[Inspection, Counter[str]]:
    """Fill `folder`; what was seen, and how often each repair was done."""
    one_file = len(sources) + len(eval_sources) == 1
    seen = Inspection(reading.layout, one_file=one_file, against=against, ngram=options.ngram)
    held_out = options.eval_fraction if not eval_sources else 0.0
    nearest = 2.0
    files = {split: folder / "records" / f"{split}.jsonl" for split in ("train", "eval")}
    files["log"] = folder / "repairs.jsonl"
    with ExitStack() as stack:
        out = {
            what: stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for what, path in files.items()
        }
        admission = Admission(
            options.fix,
            options.drop,
            against=against,
            ngram=options.ngram,
            blocked=blocked(options.drop, _records(sources, reading), _records(eval_sources, reading)),
            tell=lambda change: out["log"].write(json_line(change)),
        )
        for split, outcome in _each(sources, eval_sources, reading):
            kept: dict[str, list[_Taken]] = {"train": [], "eval": []}
            for one in _admitted(outcome, split, reading, admission):
                share = fraction(one.record)
                where = "eval" if split == "eval" or (held_out and share <= held_out) else "train"
                if where == "train" and seen.splits["train"] + len(kept["train"]) == options.max_rows:
                    admission.done["left out by max_rows"] += 1
                    continue
                nearest = min(nearest, share)
                kept[where].append(one)
            for where, ones in kept.items():
                out[where].writelines(one.to_line() for one in ones)
            use.observe(outcome)
            # the row is counted once, its records by split
            seen.observe(replace(outcome, records=[one.record for one in kept["train"]]), "train")
            if kept["eval"]:
                seen.observe(replace(outcome, records=[one.record for one in kept["eval"]], rows=0), "eval")
    if held_out and len(+seen.splits) == 1:
        _hold_nearest(folder / "records", nearest, seen, reading.format)
    for file in (files["eval"], files["log"]):
        if file.stat().st_size == 0:
            file.unlink()
    return seen, admission.done


def _each(
    sources: Sequence[Source], eval_sources: Sequence[Source], reading: Reading
) -> Iterator[tuple[str, Outcome]]:
    for outcome in read_outcomes(sources, reading):
        yield "train", outcome
    for outcome in read_outcomes(eval_sources, reading):
        yield "eval", outcome


def _records(sources: Sequence[Source], reading: Reading) -> Iterator[Record]:
    return (record for outcome in read_outcomes(sources, reading) for record in outcome.records)


def _admitted(outcome: Outcome, split: str, reading: Reading, admission: Admission) -> list[_Taken]:
    """The outcome's records that are let in, repaired, each with what stays beside it."""
    kept = beside(outcome.raw)
    if reading.layout == "annotators" and outcome.records:
        verdict = JUDGED["annotators"](outcome.raw).verdicts[0]
        kept["agreement"] = round(verdict.votes.count(verdict.outcome) / len(verdict.votes), 4)
    taken = []
    for position, record in enumerate(outcome.records):
        place = f"{outcome.file}:{outcome.row}" + (f".{position}" if len(outcome.records) > 1 else "")
        repaired = admission.admit(record, place, split)
        if repaired is not None:
            taken.append(_Taken(repaired, place, own(kept, repaired)))
    return taken


def _hold_nearest(records: Path, nearest: float, seen: Inspection, format: str) -> None:
    """Where chance put a small set on one side, the prompt that came nearest is held out, if another is left."""
    files = {name: records / f"{name}.jsonl" for name in ("train", "eval")}
    lines = "".join(file.read_text("utf-8") for file in files.values()).split("\n")[:-1]
    away = [fraction(LAYOUTS["trl"](json.loads(line), format)[0]) == nearest for line in lines]
    away = [is_away and not all(away) for is_away in away]
    for name, wanted in (("train", False), ("eval", True)):
        chosen = [line + "\n" for line, is_away in zip(lines, away, strict=True) if is_away == wanted]
        files[name].write_text("".join(chosen), "utf-8", newline="\n")
    for number, is_away in enumerate(away):
        seen.is_eval[number] = int(is_away)
    seen.splits = +Counter({"train": len(away) - sum(away), "eval": sum(away)})

"""`align data import`: rows in, a dataset artifact out, with its report; nothing is dropped without being counted."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from align.artifacts.manifest import json_digest
from align.artifacts.refs import check_name
from align.artifacts.store import Store, Version, utc_now
from align.config.paths import PROJECT
from align.data.datasets import fraction, json_line
from align.data.findings import Report, dump
from align.data.formats import LAYOUTS
from align.data.inspection import TOOLS, Inspection, flat, sides_of
from align.data.intake import Outcome, Reading, Source, read_outcomes, recognise_source
from align.data.judged import JUDGED
from align.data.nearness import ngram_hashes, word_hashes
from align.data.page import to_html
from align.data.readers import Unreadable
from align.data.repairs import mend, unwanted
from align.data.verdict import judge
from align.errors import UserError
from align.provenance import git_commit, packages
from align.records import Record, RecordError, prompt_key

VERSION = 1  # of what an import does with equal rows: part of its identity


@dataclass(frozen=True)
class Options:
    """How to read, mend and split."""

    format: str | None = None
    layout: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    eval_fraction: float = 0.05
    max_rows: int | None = None
    fix: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    ngram: int = 13
    refuse: str = "error"  # findings of this severity and above refuse the import
    allow: tuple[str, ...] = ()  # but not these


@dataclass(frozen=True)
class Taken:
    """A record to be written, and where it came from."""

    record: Record
    id: str
    extra: dict[str, Any]


def read_as(sources: Sequence[Source], options: Options) -> Reading:
    """One way to read all of the sources. Raises UserError where they are not of one kind."""
    readings = [
        recognise_source(
            source, layout=options.layout, columns=options.columns, labels=options.labels, wanted=options.format
        )
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
    options: Options = Options(),  # noqa: B008 (frozen)
) -> tuple[Version, Report | None]:
    """Publish `name` from the sources; the report is None where just this was published before.

    Args:
        eval_sources: what is evaluated on; without any a share of the prompts is held out.
        against, benchmarks: name -> n-grams, and name -> digest, of texts that must not be in the set.

    Raises:
        UserError: nothing to import, or findings that `options.refuse` does not let pass.
    """
    check_name(name)
    reading = read_as([*sources, *eval_sources], options)
    told = {source.name: source.to_manifest() for source in [*sources, *eval_sources]}
    identity = json_digest(
        {
            "import": VERSION,
            "sources": [told[source.name] for source in sources],
            "eval": [told[source.name] for source in eval_sources],
            "benchmarks": benchmarks or {},
            "layout": reading.layout,
            "format": reading.format,
            "columns": options.columns,
            "labels": options.labels,
            "fix": options.fix,
            "drop": options.drop,
            "ngram": options.ngram,
            "eval_fraction": None if eval_sources else options.eval_fraction,
            "max_rows": options.max_rows,
        }
    )
    if before := [version for version in store.find(identity) if version.name == name]:
        store.point(before[-1])
        return before[-1], None
    started = utc_now()
    folder = store.stage(name)
    try:
        seen, counts, done = _write(folder, sources, eval_sources, reading, options, against or {})
        digests = {one: record["digest"] for one, record in told.items()}
        report = judge(seen, [*sources, *eval_sources], reading, title=f"Dataset {name}", digests=digests)
        if not seen.splits:
            reasons = ", ".join(f"{entry['count']} {why}" for why, entry in report.refused.items()) or "no rows"
            raise UserError(f"{sources[0].name}: no record came of {seen.rows_in} rows ({reasons})")
        refuse(report, options)
        (folder / "report.json").write_text(dump([report]), "utf-8")
        (folder / "report.html").write_text(to_html([report]), "utf-8")
        version = store.publish(
            folder,
            name=name,
            type="dataset",
            format=reading.format,
            inputs={
                "sources": [told[source.name] for source in sources],
                **({"eval": [told[source.name] for source in eval_sources]} if eval_sources else {}),
            },
            identity=identity,
            packages=packages(),
            git_commit=git_commit(PROJECT),
            metrics=counts,
            started=started,
            notes=_notes(reading, options, report, done, benchmarks or {}),
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return version, report


def refuse(report: Report, options: Options) -> None:
    """Raises UserError where the report has findings that `options` does not let pass."""
    stopping = [finding for finding in report.at_least(options.refuse) if finding.name not in options.allow]
    if stopping:
        worst = stopping[0]
        more = f" (and {', '.join(finding.name for finding in stopping[1:])})" if len(stopping) > 1 else ""
        rows = f", {worst.rows[0]}" if worst.rows else ""
        raise UserError(
            f"{report.title}: {worst.name}{more}: {worst.count} of {worst.of} {worst.message}{rows}. "
            f"{worst.remedy + '; or let' if worst.remedy else 'Let'} it pass: --allow {worst.name}, or --refuse never"
        )


def _notes(
    reading: Reading, options: Options, report: Report, done: Counter[str], benchmarks: dict[str, str]
) -> dict[str, Any]:
    return {
        "stage": "import",
        "layout": reading.layout,
        "recognised": reading.why,
        "columns": dict(options.columns),
        "labels": dict(options.labels),
        "rows_in": report.rows_in,
        "rows_used": report.rows_used,
        "rows_refused": {why: entry["count"] for why, entry in report.refused.items()},
        "fix": list(options.fix),
        "drop": list(options.drop),
        "repairs": dict(done),
        "eval_fraction": options.eval_fraction,
        "benchmarks": benchmarks,
        "findings": {f.name: {"severity": f.severity, "count": f.count, "of": f.of} for f in report.findings},
        "verdict": report.verdict,
        "allowed": list(options.allow),
    }


def _write(
    folder: Path,
    sources: Sequence[Source],
    eval_sources: Sequence[Source],
    reading: Reading,
    options: Options,
    against: dict[str, np.ndarray],
) -> tuple[Inspection, dict[str, Any], Counter[str]]:
    """Fill `folder/records`; what was seen, the numbers for the manifest, and how often each repair was done."""
    records = folder / "records"
    records.mkdir()
    one_file = len(sources) + len(eval_sources) == 1
    seen = Inspection(reading.layout, one_file=one_file, against=against, ngram=options.ngram)
    done: Counter[str] = Counter()
    blocked = _blocked(sources, eval_sources, reading, options)
    repeated: set[int] = set()
    nearest = 2.0
    held_out = not eval_sources and options.eval_fraction > 0
    capped = 0
    with (
        (folder / "repairs.jsonl").open("w", encoding="utf-8") as log,
        (records / "train.jsonl").open("w", encoding="utf-8", newline="\n") as train,
        (records / "eval.jsonl").open("w", encoding="utf-8", newline="\n") as held,
    ):
        for split, outcome in _each(sources, eval_sources, reading):
            outcome, taken = _take(outcome, split, reading, options, against, blocked, repeated, done, log)
            kept: dict[str, list[Taken]] = {"train": [], "eval": []}
            for one in taken:
                share = fraction(one.record)
                where = "eval" if split == "eval" or (held_out and share <= options.eval_fraction) else "train"
                if (
                    where == "train"
                    and options.max_rows is not None
                    and seen.splits["train"] + len(kept["train"]) >= options.max_rows
                ):
                    capped += 1
                    continue
                nearest = min(nearest, share) if where == "train" else nearest
                kept[where].append(one)
            for where, ones in kept.items():
                file = held if where == "eval" else train
                file.writelines(json_line(_line(one)) for one in ones)
            # the row is counted once, its records by split
            seen.observe(replace(outcome, records=[one.record for one in kept["train"]]), "train")
            if kept["eval"]:
                seen.observe(replace(outcome, records=[o.record for o in kept["eval"]], rows=0), "eval")
    if held_out and not seen.splits["eval"]:
        _hold_nearest(records, nearest, seen, reading.format)
    for file in (records / "eval.jsonl", folder / "repairs.jsonl"):
        if file.stat().st_size == 0:
            file.unlink()
    if capped:
        done["left out by max_rows"] = capped
    counts = {f"{split}_records": count for split, count in seen.splits.items()}
    return seen, {"rows_in": seen.rows_in, "rows_used": seen.rows_used, **counts}, done


def _each(
    sources: Sequence[Source], eval_sources: Sequence[Source], reading: Reading
) -> Iterator[tuple[str, Outcome]]:
    for outcome in read_outcomes(sources, reading):
        yield "train", outcome
    for outcome in read_outcomes(eval_sources, reading):
        yield "eval", outcome


def _take(
    outcome: Outcome,
    split: str,
    reading: Reading,
    options: Options,
    against: dict[str, np.ndarray],
    blocked: dict[str, set[int]],
    repeated: set[int],
    done: Counter[str],
    log: TextIO,
) -> tuple[Outcome, list[Taken]]:
    """The outcome's records that are kept, mended; every change is counted and written to the log."""
    taken: list[Taken] = []
    for position, record in enumerate(outcome.records):
        number = f".{position}" if len(outcome.records) > 1 else ""
        place = f"{outcome.file}:{outcome.row}{number}"
        try:
            mended, changes = mend(record, options.fix)
        except RecordError as error:
            mended, changes = record, []
            why: str | None = f"mended, {error.field} {error.why.split(' (')[0]}"
        else:
            why = unwanted(mended, options.drop)
        key = record_hash(mended)
        if why is None and "duplicates" in options.drop and key in repeated:
            why = "duplicates"
        if why is None and split == "train":
            why = next((name for name, hashes in blocked.items() if _blocks(name, mended, hashes)), None)
        if why is None and "overlap" in options.drop and against and overlaps(mended, against, options.ngram):
            why = "overlap"
        for change in changes:
            done[f"fix {change['fix']}"] += 1
            log.write(json_line({"id": place, **change}))
        if why is not None:
            done[f"left out: {why}"] += 1
            log.write(json_line({"id": place, "left_out": why, "record": record.to_row()}))
            continue
        repeated.add(key)
        taken.append(Taken(mended, place, _extra(outcome, reading)))
    return outcome, taken


def _line(taken: Taken) -> dict[str, Any]:
    return {**taken.record.to_row(), "id": taken.id, **taken.extra}


def _extra(outcome: Outcome, reading: Reading) -> dict[str, Any]:
    """What is kept beside a record: definitions of tools, and the share of annotators whose verdict a pair follows."""
    if isinstance(outcome.raw, dict) and (
        tools := {name: outcome.raw[name] for name in TOOLS if outcome.raw.get(name)}
    ):
        return tools
    if reading.layout != "annotators" or isinstance(outcome.raw, Unreadable):
        return {}
    verdict = JUDGED["annotators"](outcome.raw).verdicts[0]
    return {"agreement": round(verdict.votes.count(verdict.outcome) / len(verdict.votes), 4)}


def _blocked(
    sources: Sequence[Source], eval_sources: Sequence[Source], reading: Reading, options: Options
) -> dict[str, set[int]]:
    """What a first pass must know: answers that are contradicted, and prompts of eval."""
    blocked: dict[str, set[int]] = {}
    if "contradictions" in options.drop:
        met: dict[int, int] = {}
        against: set[int] = set()
        for outcome in read_outcomes(sources, reading):
            for record in outcome.records:
                turned, whole = pair_hash(record), record_hash(record)
                if met.setdefault(turned, whole) != whole:
                    against.add(turned)
        blocked["contradictions"] = against
    if "overlap" in options.drop and eval_sources:
        outcomes = read_outcomes(eval_sources, reading)
        blocked["overlap"] = {hash(prompt_key(record)) for outcome in outcomes for record in outcome.records}
    return blocked


def _blocks(name: str, record: Record, hashes: set[int]) -> bool:
    return (pair_hash(record) if name == "contradictions" else hash(prompt_key(record))) in hashes


def record_hash(record: Record) -> int:
    """The same for records that say the same, within a process."""
    return hash(json.dumps(record.to_row(), sort_keys=True))


def pair_hash(record: Record) -> int:
    """The same for a pair and the pair turned round, and for an answer with either label; within a process."""
    row = record.to_row()
    answers = sorted(json.dumps(row[side]) for side in ("completion", "chosen", "rejected") if side in row)
    return hash((prompt_key(record), *answers))


def overlaps(record: Record, against: dict[str, np.ndarray], ngram: int) -> bool:
    """Whether `record` shares `ngram` words in a row with a benchmark."""
    words = word_hashes("\n".join(flat(content) for content in sides_of(record).values()))
    grams = ngram_hashes(words, ngram)
    return any(np.isin(grams, known, kind="sort").any() for known in against.values())


def _hold_nearest(records: Path, nearest: float, seen: Inspection, format: str) -> None:
    """Where chance held nothing out of a small set, the prompt that came nearest is held out, if another is left."""
    lines = (records / "train.jsonl").read_text("utf-8").split("\n")[:-1]
    away = []
    for line in lines:
        away.append(fraction(LAYOUTS["trl"](json.loads(line), format)[0]) == nearest)
    if all(away):
        return
    for name, wanted in (("train", False), ("eval", True)):
        chosen = [line + "\n" for line, is_away in zip(lines, away, strict=True) if is_away == wanted]
        (records / f"{name}.jsonl").write_text("".join(chosen), "utf-8", newline="\n")
    for number, is_away in enumerate(away):
        seen.is_eval[number] = int(is_away)
    seen.splits = Counter({"train": len(away) - sum(away), "eval": sum(away)})

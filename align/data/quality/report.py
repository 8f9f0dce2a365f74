"""Builds the report from an inspection: all findings, the most severe first."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from align.data.conversions import REFERENCE, converts
from align.data.layouts.parse import TIE, Reading
from align.data.layouts.unread import ColumnUse
from align.data.quality.balance import judgement_findings, length_findings, score_findings
from align.data.quality.columns import column_findings, rated_answers
from align.data.quality.duplicates import duplicate_findings, split_findings
from align.data.quality.findings import SEVERITIES, Finding, Report
from align.data.quality.inspection import Inspection
from align.data.quality.rendered import token_findings
from align.data.quality.text_findings import language_findings, text_findings, turn_findings
from align.data.readers.files import Source
from align.data.readers.read import has_bom
from align.data.readers.workbooks import other_sheets
from align.data.record_texts import sides_of, spoken
from align.records import Record, UnpairedPreference, readable_json
from align.stages.spec import STAGES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SAMPLES = 4  # records shown in the report
SHOWN = 1200  # characters shown of a side


def judge(
    seen: Inspection,
    sources: Sequence[Source],
    reading: Reading,
    *,
    title: str,
    digests: dict[str, str],
    use: ColumnUse | None = None,
    importing: bool = False,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_length: int | None = None,
) -> Report:
    """The report on everything `seen`.

    Args:
        use: what became of the columns of the files, where rows were read from files.
        importing: a set is made of the rows and nobody has said of which format: a column that was not read and
            looks like a judgement or a part of the prompt is an error then.
        tokenizer, max_length: for the tokens of each record, and what would be cut.
    """
    findings: list[Finding] = []
    statistics: dict[str, Any] = {}
    histograms: dict[str, dict[str, Any]] = {}
    _refusals(seen, findings)
    _byte_order_marks(sources, findings)
    _other_sheets(sources, findings)
    duplicate_findings(seen, findings, statistics)
    split_findings(seen, findings)
    text_findings(seen, findings)
    judgement_findings(seen, findings, statistics)
    length_findings(seen, findings, statistics, histograms)
    score_findings(seen, findings, statistics, histograms)
    if tokenizer is not None:
        token_findings(seen, findings, statistics, histograms, tokenizer, max_length)
    language_findings(seen, findings, statistics)
    turn_findings(seen, findings, statistics)
    if use is not None:
        column_findings(use, findings, rows=seen.rows_in, chosen=not importing)
        rated_answers(use, seen, findings, chosen=not importing)
    records = len(seen.row)
    files = [
        {"name": source.name, "digest": digests[source.name], "rows": seen.file_rows[source.name]}
        for source in sources
    ]
    refused = {
        why: {"count": tally.count, "rows": tally.rows, "example": tally.examples[0][1] if tally.examples else ""}
        for why, tally in sorted(seen.refused.items(), key=lambda item: -item[1].count)
    }
    return Report(
        title=title,
        files=files,
        layout=reading.layout,
        recognised=reading.why,
        format=reading.format,
        kind=seen.kind,
        rows_in=seen.rows_in,
        rows_used=seen.rows_used,
        refused=refused,
        records=records,
        splits=dict(seen.splits),
        stages=_stages(reading.format, seen.kind, records),
        statistics=statistics,
        histograms=histograms,
        findings=sorted(findings, key=lambda one: (-SEVERITIES.index(one.severity), -one.share)),
        carried={"kept": dict(sorted(seen.columns.items())), "not_carried": dict(sorted(seen.not_carried.items()))},
        labels=use.labels.rows() if use is not None else [],
        read=use.read() if use is not None else {},
        unread=[column.to_json() for column in use.unread()] if use is not None else [],
        samples=[_sample(one) for one in random.Random(0).sample(seen.sample, min(SAMPLES, len(seen.sample)))],
    )


def _sample(record: Record) -> dict[str, str]:
    """A record's sides as a person reads them; an answer judged alone is named by its label."""
    told = {side: spoken(content)[:SHOWN] for side, content in sides_of(record).items()}
    if record.tools is not None:
        told["tools"] = readable_json(record.tools)[:SHOWN]
    if isinstance(record, UnpairedPreference):
        told["good" if record.label else "bad"] = told.pop("completion")
    return told


def _stages(format: str, kind: str | None, records: int) -> dict[str, str]:
    """What each stage would do with the set, given as `inputs.dataset`."""
    told = {}
    for stage, demands in STAGES.items():
        if not demands.formats:
            answers = format not in ("language_modeling", "prompt_only")
            told[stage] = f"scores the answers of its {records} records" if answers else "cannot read it: no answers"
            continue
        # what trains takes the set in place of its main data, what measures takes each kind by itself
        reads = demands.formats[:1] if demands.trainer_config else demands.formats
        need = next((other for other in reads if converts(format, other)), reads[0])
        joined = (format, need, kind) == ("prompt_completion", "language_modeling", "conversational")
        if format in reads:
            told[stage] = f"reads its {records} records"
        elif converts(format, need) and not joined:
            made = 2 * records if (format, need) == ("preference", "unpaired_preference") else records
            told[stage] = f"makes {made} {need} records of it"
            if (format, need) == ("prompt_completion", "prompt_only"):
                told[stage] += f", whose completions are their column {REFERENCE}"
        else:
            told[stage] = f"cannot read it: it needs {' or '.join(reads)}"
    return told


def _byte_order_marks(sources: Sequence[Source], findings: list[Finding]) -> None:
    marked = tuple(source.name for source in sources if source.path is not None and has_bom(source.path))
    if marked:
        message = "files that begin with a byte order mark, which is removed here; other programs may read it as text"
        findings.append(Finding("byte_order_mark", "info", len(marked), len(sources), message, rows=marked))


def _other_sheets(sources: Sequence[Source], findings: list[Finding]) -> None:
    books = {source.name: source for source in sources if source.path is not None and source.sheet is not None}
    others = {name: other_sheets(source.path, source.sheet) for name, source in books.items()}
    read = {(source.path, source.sheet) for source in books.values()}
    others = {
        name: [sheet for sheet in sheets if (books[name].path, sheet) not in read] for name, sheets in others.items()
    }
    if left := [f"{name}: {', '.join(sheets)}" for name, sheets in others.items() if sheets]:
        message = f"workbooks with other sheets that hold rows, which are not read ({'; '.join(left)})"
        findings.append(Finding("other_sheets", "info", len(left), len(sources), message))


def _refusals(seen: Inspection, findings: list[Finding]) -> None:
    ties = sum(tally.count for why, tally in seen.refused.items() if why == TIE)
    broken = [(why, tally) for why, tally in seen.refused.items() if why != TIE]
    count = sum(tally.count for _, tally in broken)
    if count:
        rows = tuple(place for _, tally in broken for place in tally.rows)[:50]
        examples = tuple(example for _, tally in broken for example in tally.examples)[:5]
        findings.append(
            Finding(
                "refused_rows",
                "error" if count > seen.rows_in / 2 else "warning",
                count,
                seen.rows_in,
                "rows that give no record: they are left out and counted by reason",
                "correct them in the source file, or say how to read them: --layout, --columns, --labels",
                rows,
                examples,
            )
        )
    if ties or seen.found["ties"].sides["pairs"]:
        tally = seen.found["ties"]
        message = f"{tally.sides['pairs']} judged pairs are ties and give no pair; {ties} rows hold only ties"
        verdicts = seen.found["verdicts"].count
        findings.append(Finding("ties", "info", tally.sides["pairs"], verdicts, message, rows=tuple(tally.rows)))

"""From what was seen to a report: the severities of findings are decided here and in `balance`, nowhere else."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align.config.schema import STAGES
from align.data.balance import judgement_findings, length_findings, score_findings, token_findings
from align.data.files import Source
from align.data.findings import Finding, Report
from align.data.inspection import LANGUAGE_SAMPLE, Inspection, Tally
from align.data.intake import Reading
from align.data.nearness import SIZE, near_groups
from align.records import converts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def judge(
    seen: Inspection,
    sources: Sequence[Source],
    reading: Reading,
    *,
    title: str,
    digests: dict[str, str],
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    max_length: int | None = None,
) -> Report:
    """The report on everything `seen`; with a tokenizer also tokens and what `max_length` would cut."""
    findings: list[Finding] = []
    statistics: dict[str, Any] = {}
    histograms: dict[str, dict[str, Any]] = {}
    _refusals(seen, findings)
    _duplicates(seen, findings, statistics)
    _splits(seen, findings)
    _texts(seen, findings)
    judgement_findings(seen, findings, statistics)
    length_findings(seen, findings, statistics, histograms)
    score_findings(seen, findings, statistics, histograms)
    if tokenizer is not None:
        token_findings(seen, findings, statistics, histograms, tokenizer, max_length)
    if seen.languages:
        if mixed_languages(seen.languages):
            main, count = seen.languages.most_common(1)[0]
            total = sum(seen.languages.values())
            message = f"sampled records that are not in the main language, {main} (a guess by script and common words)"
            findings.append(Finding("languages", "info", total - count - seen.languages["?"], total, message))
        top = dict(seen.languages.most_common(6))
        total = sum(seen.languages.values())
        statistics[f"languages (guessed, of {total})"] = {name: f"{count / total:.1%}" for name, count in top.items()}
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
        stages=_stages(reading.format, records),
        statistics=statistics,
        histograms=histograms,
        findings=sorted(findings, key=lambda one: ("error", "warning", "info").index(one.severity)),
    )


def _stages(format: str, records: int) -> dict[str, str]:
    told = {}
    for stage, demands in STAGES.items():
        if not demands.formats:
            continue
        need = demands.formats[0]
        if format == need:
            told[stage] = f"reads its {records} records"
        elif converts(format, need) and (format, need) != ("unpaired_preference", "prompt_completion"):
            made = 2 * records if (format, need) == ("preference", "unpaired_preference") else records
            told[stage] = f"makes {made} {need} records of it"
        else:
            told[stage] = f"cannot read it: it needs {need}"
    return told


def _find(tally: Tally, name: str, severity: str, of: int, message: str, remedy: str = "") -> Finding:
    sides = ", ".join(f"{side} {count}" for side, count in tally.sides.items())
    message += f" ({sides})" if sides else ""
    return Finding(name, severity, tally.count, of, message, remedy, tuple(tally.rows), tuple(tally.examples))


def _refusals(seen: Inspection, findings: list[Finding]) -> None:
    ties = sum(tally.count for why, tally in seen.refused.items() if why == "verdict is a tie")
    broken = [(why, tally) for why, tally in seen.refused.items() if why != "verdict is a tie"]
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
                "rows that give no record; they are left out, counted by reason",
                "mend them in the source, or name what they are: --layout, --columns, --labels",
                rows,
                examples,
            )
        )
    if ties or seen.found["ties"].sides["pairs"]:
        tally = seen.found["ties"]
        message = f"{tally.sides['pairs']} judged pairs are ties and are in no pair; {ties} rows hold nothing else"
        verdicts = seen.found["verdicts"].count
        findings.append(Finding("ties", "info", tally.sides["pairs"], verdicts, message, rows=tuple(tally.rows)))


def _duplicates(seen: Inspection, findings: list[Finding], statistics: dict[str, Any]) -> None:
    records = len(seen.row)
    if not records:
        return
    whole, pair, prompts = (np.frombuffer(one, np.uint64) for one in (seen.whole, seen.pair, seen.prompts))
    statistics["distinct prompts"] = len(np.unique(prompts))
    _, first, inverse, counts = np.unique(whole, return_index=True, return_inverse=True, return_counts=True)
    again = np.flatnonzero(np.arange(records) != first[inverse])
    if len(again):
        examples = tuple((seen.place(int(i)), f"the same as {seen.place(int(first[inverse[i]]))}") for i in again[:5])
        findings.append(
            Finding(
                "exact_duplicates",
                "warning",
                len(again),
                records,
                "records that repeat an earlier one word for word: they weigh double, and may lie on both sides of a "
                "split",
                "align data import --drop duplicates",
                tuple(seen.place(int(i)) for i in again[:50]),
                examples,
            )
        )
    _contradictions(seen, whole, pair, findings)
    unique = np.sort(np.unique(pair, return_index=True)[1])
    signatures = np.frombuffer(seen.signatures, np.uint32).reshape(-1, SIZE)[unique]
    groups = near_groups(signatures)
    if groups:
        members = [int(unique[i]) for group in groups for i in group[1:]]
        examples = tuple(
            (seen.place(int(unique[group[1]])), f"nearly {seen.place(int(unique[group[0]]))}, {len(group)} alike")
            for group in groups[:5]
        )
        share = len(members) / records
        findings.append(
            Finding(
                "near_duplicates",
                "warning" if share > 0.1 else "info",
                len(members),
                records,
                f"records that share 8 in 10 word triples with an earlier one, in {len(groups)} groups (MinHash)",
                "look at them; a set of templates teaches its templates",
                tuple(seen.place(i) for i in sorted(members)[:50]),
                examples,
            )
        )


def _contradictions(seen: Inspection, whole: np.ndarray, pair: np.ndarray, findings: list[Finding]) -> None:
    """The same pair with the sides turned round, or one answer that is both good and bad."""
    order = np.lexsort((whole, pair))
    same = (pair[order][1:] == pair[order][:-1]) & (whole[order][1:] != whole[order][:-1])
    if seen.labels or "chosen" in seen.side_lengths:
        against = [(int(order[i + 1]), int(order[i])) for i in np.flatnonzero(same)]
        if against:
            share = len(against) / len(whole)
            findings.append(
                Finding(
                    "contradictions",
                    "error" if share >= 0.01 else "warning",
                    len(against),
                    len(whole),
                    "records that say the opposite of another about the same answers",
                    "align data import --drop contradictions leaves out both",
                    tuple(seen.place(max(both)) for both in against[:50]),
                    tuple((seen.place(max(both)), f"against {seen.place(min(both))}") for both in against[:5]),
                )
            )


def _splits(seen: Inspection, findings: list[Finding]) -> None:
    is_eval = np.frombuffer(seen.is_eval, np.uint8).astype(bool)
    if is_eval.any() and not is_eval.all():
        prompts = np.frombuffer(seen.prompts, np.uint64)
        shared = np.flatnonzero(is_eval & np.isin(prompts, prompts[~is_eval]))
        if len(shared):
            findings.append(
                Finding(
                    "eval_overlap",
                    "error",
                    len(shared),
                    int(is_eval.sum()),
                    "eval records whose prompt is in train: the evaluation is no test of what is new",
                    "align data import without --eval holds out by prompt; or --drop overlap leaves them out of train",
                    tuple(seen.place(int(i)) for i in shared[:50]),
                )
            )
    for name in seen.against:
        tally = seen.found.get(f"benchmark {name}")
        if tally and tally.count:
            findings.append(
                _find(
                    tally,
                    f"overlap_{name}",
                    "error",
                    len(seen.row),
                    f"records that share {seen.ngram} words in a row with {name}: a score on it would be too high",
                    "align data import (or make) --against FILE --drop overlap leaves them out",
                )
            )


_TEXT_FINDINGS: tuple[tuple[str, str, str, str], ...] = (
    (
        "secrets",
        "error",
        "texts with what looks like a key or token: a model learns them by heart",
        "take them out: align data import --drop secrets",
    ),
    ("emails", "warning", "texts with e-mail addresses", "where they are people's: align data import --drop emails"),
    (
        "phones",
        "warning",
        "texts with what looks like a telephone number",
        "where they are people's: align data import --drop phones",
    ),
    (
        "turn_markers",
        "warning",
        "texts with a turn's marker inside: the model learns to write both sides, or a template breaks",
        "split such turns in the source, or leave the rows out: align data import --drop turn_markers",
    ),
    (
        "end_markers",
        "warning",
        "answers that end with an end-of-text marker: the template adds its own",
        "align data import --fix end_markers",
    ),
    ("control_characters", "warning", "texts with control or invisible characters", "align data import --fix control"),
    (
        "replacement_characters",
        "warning",
        "texts with U+FFFD: bytes were lost when the file was made",
        "make the file again from its source, reading it in its own encoding",
    ),
    (
        "mojibake",
        "warning",
        "texts with UTF-8 that was read as Windows-1252 (Ã© for é)",
        "align data import --fix mojibake",
    ),
    (
        "tools",
        "warning",
        "rows that say which tools there are: an import keeps that, but no stage hands it to the chat template",
        "write the tools into a system message where the model must know them",
    ),
    (
        "role_order",
        "warning",
        "conversations whose roles do not take turns: many templates refuse them",
        "align data import --drop role_order",
    ),
    ("prompt_in_answer", "warning", "answers that repeat the prompt word for word", ""),
    ("answer_in_prompt", "warning", "answers of 40 characters and more that stand in the prompt", ""),
    (
        "outer_space",
        "info",
        "answers that begin or end with white space: tokens differ from those without",
        "align data import --fix space",
    ),
)


def _texts(seen: Inspection, findings: list[Finding]) -> None:
    for name, severity, message, remedy in _TEXT_FINDINGS:
        tally = seen.found.get(name)
        if tally and tally.count:
            findings.append(_find(tally, name, severity, len(seen.row), message, remedy))
    refusals = seen.found.get("refusals")
    if refusals and refusals.count:
        findings.append(_find(refusals, "refusals", "info", len(seen.row), "answers that refuse, or speak as an AI"))
    if seen.answers >= 50 and seen.openings:
        opening, count = seen.openings.most_common(1)[0]
        if count > 0.05 * seen.answers:
            severity = "warning" if count > 0.2 * seen.answers else "info"
            message = f"answers that begin with the same words, {opening!r}"
            findings.append(Finding("boilerplate", severity, count, seen.answers, message))


def mixed_languages(languages: Counter[str]) -> bool:
    """Whether a tenth or more of the sample is not in its main language."""
    total = sum(languages.values())
    return total >= 20 and total - languages.most_common(1)[0][1] - languages["?"] > 0.1 * min(total, LANGUAGE_SAMPLE)

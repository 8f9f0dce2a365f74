"""From what was seen to a report: every finding's severity is decided here, and nowhere else."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from align.config.schema import STAGES
from align.data.agreement import auc, krippendorff_alpha, pairwise_agreement, wilson
from align.data.findings import Finding, Report
from align.data.inspection import LANGUAGE_SAMPLE, Inspection, Tally
from align.data.intake import Reading, Source
from align.data.nearness import SIZE, near_groups
from align.data.rendering import render, render_prompt
from align.records import Preference, Prompt, Text, converts

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
    _judgements(seen, findings, statistics)
    _lengths(seen, findings, statistics, histograms)
    if tokenizer is not None:
        _tokens(seen, findings, statistics, histograms, tokenizer, max_length)
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


def _judgements(seen: Inspection, findings: list[Finding], statistics: dict[str, Any]) -> None:
    shown = seen.positions[1] + seen.positions[2]
    if shown:
        low, high = wilson(seen.positions[1], shown)
        share = seen.positions[1] / shown
        statistics["first answer is better"] = f"{share:.1%} of {shown} verdicts [{low:.1%}, {high:.1%}]"
        if shown >= 30 and not low <= 0.5 <= high and abs(share - 0.5) > 0.05:
            findings.append(
                Finding(
                    "position_bias",
                    "warning",
                    max(seen.positions[1], seen.positions[2]),
                    shown,
                    f"verdicts go to the {'first' if share > 0.5 else 'second'} answer: were they shown in random "
                    "order?",
                    "ask the annotators in both orders; pairs themselves carry no order",
                )
            )
    if seen.votes:
        alpha, agreed = krippendorff_alpha(seen.votes), pairwise_agreement(seen.votes)
        unanimous = sum(len(set(unit)) == 1 for unit in seen.votes) / len(seen.votes)
        statistics["annotators"] = {
            "rows": len(seen.votes),
            "two agree": f"{agreed:.1%}",
            "all agree": f"{unanimous:.1%}",
            "Krippendorff's alpha": "undefined" if alpha is None else alpha,
        }
        if alpha is not None and alpha < 0.4:
            count = sum(len(set(unit)) > 1 for unit in seen.votes)
            message = f"rows on which annotators differ; alpha is {alpha:.2f}, and below 0.4 labels are mostly taste"
            findings.append(Finding("agreement", "warning", count, len(seen.votes), message))
    if seen.labels:
        good, bad = seen.labels[True], seen.labels[False]
        statistics["labels"] = {"good": good, "bad": bad, **kto_weights(good, bad)}
        total = good + bad
        if min(good, bad) * 4 < max(good, bad):
            weights = kto_weights(good, bad)
            remedy = " ".join(f"trainer.{name}={value:.3g}" for name, value in weights.items())
            message = "of one label: outnumbered so, the other is hardly learnt"
            findings.append(Finding("label_balance", "warning", max(good, bad), total, message, f"stage=kto {remedy}"))
    if seen.margins:
        statistics["margins"] = f"{seen.margins} of {len(seen.row)} pairs: stage reward asks for that much difference"


def kto_weights(good: int, bad: int) -> dict[str, float]:
    """Weights that bring good x weight : bad x weight to 1:1 (KTO wants it from 1:1 to 4:3), the larger label's 1."""
    if not good or not bad:
        return {}
    return {"desirable_weight": max(1.0, bad / good), "undesirable_weight": max(1.0, good / bad)}


def _lengths(
    seen: Inspection, findings: list[Finding], statistics: dict[str, Any], histograms: dict[str, dict[str, Any]]
) -> None:
    sides = {side: seen.lengths(side) for side in seen.side_lengths}
    for side, lengths in sides.items():
        low, middle, high = (float(np.percentile(lengths, part)) for part in (5, 50, 95))
        told = {"median": round(middle), "5% below": round(low), "95% below": round(high), "longest": lengths.max()}
        statistics[f"{side} characters"] = {name: int(value) for name, value in told.items()}
    if sides:
        histograms["Characters a side"] = _histogram(sides)
    chosen, rejected = sides.get("chosen"), sides.get("rejected")
    if chosen is None or rejected is None:
        return
    longer, equal, pairs = int((chosen > rejected).sum()), int((chosen == rejected).sum()), len(chosen)
    accuracy = (longer + equal / 2) / pairs
    low, high = wilson(longer + equal / 2, pairs)
    difference = chosen.astype(np.int64) - rejected.astype(np.int64)
    statistics["chosen is longer"] = f"{longer / pairs:.1%} of {pairs} pairs, equal {equal}"
    told, interval = (accuracy, (low, high)) if accuracy >= 0.5 else (1 - accuracy, (1 - high, 1 - low))
    statistics["length alone tells"] = (
        f"{told:.1%} of pairs [{interval[0]:.1%}, {interval[1]:.1%}], AUC {auc(chosen, rejected):.3f}"
    )
    edge = max(10, int(np.percentile(np.abs(difference), 98)))
    clipped = np.clip(difference, -edge, edge)
    counts, edges = np.histogram(clipped, bins=np.linspace(-edge, edge, 41))
    histograms["Chosen minus rejected, characters"] = {
        "edges": [round(float(one)) for one in edges],
        "series": {"pairs": counts.tolist()},
    }
    if pairs >= 50 and abs(accuracy - 0.5) >= 0.1 and not low <= 0.5 <= high:
        side = "longer" if accuracy > 0.5 else "shorter"
        findings.append(
            Finding(
                "length_bias",
                "warning",
                round(max(accuracy, 1 - accuracy) * pairs),
                pairs,
                f"pairs in which the {side} answer is chosen: a reward model can learn length instead of quality",
                "compare a reward model's accuracy with this share; balance lengths, or use a length penalty",
            )
        )


def _tokens(
    seen: Inspection,
    findings: list[Finding],
    statistics: dict[str, Any],
    histograms: dict[str, dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
) -> None:
    """Tokens a side on the sample, and what `max_length` would cut."""
    sides: dict[str, list[int]] = {}
    over = no_room = 0
    for record in seen.sample:
        lengths = side_tokens(record, tokenizer)
        for side, tokens in lengths.items():
            sides.setdefault(side, []).append(tokens)
        answers = [tokens for side, tokens in lengths.items() if side != "prompt"]
        prompt = lengths.get("prompt", 0)
        if max_length is not None:
            over += prompt + max(answers, default=0) > max_length
            no_room += bool(answers) and prompt >= max_length and not isinstance(record, Text)
    arrays = {side: np.array(tokens) for side, tokens in sides.items()}
    for side, tokens in arrays.items():
        statistics[f"{side} tokens (of {len(tokens)})"] = {
            "median": int(np.median(tokens)),
            "95% below": int(np.percentile(tokens, 95)),
            "longest": int(tokens.max()),
        }
    if arrays:
        histograms["Tokens a side"] = _histogram(arrays)
    if max_length is not None and over:
        message = f"sampled records are longer than max_length {max_length}; {no_room} leave no room for an answer"
        remedy = "raise trainer.max_length, or data.overlong=drop leaves them out (refuse and truncate are the others)"
        findings.append(Finding("truncation", "warning", over, len(seen.sample), message, remedy))


def side_tokens(record: Any, tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Tokens of the prompt and of each answer as a trainer sees them, or of the text."""
    if isinstance(record, Text):
        if isinstance(record.content, str):
            return {"text": len(tokenizer(record.content)["input_ids"]) + 1}
        return {"text": len(tokenizer.apply_chat_template(record.content, return_dict=True)["input_ids"])}
    if isinstance(record, Prompt):
        return {"prompt": len(render_prompt(tokenizer, record.prompt))}
    answers = (
        {"chosen": record.chosen, "rejected": record.rejected}
        if isinstance(record, Preference)
        else {"completion": record.completion}
    )
    rendered = {side: render(tokenizer, record.prompt, answer) for side, answer in answers.items()}
    prompt = max(len(ids) for ids, _ in rendered.values())
    return {"prompt": prompt, **{side: len(ids) for side, (_, ids) in rendered.items()}}


def _histogram(sides: dict[str, np.ndarray], bins: int = 40) -> dict[str, Any]:
    """Counts over edges that the sides share; what is beyond the 99th percentile is in the last bin."""
    top = max(10.0, max(float(np.percentile(lengths, 99)) for lengths in sides.values()))
    edges = np.linspace(0, top, bins + 1)
    series = {side: np.histogram(np.minimum(lengths, top), bins=edges)[0].tolist() for side, lengths in sides.items()}
    return {"edges": [round(float(one)) for one in edges], "series": series}


def mixed_languages(languages: Counter[str]) -> bool:
    """Whether a tenth or more of the sample is not in its main language."""
    total = sum(languages.values())
    return total >= 20 and total - languages.most_common(1)[0][1] - languages["?"] > 0.1 * min(total, LANGUAGE_SAMPLE)

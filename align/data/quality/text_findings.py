"""Findings about the text itself: markers, secrets, addresses, boilerplate, languages."""

from collections import Counter
from typing import Any

from align.data.layouts.omissions import REMARKS
from align.data.quality.findings import Finding, find
from align.data.quality.inspection import LANGUAGE_SAMPLE, Inspection

_TEXT_FINDINGS: tuple[tuple[str, str, str, str], ...] = (
    (
        "secrets",
        "error",
        "texts with what looks like a key or token, which a model may memorise and repeat",
        "remove them, and revoke the keys",
    ),
    ("emails", "warning", "texts with e-mail addresses", "check whether they belong to real people"),
    (
        "phones",
        "warning",
        "texts with what looks like a telephone number",
        "check whether they belong to real people",
    ),
    (
        "identity_numbers",
        "warning",
        "texts with what looks like a personal identity number",
        "remove them, or replace them with invented numbers",
    ),
    (
        "turn_markers",
        "warning",
        "texts with a turn marker inside: the model learns to write both sides, or the chat template breaks",
        "split such turns in the source file, or leave the rows out",
    ),
    (
        "end_markers",
        "warning",
        "answers that end with an end-of-text marker, which the template adds itself",
        "",
    ),
    ("control_characters", "warning", "texts with control or invisible characters", ""),
    (
        "replacement_characters",
        "warning",
        "texts with U+FFFD: characters were lost when the file was written",
        "create the file again from its source, read in the right encoding",
    ),
    (
        "mojibake",
        "warning",
        "texts with UTF-8 that was read as Windows-1252 (Ã© for é)",
        "",
    ),
    (
        "tools",
        "info",
        "records with tools or tool calls: they need a chat template that renders them, and ppo, rloo and grpo refuse "
        "such prompts",
        "",
    ),
    (
        "role_order",
        "warning",
        "conversations whose roles do not alternate, which many templates refuse",
        "",
    ),
    ("prompt_in_answer", "warning", "answers that repeat the prompt word for word", ""),
    ("answer_in_prompt", "warning", "answers of some length that already appear in the prompt", ""),
    (
        "line_ends",
        "info",
        "texts with lines that end in CR LF, U+0085, U+2028 or U+2029: their tokens differ from those of a line feed, "
        "and programs that split lines there break the file",
        "",
    ),
    (
        "outer_space",
        "info",
        "answers that begin or end with white space, which changes their tokens",
        "",
    ),
)


def text_findings(seen: Inspection, findings: list[Finding]) -> None:
    for name, severity, message, remedy in _TEXT_FINDINGS:
        tally = seen.found.get(name)
        if tally and tally.count:
            findings.append(find(tally, name, severity, len(seen.row), message, remedy))
    for name, remark in REMARKS.items():
        if (tally := seen.found.get(name)) and tally.count:
            findings.append(find(tally, name, remark.severity, seen.rows_in, remark.message))
    refusals = seen.found.get("refusals")
    if refusals and refusals.count:
        findings.append(
            find(refusals, "refusals", "info", len(seen.row), "answers that refuse, or say they are an AI")
        )
    if seen.answers >= 50 and seen.openings:
        opening, count = seen.openings.most_common(1)[0]
        if count > 0.05 * seen.answers:
            severity = "warning" if count > 0.2 * seen.answers else "info"
            message = f"answers that begin with the same words, {opening!r}"
            findings.append(Finding("boilerplate", severity, count, seen.answers, message))


def turn_findings(seen: Inspection, findings: list[Finding], statistics: dict[str, Any]) -> None:
    """How many messages a prompt has, and answers in it that sft would not learn."""
    total = sum(seen.turns.values())
    if not total:
        return
    name = "messages before the answer" if "text" not in seen.side_lengths else "messages"
    statistics[name] = {span: f"{times / total:.1%}" for span, times in _spans(seen.turns).items()}
    if seen.earlier and "completion" in seen.side_lengths and not seen.labels:
        message = "conversations with several assistant answers, of which sft learns only the last"
        remedy = "to learn all of them: stage=sft experiment=every_turn"
        findings.append(Finding("earlier_answers", "info", seen.earlier, total, message, remedy))


def _spans(turns: Counter[int]) -> dict[str, int]:
    """How often each number of messages is there; where there are many numbers, from 7 on by spans."""
    if len(turns) <= 12:
        return {str(count): times for count, times in sorted(turns.items())}
    spans = {(count, count): 0 for count in range(7)} | {(7, 10): 0, (11, 20): 0, (21, 50): 0, (51, max(turns)): 0}
    for count, times in turns.items():
        spans[next(span for span in spans if span[0] <= count <= span[1])] += times
    return {str(low) if low == high else f"{low}-{high}": times for (low, high), times in spans.items() if times}


def mixed_languages(languages: Counter[str]) -> bool:
    """Whether a tenth or more of the sample is not in its main language."""
    total = sum(languages.values())
    return total >= 20 and total - languages.most_common(1)[0][1] - languages["?"] > 0.1 * min(total, LANGUAGE_SAMPLE)


def language_findings(seen: Inspection, findings: list[Finding], statistics: dict[str, Any]) -> None:
    """Which languages the sample is in (a guess), and whether they are mixed."""
    if not seen.languages:
        return
    if mixed_languages(seen.languages):
        main, count = seen.languages.most_common(1)[0]
        total = sum(seen.languages.values())
        message = f"sampled records that are not in the main language, {main} (a guess by script and common words)"
        findings.append(Finding("languages", "info", total - count - seen.languages["?"], total, message))
    top = dict(seen.languages.most_common(6))
    total = sum(seen.languages.values())
    statistics[f"languages (guessed, of {total})"] = {name: f"{count / total:.1%}" for name, count in top.items()}

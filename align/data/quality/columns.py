"""Findings about columns that the records were not made of, and about scores of answers that are to be imitated."""

from align.data.layouts.columns import canonical
from align.data.layouts.labels import answer_choices, labels_option
from align.data.layouts.unread import Column, ColumnUse
from align.data.layouts.verdicts import SELECTORS
from align.data.quality.findings import Finding
from align.data.quality.inspection import Inspection

FIELD = {
    "a chosen or rejected answer": "rejected",
    "a label": "label",
    "a score": "score",
    "earlier turns": "history",
    "a system prompt": "system",
    "tools": "tools",
    "a part of the prompt": "context",
}
"""What a column looks like -> the field that `--columns` would name for it."""


def column_findings(use: ColumnUse, findings: list[Finding], *, rows: int, chosen: bool) -> None:
    """One finding for all columns that were not read and look as if they should have been.

    Args:
        use: what became of the columns.
        findings: the report's, added to.
        rows: rows in.
        chosen: the format was asked for with `--as`, so that what it leaves out is left out knowingly.
    """
    columns = [column for column in use.unread() if column.looks_like]
    if not columns:
        return
    columns.sort(key=lambda column: (not _selects(column), not column.few_values, -column.rows))
    named = "; ".join(f"{column.name} {column.seems} ({column.rows} rows)" for column in columns[:8])
    more = f" and {len(columns) - 8} more" if len(columns) > 8 else ""
    options = _options(columns[0], use)
    findings.append(
        Finding(
            "unread_columns",
            "warning" if chosen else "error",
            max(column.rows for column in columns),
            rows,
            f"columns that no record was made of: {named}{more}",
            f"{f'say what they hold: {options}; or ' if options else ''}say that they are left out: --as "
            f"{use.reading.format}",
        )
    )


def rated_answers(use: ColumnUse, seen: Inspection, findings: list[Finding], *, chosen: bool) -> None:
    """The finding that answers with different scores are all demonstrations.

    `chosen` as for `column_findings`; who maps a column to `score` has chosen too.
    """
    chosen = chosen or "score" in use.reading.names.columns
    scores = seen.scores.get("completion")
    columns = {label["column"] for label in use.labels.rows()}
    if use.reading.format != "prompt_completion" or not scores or not columns or min(scores) == max(scores):
        return
    column = min(columns)
    findings.append(
        Finding(
            "rated_answers",
            "warning" if chosen else "error",
            len(scores),
            len(seen.row),
            f"answers with a {column} from {min(scores):g} to {max(scores):g}, all read as demonstrations: sft would "
            "imitate the worst ones too",
            f"say which values are good: --labels {min(scores):g}=bad,{max(scores):g}=good and so on; or import with "
            "--as prompt_completion and choose with align data make --min-score, or --as preference --by score",
        )
    )


def _selects(column: Column) -> bool:
    return not SELECTORS.isdisjoint(canonical(column.name).split("_"))


def _options(column: Column, use: ColumnUse) -> str:
    """The options that would make a layout read the column; empty where none would."""
    field = FIELD.get(column.looks_like or "")
    if field is None or "." in column.name:
        return ""
    judged = use.reading.format == "preference" and use.reading.layout != "two_outputs"
    if field in ("label", "score", "rejected") and (judged or use.reading.format == "language_modeling"):
        return ""
    if field == "label" and use.reading.layout == "two_outputs" and _selects(column):
        field = "better_response_id"
    if field == "label" and use.reading.format == "prompt_completion" and column.few_values:
        columns = "" if canonical(column.name) in ("label", "kto_tag") else f"--columns label={column.name} "
        return " or ".join(f"{columns}{labels_option(choice)}" for choice in answer_choices(column.few_values))
    return "" if canonical(column.name) == field else f"--columns {field}={column.name}"

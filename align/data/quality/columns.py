"""The finding about columns that the records were not made of."""

from align.data.layouts.labels import answer_choices
from align.data.layouts.unread import Column, ColumnUse
from align.data.quality.findings import Finding

FIELD = {
    "a rejected answer": "rejected",
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
    columns.sort(key=lambda column: (not column.few_values, -column.rows))
    named = "; ".join(f"{column.name} {column.seems} ({column.rows} rows)" for column in columns[:8])
    more = f" and {len(columns) - 8} more" if len(columns) > 8 else ""
    findings.append(
        Finding(
            "unread_columns",
            "warning" if chosen else "error",
            max(column.rows for column in columns),
            rows,
            f"columns that no record was made of: {named}{more}",
            f"say what they hold: {_options(columns[0], use)}; or say that they are left out: --as "
            f"{use.reading.format}",
        )
    )


def _options(column: Column, use: ColumnUse) -> str:
    """The options that would make a layout read the column."""
    field = FIELD.get(column.looks_like or "")
    columns = "" if field is None else f"--columns {field}={column.name}"
    if field == "label" and use.reading.format == "prompt_completion" and column.few_values:
        columns = "" if column.name in ("label", "kto_tag") else f"{columns} "
        return " or ".join(f"{columns}--labels {choice}" for choice in answer_choices(column.few_values))
    return columns or "--columns or --layout (align data rules)"

"""Comparisons as a file: a prompt and its answers a line, what stage sample writes and a review campaign takes."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from align.data.loading.tables import json_line
from align.errors import UserError
from align.records import Comparison, RecordError

COMPARISONS_FILE = "comparisons.jsonl"
MOST_ROWS = 1_000_000


def read_comparisons(lines: Iterable[str | bytes], where: str) -> Iterator[tuple[Comparison, dict[str, Any]]]:
    """Each line's comparison, and the line itself.

    Raises:
        UserError: names the line and what is wrong with it.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if number > MOST_ROWS:
            raise UserError(f"{where} has more than {MOST_ROWS} lines; load it in parts")
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise RecordError("the line", "is no JSON object")
            yield Comparison.from_row(row), row
        except RecordError as error:
            raise UserError(f"{where}, line {number}: {error}; correct it") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}, line {number} is not JSON ({error}); correct it") from None


def write_comparisons(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as `Comparison.to_row` gives them, with what else is known of each."""
    with (folder / COMPARISONS_FILE).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json_line(row) for row in rows)

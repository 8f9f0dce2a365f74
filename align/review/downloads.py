"""A campaign's ratings as a file: CSV for spreadsheets, JSONL for programs, Parquet for both."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from align.review.store.ratings import Rating

_RATING = ("event", "item", "rater", "kind", "verdict", "answers", "reason", "flag", "flipped", "milliseconds", "at")
_ITEM = ("model_a", "model_b", "arm")
COLUMNS = (*_RATING, *_ITEM)
_SEPARATORS = ";\t\r\n"
# What may be cut off, as a whole, and the sign behind it: each character is looked at once.
_BEGIN = re.compile(r"""(^[\s"';]*|[\s"';]+)([=+\-@|%＝＋－＠]?)""")  # Excel reads the wide signs too
MEDIA = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}


def to_file(standing: Iterable[Rating], items: Mapping[int, Any], kind: str) -> bytes:
    """The ratings as `kind`: csv, jsonl or parquet. Raters are pseudonyms in all three.

    Args:
        items: an item's number -> what has its models and its arm.
    """
    rows = [
        {name: getattr(rating, name) for name in _RATING}
        | {name: getattr(items[rating.item_id], name) for name in _ITEM}
        for rating in standing
    ]
    return {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}[kind](rows)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180; and only so is a lone \\r quoted
    writer.writerow(COLUMNS)
    for row in rows:
        row = {**row, "answers": json.dumps(row["answers"], ensure_ascii=False)}
        writer.writerow([_plain(row[name]) for name in COLUMNS])
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before what would begin one (OWASP).

    A spreadsheet whose lists are separated by semicolons cuts the line at those, and so at semicolons, tabs and line
    ends inside a cell: each is where a formula could begin.
    """
    if not isinstance(value, str):
        return value
    text = _BEGIN.sub(_quoted, value)
    return "'" + text if text.startswith(("\t", "\r", "\n")) else text


def _quoted(found: re.Match[str]) -> str:
    """The beginning of a cell, or of what may become one, with an apostrophe before a sign."""
    before, sign = found.groups()
    begins = found.start() == 0 or any(separator in before for separator in _SEPARATORS)
    return f"{before}'{sign}" if sign and begins else found[0]


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    kinds = [pa.int64(), *[pa.string()] * 6, pa.bool_(), pa.bool_(), pa.int64(), pa.float64(), *[pa.string()] * 3]
    schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
    rows = [{**row, "answers": json.dumps(row["answers"], ensure_ascii=False)} for row in rows]
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), out)
    return out.getvalue()

"""From a data source to checked records, and from records to what a trainer takes.

Rows in = records + rows refused + records held out + records over the cap (where a row gives one record): nothing is
dropped without being counted and named.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.data.formats import LAYOUTS, rename
from align.data.readers import Row, Unreadable
from align.data.sources import DatasetSource, check, digest, open_rows, pinned
from align.errors import UserError
from align.records import FIELDS, NoConversion, Record, RecordError, convert, kind, prompt_key

if TYPE_CHECKING:
    import datasets

__all__ = [
    "DatasetSource",
    "Loaded",
    "Refusal",
    "digest",
    "load_artifact",
    "load_records",
    "pinned",
    "to_dataset",
    "write_jsonl",
]


@dataclass(frozen=True)
class Refusal:
    """A row that gave no record, and why."""

    file: str
    row: int
    field: str | None
    why: str

    def __str__(self) -> str:
        line = f" (line {self.row + 1})" if self.file.endswith(".jsonl") else ""
        return f"{self.file}: row {self.row}{line}: {f'{self.field} ' if self.field else ''}{self.why}"


@dataclass(frozen=True)
class Loaded:
    """One split's records, and what became of every row that was read for it."""

    records: list[Record]
    format: str
    file: str
    rows_in: int
    refused: list[Refusal]
    held_out: int = 0  # records that belong to the other split
    over_cap: int = 0  # records after the first max_rows
    converted_from: str | None = None  # the file's own format, where it is another

    def summary(self) -> str:
        parts = [f"{self.file}: {self.rows_in} rows, {len(self.records)} {self.format} records"]
        parts += [f"made from {self.converted_from}"] if self.converted_from else []
        parts += [f"{self.held_out} in the other split"] if self.held_out else []
        parts += [f"{self.over_cap} left out by max_rows"] if self.over_cap else []
        if self.refused:
            shown_rows = ", ".join(
                f"{refusal.row} ({refusal.field or 'row'} {refusal.why})" for refusal in self.refused[:3]
            )
            parts.append(f"{len(self.refused)} rows refused: {shown_rows}{', ...' if len(self.refused) > 3 else ''}")
        return ", ".join(parts)


def load_records(
    source: DatasetSource,
    format: str,
    split: str,
    *,
    root: Path,
    on_bad_rows: str = "refuse",
    stage: str | None = None,
) -> Loaded:
    """The records of `split` (`train` or `eval`), in TRL's `format`.

    `root` is the project's folder, where a relative file is looked for that is not under the working directory.
    `on_bad_rows`: `refuse` (a UserError names the first malformed row and counts the rest) or `skip` (they are in
    `Loaded.refused`). `stage` is only for the messages. Raises UserError where there is nothing sound to load.
    """
    if on_bad_rows not in ("refuse", "skip"):
        raise UserError(f"data.on_bad_rows is {on_bad_rows!r}: write refuse or skip")
    check(source, format)
    from_train = split == "train" or source.eval is None
    name, rows = open_rows(source, format, "train" if from_train else "eval", root)
    records, refused, rows_in, held = _convert(rows, name, source, format, stage)
    if refused and on_bad_rows == "refuse":
        raise UserError(_refusal_sentence(refused, source, format, found_any=bool(records)))
    if not records:
        why = f"all {rows_in} rows are malformed, the first: {refused[0]}" if refused else "it holds no rows"
        raise UserError(f"{name}: nothing to load for data.{format}, {why}")
    total = len(records)
    if source.eval is None:
        keys = [fraction(record) for record in records]
        # where chance holds nothing out of a small file, the prompt that came nearest is
        limit = max(source.eval_fraction, min(keys)) if source.eval_fraction > 0 else -1.0
        records = [r for r, key in zip(records, keys, strict=True) if (key <= limit) == (split == "eval")]
        if not records:
            raise UserError(
                f"{name}: {split} is empty: data.{format}.eval is null and eval_fraction {source.eval_fraction} of "
                f"its prompts left none; name a file (or split) in data.{format}.eval or change eval_fraction"
            )
    kept = records[: source.max_rows] if split == "train" else records
    return Loaded(
        records=kept,
        format=format,
        file=name,
        rows_in=rows_in,
        refused=refused,
        held_out=total - len(records),
        over_cap=len(records) - len(kept),
        converted_from=", ".join(sorted(held - {format})) or None,
    )


def load_artifact(path: Path, format: str, split: str, **options: Any) -> Loaded:
    """The records of a dataset artifact: `records/<split>.jsonl` in `path`, else held out of train by prompt."""
    files = {name: f"{name}.jsonl" for name in ("train", "eval") if (path / "records" / f"{name}.jsonl").is_file()}
    return load_records(DatasetSource(source=str(path / "records"), **files), format, split, root=path, **options)


def to_dataset(records: Sequence[Record]) -> "datasets.Dataset":
    """A `datasets.Dataset` with TRL's columns only. Raises UserError where only some preferences have a margin."""
    import datasets

    rows = [record.to_row() for record in records]
    columns = set().union(*rows) if rows else set()
    for column in sorted(columns):
        lacking = next((number for number, row in enumerate(rows) if column not in row), None)
        if lacking is not None:
            raise UserError(f"record {lacking} has no {column}, others have: give it to every row or to none")
    return datasets.Dataset.from_list(rows)


def write_jsonl(records: Iterable[Record], path: Path) -> None:
    """One JSON object a line, UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json_line(record.to_row()) for record in records)


def json_line(row: dict[str, Any]) -> str:
    """A row as one line of JSON; what other readers take for a line's end is escaped."""
    line = json.dumps(row, ensure_ascii=False)
    for character in "\x85\u2028\u2029":
        line = line.replace(character, f"\\u{ord(character):04x}")
    return line + "\n"


def _convert(
    rows: Iterable[tuple[int, Row]], name: str, source: DatasetSource, format: str, stage: str | None
) -> tuple[list[Record], list[Refusal], int, set[str]]:
    """Records, refusals, the number of rows, and the formats that the rows held."""
    layout = LAYOUTS[source.layout]
    records: list[Record] = []
    refused: list[Refusal] = []
    held: set[str] = set()
    foreign: NoConversion | None = None
    chats = False
    rows_in, first_kind, first_row = 0, None, -1
    for row_number, row in rows:
        rows_in += 1
        if isinstance(row, Unreadable):
            refused.append(Refusal(name, row_number, None, row.why))
            continue
        try:
            found = layout(rename(row, source.columns), format)
            made = [record for one in found for record in convert(one, format)]
        except RecordError as error:
            refused.append(Refusal(name, row_number, error.field, error.why))
            continue
        except NoConversion as error:
            foreign, chats = foreign or error, kind(found[0]) == "conversational"
            refused.append(Refusal(name, row_number, None, f"is {error.have}, which does not become {format}"))
            continue
        if first_kind is None:
            first_kind, first_row = kind(made[0]), row_number
        if kind(made[0]) != first_kind:
            why = f"is {kind(made[0])}, row {first_row} is {first_kind}: one kind a file"
            refused.append(Refusal(name, row_number, FIELDS[format][0], why))
            continue
        held.update(record.format for record in found)
        records += made
    if foreign is not None and not records:
        need = f"stage {stage} needs {format}" if stage else f"data.{format} needs {format}"
        fields, hint = FIELDS[foreign.have], ""
        if foreign.have == "language_modeling" and chats:
            fields, hint = ("messages",), f"; to learn their last answer set data.{format}.layout=messages"
        raise UserError(
            f"{name} holds {foreign.have} rows (fields {', '.join(fields)}); {need} "
            f"(fields {', '.join(FIELDS[format])}){hint}"
        )
    return records, refused, rows_in, held


def _refusal_sentence(refused: Sequence[Refusal], source: DatasetSource, format: str, found_any: bool) -> str:
    more = ""
    if len(refused) > 1:
        rows = ", ".join(str(refusal.row) for refusal in refused[1:9])
        more = f"; {len(refused) - 1} more are malformed (rows {rows}{', ...' if len(refused) > 9 else ''})"
    remedy = "mend them, or set data.on_bad_rows=skip to go on without them and have them listed"
    if not found_any:
        remedy = (
            f"no row of it can be used: check data.{format}.layout ({source.layout}; there are {', '.join(LAYOUTS)}) "
            f"and data.{format}.columns ({{our field: their column}})"
        )
    return f"{refused[0]}{more}; {remedy}"


def fraction(record: Record) -> float:
    """A number in [0, 1) that depends on nothing but the prompt: those below `eval_fraction` are held out."""
    hashed = hashlib.sha256(prompt_key(record).encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64

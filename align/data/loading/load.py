"""From a data source to checked records.

Rows in = records + rows refused + records held out + records left out, by a rule or over the cap (where a row gives
one record): nothing is dropped without being counted and named.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from align.artifacts.inputs import is_commit, parse_hub
from align.data.chats import Chats
from align.data.layouts.carried import describe_columns, settle_columns
from align.data.layouts.detect import UndefinedLabels
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.labels import label_lines
from align.data.layouts.mapping import MappingError
from align.data.layouts.parse import TIE, Reading, Refusal, read_outcomes, reason
from align.data.layouts.recognition import check_mapping, recognise_source
from align.data.layouts.unread import ColumnUse
from align.data.loading.record_file import choose, keep
from align.data.loading.sources import AUTO, DatasetSource, check, source_of
from align.data.quality.filters import Admission, blocked
from align.data.quality.repairs import DROPS, FIXES, check_names
from align.data.readers.files import Source
from align.data.record_texts import fraction
from align.errors import UserError
from align.records import FIELDS, Record, columns_of, kind

_REMEMBERED = 8  # files whose rows this process has read last
_reads: dict[str, "_Read"] = {}


@dataclass(frozen=True)
class Loaded:
    """One split's records, and what became of every row that was read for it."""

    records: Sequence[Record]
    format: str
    file: str
    rows_in: int
    refused: list[Refusal]
    held_out: int = 0  # records that belong to the other split
    over_cap: int = 0  # records after the first max_rows
    converted_from: str | None = None  # the file's own format, where it is another
    layout: str = "trl"  # how rows were read
    repairs: dict[str, int] = field(default_factory=dict)  # `fix NAME`, `left out: REASON` -> how often
    columns: list[str] = field(default_factory=list)  # how labels were read, and what was not read: a line each
    not_carried: dict[str, str] = field(default_factory=dict)  # column that was not read and no record keeps -> why

    @property
    def carried(self) -> list[str]:
        """The columns that the records have."""
        return sorted({name for record in self.records for name in columns_of(record)})

    def summary(self) -> str:
        parts = [f"{self.file}: {self.rows_in} rows, {len(self.records)} {self.format} records"]
        parts += [f"made from {self.converted_from}"] if self.converted_from else []
        parts += [f"read as {self.layout}"] if self.layout != "trl" else []
        parts += [f"{what}: {count}" for what, count in self.repairs.items()]
        parts += [told] if (told := describe_columns(self.carried, self.not_carried)) else []
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
    fix: Sequence[str] = (),
    drop: Sequence[str] = (),
    chats: Chats = Chats(),  # noqa: B008 (frozen)
) -> Loaded:
    """The records of `split` (`train` or `eval`), in TRL's `format`.

    Args:
        source: where the rows are, and how they are read.
        format, split: what is to be loaded.
        root: the project's folder, where a relative file is looked for that is not under the working directory.
        on_bad_rows: `refuse` (the first malformed row is named and the rest counted) or `skip` (they are in
            `Loaded.refused`). Rows that are only ties are not malformed: they are in `Loaded.refused` either way.
        stage: only for the messages.
        fix, drop: repairs and reasons to leave a record out (`repairs.FIXES`, `repairs.DROPS`).
        chats: what becomes of plain records and of system messages. It does not change which records are held out.

    Raises:
        UserError: there is nothing sound to load.
    """
    if on_bad_rows not in ("refuse", "skip"):
        raise UserError(f"data.on_bad_rows is {on_bad_rows!r}: write refuse or skip")
    check_names(fix, FIXES, "data.fix")
    check_names(drop, DROPS, "data.drop")
    check(source, format)
    from_train = split == "train" or source.eval is None
    rows = source_of(source, format, "train" if from_train else "eval", root)
    reading = reading_of(source, format, rows)
    read = _read_once(rows, reading, stage)
    malformed = [refusal for refusal in read.refused if reason(refusal) != TIE]
    if malformed and on_bad_rows == "refuse":
        raise UserError(_refusal_sentence(malformed, reading, found_any=bool(read.records)))
    if not read.records:
        why = (
            f"all {read.rows} rows are malformed, the first: {read.refused[0]}" if read.refused else "it holds no rows"
        )
        raise UserError(f"{rows.name}: nothing to load for data.{format}, {why}")
    settled, mixed = settle_columns(read.records, source.keep, rows.name)
    mine = _of_split(keep(settled), source, split, rows.name, format)
    if chats != Chats():
        mine = keep(chats.apply(record) for record in mine)
    admission = Admission(fix, drop, blocked=_blocked(source, format, split, mine, drop, root, chats))
    admitted = mine
    if fix or drop:
        verdicts = (admission.admit(record, str(number), split) for number, record in enumerate(mine))
        admitted = keep(record for record in verdicts if record is not None)
    kept = admitted[: source.max_rows] if split == "train" else admitted
    if not kept:
        raise UserError(f"{rows.name}: no record is left of data.{format} ({dict(admission.done)}): drop less")
    return Loaded(
        records=kept,
        format=format,
        file=rows.name,
        rows_in=read.rows,
        refused=read.refused,
        held_out=len(read.records) - len(mine),
        over_cap=len(admitted) - len(kept),
        converted_from=", ".join(sorted(read.held - {format})) or None,
        layout=reading.layout,
        repairs=dict(admission.done),
        columns=read.columns,
        not_carried=read.not_carried | mixed,
    )


def reading_of(source: DatasetSource, format: str, rows: Source) -> Reading:
    """How the rows are read: as the source says, or by what they look like; what looks like nothing known is TRL's.

    The format is the one wanted: a layout that is told from the rows says how, not what they become.
    """
    keep = None if source.keep is None else tuple(source.keep)
    if source.layout != AUTO:
        reading = Reading(source.layout, format, source.names, keep=keep)
        check_mapping(rows, reading)
        return reading
    try:
        return recognise_source(rows, names=source.names, wanted=format, keep=keep)
    except (UndefinedLabels, MappingError):
        raise
    except UserError:
        return Reading("trl", format, source.names, keep=keep)


def load_artifact(path: Path, format: str, split: str, *, keep: Sequence[str] | None = None, **options: Any) -> Loaded:
    """The records of a dataset artifact: `records/<split>.jsonl` in `path`, else held out of train by prompt."""
    files = {name: f"{name}.jsonl" for name in ("train", "eval") if (path / "records" / f"{name}.jsonl").is_file()}
    source = DatasetSource(source=str(path / "records"), **files, keep=keep)
    return load_records(source, format, split, root=path, **options)


@dataclass
class _Read:
    """All rows of one file or split."""

    records: Sequence[Record] = ()
    refused: list[Refusal] = field(default_factory=list)
    rows: int = 0
    held: set[str] = field(default_factory=set)  # the formats that the rows held
    columns: list[str] = field(default_factory=list)
    not_carried: dict[str, str] = field(default_factory=dict)


def _read(rows: Source, reading: Reading, stage: str | None) -> _Read:
    """Raises UserError where every row holds records of another format, which do not become the one wanted."""
    read = _Read()
    foreign: Record | None = None
    use = ColumnUse(reading)

    def records() -> Iterator[Record]:
        nonlocal foreign
        for outcome in read_outcomes([rows], reading):
            use.observe(outcome)
            read.rows += outcome.rows
            read.not_carried |= outcome.not_carried
            if outcome.refusal is not None:
                read.refused.append(outcome.refusal)
                foreign = foreign or outcome.held
            elif outcome.held is not None:
                read.held.add(outcome.held.format)
            yield from outcome.records

    read.records = keep(records())
    read.columns = label_lines(use.labels.rows())
    if unread := [f"{column.name} ({column.seems})" for column in use.unread() if column.looks_like]:
        read.columns.append(f"columns not read: {', '.join(unread)}")
    if foreign is not None and not read.records:
        raise UserError(_foreign_sentence(foreign, reading, rows.name, stage))
    return read


def _read_once(rows: Source, reading: Reading, stage: str | None) -> _Read:
    """As `_read`, from what this process has read before: preflight and the stage, and both splits of one file."""
    if rows.path is not None:
        state = rows.path.stat()
        content: Any = (state.st_ino, state.st_size, state.st_mtime_ns)
    elif not is_commit(parse_hub(rows.hub[0])[1]):
        return _read(rows, reading, stage)  # a branch moves
    else:
        content = None
    key = repr((rows, content, reading))
    if key not in _reads:
        while len(_reads) >= _REMEMBERED:
            del _reads[next(iter(_reads))]
        _reads[key] = _read(rows, reading, stage)
    return _reads[key]


def _of_split(
    records: Sequence[Record], source: DatasetSource, split: str, name: str, format: str
) -> Sequence[Record]:
    """The records of `split`, where both are in one file. Raises UserError where there are none."""
    if source.eval is not None:
        return records
    keys = np.fromiter((fraction(record) for record in records), np.float64, len(records))
    # where chance holds nothing out of a small file, the prompt that came nearest is
    limit = max(source.eval_fraction, keys.min()) if source.eval_fraction > 0 else -1.0
    mine = choose(records, np.flatnonzero((keys <= limit) == (split == "eval")))
    if not mine:
        raise UserError(
            f"{name}: {split} is empty: data.{format}.eval is null and eval_fraction {source.eval_fraction} of "
            f"its prompts left none; name a file (or split) in data.{format}.eval or change eval_fraction"
        )
    return mine


def _blocked(
    source: DatasetSource,
    format: str,
    split: str,
    records: Sequence[Record],
    drop: Sequence[str],
    root: Path,
    chats: Chats,
) -> dict[str, set[int]]:
    """What must be known of the whole set before a record of train is let in."""
    if split != "train":
        return {}
    evaluated: Iterable[Record] = ()
    if "overlap" in drop and source.eval is not None:
        rows = source_of(source, format, "eval", root)
        read = _read_once(rows, reading_of(source, format, rows), None)
        evaluated = (chats.apply(record) for record in read.records)
    return blocked(drop, records, evaluated)


def _foreign_sentence(found: Record, reading: Reading, name: str, stage: str | None) -> str:
    need = f"stage {stage} needs {reading.format}" if stage else f"data.{reading.format} needs {reading.format}"
    fields, hint = FIELDS[found.format], ""
    if found.format == "language_modeling" and kind(found) == "conversational":
        fields, hint = ("messages",), f"; to learn their last answer set data.{reading.format}.layout=messages"
    return (
        f"{name} holds {found.format} rows (fields {', '.join(fields)}); {need} "
        f"(fields {', '.join(FIELDS[reading.format])}){hint}"
    )


def _refusal_sentence(refused: Sequence[Refusal], reading: Reading, found_any: bool) -> str:
    more = ""
    if len(refused) > 1:
        rows = ", ".join(str(refusal.row) for refusal in refused[1:9])
        more = f"; {len(refused) - 1} more are malformed (rows {rows}{', ...' if len(refused) > 9 else ''})"
    remedy = "correct them, or set data.on_bad_rows=skip to go on without them and have them listed"
    if not found_any:
        remedy = (
            f"no row of it can be used: check data.{reading.format}.layout ({reading.layout}; there are "
            f"{', '.join(LAYOUTS)}) and data.{reading.format}.columns ({{our field: their column}})"
        )
    return f"{refused[0]}{more}; {remedy}"

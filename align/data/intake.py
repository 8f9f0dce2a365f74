"""From what a person names (files, folders, hub sets) to rows with their records, every row accounted for."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from align.artifacts.inputs import parse_hub
from align.artifacts.manifest import json_digest
from align.artifacts.refs import HUB_PREFIX
from align.data.datasets import Refusal
from align.data.formats import COLUMNS, LAYOUTS, rename
from align.data.readers import READERS, Row, Unreadable, hub_commit, kind_of_file, read_hub, read_rows
from align.data.recognise import SAMPLE, Recognised, as_row, recognise
from align.data.trees import GATHERED, gather, is_flat
from align.errors import UserError
from align.records import NoConversion, Record, RecordError, convert, kind

# what lies beside data in a folder and is none
_NOT_DATA = re.compile(
    r"(readme|licen[cs]e|provenance|notice|citation|requirements|dataset_infos?|dataset_dict|state|manifest|report)\b.*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Source:
    """One file, or one split of a hub set."""

    name: str  # in messages, reports and the ids of records
    path: Path | None
    hub: tuple[str, str | None, str] | None = None  # (hf:org/name@commit, config, split)

    def rows(self) -> Iterator[tuple[int, Row]]:
        if self.path is not None:
            yield from read_rows(self.path)
        else:
            yield from read_hub(*self.hub)

    def to_manifest(self) -> dict[str, Any]:
        """What a manifest's `inputs` say of it; the digest is the file's sha256, or stands for the hub's commit."""
        if self.path is not None:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"ref": self.name, "digest": digest, "kind": "data", "size": self.path.stat().st_size}
        repository, revision = parse_hub(self.hub[0])
        split = {"config": self.hub[1], "split": self.hub[2]}
        digest = json_digest({"dataset": repository, "revision": revision, **split})
        return {"ref": self.hub[0], "digest": digest, "kind": "hub", "revision": revision, **split}


@dataclass(frozen=True)
class Reading:
    """How rows become records."""

    layout: str
    format: str
    columns: Mapping[str, str] = field(default_factory=dict)  # our field -> their column
    labels: Mapping[str, str] = field(default_factory=dict)  # their value of a verdict -> ours
    why: str = ""  # how the layout was told


@dataclass(frozen=True)
class Outcome:
    """What became of one row: records, or a refusal. `raw` is the row as the layout saw it."""

    file: str
    row: int
    raw: Row
    records: list[Record]
    refusal: Refusal | None = None
    rows: int = 1  # of the file that this one stands for: more where flat messages became a tree


def find_sources(names: Sequence[str], *, config: str | None = None, split: str = "train") -> list[Source]:
    """The files that the names mean; a folder means the data files in it, a hub id one split of that set.

    Raises:
        UserError: there is nothing there.
    """
    sources: list[Source] = []
    for name in names:
        if name.startswith(HUB_PREFIX):
            repository, _ = parse_hub(name)
            sources.append(Source(name, None, (f"{HUB_PREFIX}{repository}@{hub_commit(name)}", config, split)))
            continue
        path = Path(name).expanduser()
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if _is_data(file, path))
            if not found:
                raise UserError(f"{path}: holds no data files (names that end in {', '.join(READERS)})")
            sources += [Source(str(file.relative_to(path)), file) for file in found]
        elif path.is_file():
            sources.append(Source(path.name, path))
        else:
            raise UserError(f"{name}: there is no such file or folder here ({Path.cwd()}); a hub set is hf:org/name")
    twice = {one.name for one in sources if [other.name for other in sources].count(one.name) > 1}
    return [Source(str(one.path), one.path) if one.name in twice and one.path else one for one in sources]


def recognise_source(
    source: Source,
    *,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    wanted: str | None = None,
) -> Reading:
    """How the rows of `source` are to be read; what is given stands, the rest is told from its first rows.

    Raises:
        UserError: no layout fits, or `columns` names what is no field.
    """
    columns, labels = columns or {}, labels or {}
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"layout {layout!r} is not known: write one of {', '.join(LAYOUTS)}")
    for ours in columns:
        if ours not in COLUMNS:
            raise UserError(f"{ours!r} is no field of ours ({', '.join(COLUMNS)}): write OURS=THEIRS")
    sample = [_prepare(row, columns, labels) for _, row in islice(source.rows(), SAMPLE)]
    found: Recognised = recognise(
        [Unreadable(str(row)) if isinstance(row, RecordError) else row for row in sample],
        source.name,
        wanted=wanted,
        layout=layout,
    )
    return Reading(found.layout, found.format, columns, labels, found.why)


def read_outcomes(sources: Iterable[Source], reading: Reading) -> Iterator[Outcome]:
    """Every row of every source and what became of it: nothing is left out, and one kind is kept to."""
    first: tuple[str, str] | None = None
    for source in sources:
        for number, row in _rows(source, reading):
            outcome = _outcome(source.name, number, row, reading)
            if isinstance(row, dict) and reading.layout == "message_tree":
                outcome = replace(outcome, rows=row.get(GATHERED, 1))
            if outcome.records:
                found = kind(outcome.records[0])
                first = first or (found, f"{source.name} row {number}")
                if found != first[0]:
                    why = f"is {found}: {first[1]} is {first[0]}, and a set has one kind"
                    outcome = replace(outcome, records=[], refusal=Refusal(source.name, number, "prompt", why))
            yield outcome


def reason(refusal: Refusal) -> str:
    """A refusal without what is the row's own, to count by: `chosen is empty`."""
    text = f"{refusal.field or 'row'} {refusal.why}"
    text = re.split(r" \(|: |, ", re.sub(r"\[\d+\]", "[]", text), maxsplit=1)[0]
    return text if len(text) <= 80 else text[:77] + "..."


def _rows(source: Source, reading: Reading) -> Iterator[tuple[int, Any]]:
    rows = source.rows()
    if reading.layout != "message_tree":
        return rows
    head = list(islice(rows, 1))
    flat = head and isinstance(head[0][1], Mapping) and is_flat(head[0][1])
    # a flat list is put together into trees: as many rows come out as there are first messages
    return gather(source.rows()) if flat else source.rows()


def _outcome(file: str, number: int, row: Row, reading: Reading) -> Outcome:
    row = _prepare(row, reading.columns, reading.labels)
    if isinstance(row, Unreadable):
        return Outcome(file, number, row, [], Refusal(file, number, None, row.why))
    try:
        if isinstance(row, RecordError):
            raise row
        found = LAYOUTS[reading.layout](row, reading.format)
        return Outcome(file, number, row, [record for one in found for record in convert(one, reading.format)])
    except RecordError as error:
        return Outcome(
            file, number, row if isinstance(row, dict) else {}, [], Refusal(file, number, error.field, error.why)
        )
    except NoConversion as error:
        why = f"is {error.have}, which does not become {error.need}"
        return Outcome(file, number, row, [], Refusal(file, number, None, why))
    except RecursionError:
        return Outcome(file, number, {}, [], Refusal(file, number, None, "is nested too deep"))


def _prepare(row: Row, columns: Mapping[str, str], labels: Mapping[str, str]) -> Any:
    """A row under our names and with our labels; a RecordError where a column is missing."""
    row = as_row(row)
    if isinstance(row, Unreadable):
        return row
    try:
        row = rename(row, columns)
    except RecordError as error:
        return error
    return (
        {
            key: labels[str(value)]
            if labels and isinstance(value, str | int | float) and str(value) in labels and _is_verdict(key)
            else value
            for key, value in row.items()
        }
        if labels
        else row
    )


def _is_verdict(key: Any) -> bool:
    from align.data import answers, judged

    return key in (*judged.VERDICTS, *answers.VERDICTS, "verdict") or bool(judged.annotator_fields({key: 0}))


def _is_data(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    return (
        file.is_file()
        and not any(part.startswith(".") for part in parts)
        and kind_of_file(file) in READERS
        and not _NOT_DATA.fullmatch(file.name)
    )

"""What a person names, a file, a folder or a hub set, as files and splits whose rows can be read."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from align.artifacts.disk import unreadable
from align.artifacts.inputs import parse_hub
from align.artifacts.manifest import json_digest
from align.artifacts.refs import HUB_PREFIX
from align.data.readers.hub import hub_commit, read_hub
from align.data.readers.read import READERS, kind_of_file, read_rows, split_sheet
from align.data.readers.row import Row
from align.errors import UserError
from align.records import shown

MOST_FILES = 100_000  # of a folder that somebody names
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
    first: int | None = None  # rows that are read at most; None is all
    streaming: bool = True  # a hub set is read as it comes, and not kept on disk
    beside: "Source | None" = None  # whose columns are put beside each row, by its place
    sheet: str | None = None  # of a workbook; None is the only one that holds rows
    format: str | None = None  # of a dataset artifact's rows, which are in TRL's fields

    def rows(self) -> Iterator[tuple[int, Row]]:
        """(number, row) of every row, or of the first ones. Raises UserError while they are read."""
        if self.path is not None:
            rows = read_rows(self.path, self.sheet)
        else:
            rows = read_hub(*self.hub, streaming=self.streaming)
        rows = rows if self.beside is None else _joined(rows, self.beside.rows(), self)
        yield from islice(rows, self.first)

    def to_manifest(self) -> dict[str, Any]:
        """What a manifest's `inputs` say of it; the digest is the file's sha256, or stands for the hub's commit."""
        if self.path is not None:
            with self.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {
                "ref": self.name,
                "digest": digest,
                "kind": "data",
                "size": self.path.stat().st_size,
                **self._part(),
            }
        repository, revision = parse_hub(self.hub[0])
        split = {"config": self.hub[1], "split": self.hub[2]}
        digest = json_digest({"dataset": repository, "revision": revision, **split})
        return {"ref": self.hub[0], "digest": digest, "kind": "hub", "revision": revision, **split, **self._part()}

    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = {} if self.first is None else {"first": self.first}
        part |= {} if self.sheet is None else {"sheet": self.sheet}
        return part if self.beside is None else part | {"beside": self.beside.to_manifest()}


def find_sources(
    names: Sequence[str], *, config: str | None = None, split: str = "train", first: int | None = None
) -> list[Source]:
    """The files that the names mean; a folder means the data files in it, a hub id one split of that set.

    Args:
        config, split: of a hub set.
        first: rows to read of each, at most.

    Raises:
        UserError: there is nothing there.
    """
    sources: list[Source] = []
    for name in names:
        if name.startswith(HUB_PREFIX):
            repository, _ = parse_hub(name)
            sources.append(Source(name, None, (f"{HUB_PREFIX}{repository}@{hub_commit(name)}", config, split)))
            continue
        path, sheet = split_sheet(Path(name).expanduser())
        if path.is_dir():
            found = sorted(file for file in _files_in(path) if _is_data(file, path))
            if not found:
                raise UserError(f"{path}: holds no data files (names that end in {', '.join(READERS)})")
            sources += [Source(str(file.relative_to(path)), file) for file in found]
        elif path.is_file():
            sources.append(Source(Path(name).name, path, sheet=sheet))
        else:
            raise UserError(f"{name}: there is no such file or folder here ({Path.cwd()}); a hub set is hf:org/name")
    twice = {one.name for one in sources if [other.name for other in sources].count(one.name) > 1}
    named = [with_folder(one) if one.name in twice else one for one in sources]
    return [replace(one, first=first) for one in named]


def with_folder(source: Source) -> Source:
    """A file's source under its whole path, where its name alone does not tell it from another."""
    if source.path is None:
        return source
    return replace(source, name=f"{source.path}{f'#{source.sheet}' if source.sheet else ''}")


def _joined(rows: Iterator[tuple[int, Row]], others: Iterator[tuple[int, Row]], source: Source) -> Iterator[Any]:
    """Each row with the columns of the other file's row at the same place; a column of both must say the same.

    Raises:
        UserError: one file has more rows, or they are not about the same things.
    """
    names = f"{source.name} and {source.beside.name}"
    for place, (one, other) in enumerate(zip_longest(rows, others)):
        if one is None or other is None:
            more, less = (source.name, source.beside.name)[:: 1 if other is None else -1]
            raise UserError(f"{names} are joined row by row, and {more} has more than the {place} rows of {less}")
        (number, row), (_, beside) = one, other
        if isinstance(row, dict) and isinstance(beside, dict):
            if column := next((name for name in row.keys() & beside.keys() if row[name] != beside[name]), None):
                raise UserError(
                    f"{names} are joined row by row, and at row {number} {column} is {shown(row[column])} in one, "
                    f"{shown(beside[column])} in the other: bring them in one order, or rename the column"
                )
            row = beside | row
        yield number, row


def _files_in(folder: Path) -> Iterator[Path]:
    """Every file in a folder, of those that are not hidden.

    Raises:
        UserError: a folder cannot be read, or there are so many files that it must be a disk.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename, error)

    count = 0
    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count += len(files)
        if count > MOST_FILES:
            raise UserError(f"{folder}: holds more than {MOST_FILES} files; name the folder that the data are in")
        yield from (Path(here, name) for name in files)


def _is_data(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    return (
        os.path.isfile(file)
        and not any(part.startswith(".") for part in parts)
        and kind_of_file(file) in READERS
        and not _NOT_DATA.fullmatch(file.name)
    )

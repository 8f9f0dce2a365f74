"""Records in a file instead of in memory: a set may be larger than memory, and the ranks of a host share its pages.

The file has no name in its folder, so nothing is left of it when its process ends, however it ends. Another rank of
the same host opens it through /proc.
"""

import json
import mmap
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np

from align.errors import UserError
from align.records import FORMATS, Record, without_columns


class RecordFile(Sequence[Record]):
    """A sequence of records that are parsed when they are looked at; 8 bytes of memory for each.

    Made by `keep`. What it holds never changes.
    """

    def __init__(self, file: Any, offsets: np.ndarray, indices: np.ndarray | None = None):
        self._file = file
        self._offsets = offsets  # where each line begins, and where the last one ends
        self._indices = indices  # which lines this sequence has, in order; None is all
        self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file and offsets[-1] else b""

    @classmethod
    def write(cls, records: Iterable[Record], file: IO[bytes]) -> "RecordFile":
        """The records in an empty file, which stays open as long as the sequence lives."""
        offsets = array("q", [0])
        for record in records:
            offsets.append(offsets[-1] + file.write(_line(record)))
        file.flush()
        return cls(file, np.frombuffer(offsets, np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1 if self._indices is None else len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> "RecordFile": ...

    def __getitem__(self, index: int | slice) -> "Record | RecordFile":
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index %= len(self)
        return self._record(index if self._indices is None else int(self._indices[index]))

    def __iter__(self) -> Iterator[Record]:
        for number in range(len(self)) if self._indices is None else self._indices:
            yield self._record(int(number))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def select(self, indices: np.ndarray) -> "RecordFile":
        """The records at `indices`, in that order, of the same file."""
        return RecordFile(self._file, self._offsets, indices if self._indices is None else self._indices[indices])

    @property
    def reachable(self) -> bool:
        """Whether this process can read the records: not, if another one on another host has them."""
        return self._file is not None

    def _record(self, number: int) -> Record:
        body = json.loads(self._lines[self._offsets[number] : self._offsets[number + 1]])
        if "later_turns" in body:
            body["later_turns"] = tuple(body["later_turns"])
        return FORMATS[body.pop("format")](**body)

    def __reduce__(self) -> tuple[Any, ...]:
        facts = os.fstat(self._file.fileno())
        place = (f"/proc/{os.getpid()}/fd/{self._file.fileno()}", facts.st_dev, facts.st_ino, facts.st_size)
        return _attach, (place, self._offsets, self._indices)


def _attach(place: tuple[str, int, int, int], offsets: np.ndarray, indices: np.ndarray | None) -> RecordFile:
    """The sequence that another process has, not `reachable` where that is not a process of this host."""
    path, *identity = place
    try:
        facts = os.stat(path)
        file = open(path, "rb") if [facts.st_dev, facts.st_ino, facts.st_size] == identity else None  # noqa: SIM115
    except OSError:
        file = None
    return RecordFile(file, offsets, indices)


def keep(records: Iterable[Record]) -> Sequence[Record]:
    """The records in a file; in a list where there is no folder to write to.

    Raises:
        UserError: the disk is full.
    """
    if isinstance(records, RecordFile):
        return records
    try:
        file = _temporary()
    except OSError:
        return list(records)
    try:
        return RecordFile.write(records, file)
    except OSError as error:
        raise UserError(
            f"no room for a working copy of the data in {cache_folder()} ({error.strerror}): free some, or name "
            "another folder in the environment variable HF_DATASETS_CACHE"
        ) from error


def choose(records: Sequence[Record], indices: np.ndarray) -> Sequence[Record]:
    """The records at `indices`, in that order."""
    if isinstance(records, RecordFile):
        return records.select(indices)
    return [records[int(index)] for index in indices]


def _temporary() -> IO[bytes]:
    """A file without a name, in the cache of `datasets`."""
    return tempfile.TemporaryFile(dir=cache_folder())


class Rows(Sequence[dict[str, Any]]):
    """The rows of records without their columns, each made when it is looked at."""

    def __init__(self, records: Sequence[Record]):
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: Any) -> Any:
        return (
            Rows(self._records[index]) if isinstance(index, slice) else without_columns(self._records[index]).to_row()
        )


def cache_folder() -> Path:
    """The folder for what may be removed at any time: `datasets`' own, which is on a disk with room for data."""
    from huggingface_hub.constants import HF_HOME

    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME, "datasets")) / "align"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _line(record: Record) -> bytes:
    body = {"format": record.format} | {name: value for name, value in vars(record).items() if value is not None}
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

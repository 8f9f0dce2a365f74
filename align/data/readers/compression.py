"""Bytes of a file, unpacked on the way where its name ends in .gz or .zst."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from align.errors import UserError

PACKED = (".gz", ".zst")


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """`path` to read bytes from.

    Raises:
        UserError: while it is read, where the packed file is damaged or cut off.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            with gzip.open(path, "rb") as file:
                yield file
        elif suffix == ".zst":
            with _zstd(path) as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: is not a whole gzip file ({error}); fetch it again") from error


@contextmanager
def _zstd(path: Path) -> Iterator[BinaryIO]:
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path), "rb"), "zstd") as packed:
            yield io.BufferedReader(_Raw(packed), 2**16)
    except OSError as error:
        if path.is_file():
            raise UserError(f"{path}: is not a whole zstd file ({str(error)[:100]}); fetch it again") from error
        raise


class _Raw(io.RawIOBase):
    """pyarrow's stream as Python's own kind, which can read lines."""

    def __init__(self, stream: Any):
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

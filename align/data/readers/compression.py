"""Bytes of a file, unpacked on the way where its name ends in .gz or .zst."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from align.data.readers import limits
from align.errors import UserError

PACKED = (".gz", ".zst")


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """`path` to read bytes from.

    Raises:
        UserError: while it is read, where the packed file is damaged, cut off, or unpacks to an absurd size.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            with gzip.open(path, "rb") as packed:
                yield io.BufferedReader(_Unpacked(packed, path), 2**16)
        elif suffix == ".zst":
            with _zstd(path) as packed:
                yield io.BufferedReader(_Unpacked(packed, path), 2**16)
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: is not a whole gzip file ({error}); fetch it again") from error


@contextmanager
def _zstd(path: Path) -> Iterator[Any]:
    import pyarrow

    try:
        with pyarrow.CompressedInputStream(pyarrow.OSFile(str(path), "rb"), "zstd") as packed:
            yield packed
    except OSError as error:
        if path.is_file():
            raise UserError(f"{path}: is not a whole zstd file ({str(error)[:100]}); fetch it again") from error
        raise


class _Unpacked(io.RawIOBase):
    """What a decompressor gives, counted: it stops at a size that no honest file has."""

    def __init__(self, stream: Any, path: Path):
        self.stream, self.path = stream, path
        self.packed = path.stat().st_size
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        self.size += len(data)
        if limits.is_bomb(self.size, self.packed):
            raise UserError(
                f"{self.path}: its {self.packed} bytes unpack to more than {self.size}, over {limits.MAX_RATIO} times "
                "as many. Text does not compress like that; if you trust the file, unpack it first"
            )
        return len(data)

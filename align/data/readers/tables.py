"""Rows of tables in text: CSV and TSV."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from align.data.readers import limits
from align.data.readers.compression import open_bytes
from align.data.readers.row import Row, Unreadable, refuse_utf16
from align.errors import UserError
from align.records import shown


def read_csv(path: Path, delimiter: str) -> Iterator[tuple[int, Row]]:
    """A header and rows of as many cells. Raises UserError where the file is no CSV."""
    csv.field_size_limit(2**31 - 1)  # the default refuses a document of more than 128 KiB
    with open_bytes(path) as raw:
        refuse_utf16(path, raw.read(2))
    # newline="" leaves a CRLF inside a quoted field as it is
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        lines = _Lines(file, path)
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            check_header(path, header)
            number = 0
            for cells in rows:
                lines.size = 0
                if cells:
                    yield number, _cells(header, cells)
                    number += 1
        except csv.Error as error:
            raise UserError(f"{path}: line {rows.line_num} is not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: is not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
            ) from error


class _Lines:
    """The lines of a file; a row, which quotes may stretch over many lines, has a largest size.

    Attributes:
        size: characters of the row so far; the reader of rows sets it back.
    """

    def __init__(self, file: io.TextIOWrapper, path: Path):
        self.file, self.path, self.size = file, path, 0

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(limits.MAX_LINE + 1):
            self.size += len(line)
            if self.size > limits.MAX_LINE:
                raise UserError(
                    f"{self.path}: holds a row of more than {limits.MAX_LINE // 2**20} Mi characters; is a closing "
                    "quote missing?"
                )
            yield line


def check_header(path: Path, header: Sequence[str]) -> None:
    """Raises UserError where two columns have one name."""
    if twice := sorted(name for name, count in Counter(header).items() if count > 1):
        raise UserError(f"{path}: the header names {shown(twice[0])} more than once")


def _cells(header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    return Unreadable(f"has {len(cells)} cells, the header has {len(header)} ({shown(cells)})")

"""Rows of tables: CSV, Parquet, Arrow and XLSX."""

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
        rows = csv.reader(_lines(file, path), delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            _check_header(path, header)
            for number, cells in enumerate(cells for cells in rows if cells):
                yield number, _cells(header, cells)
        except csv.Error as error:
            raise UserError(f"{path}: line {rows.line_num} is not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: is not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
            ) from error


def _lines(file: io.TextIOWrapper, path: Path) -> Iterator[str]:
    while line := file.readline(limits.MAX_LINE + 1):
        if len(line) > limits.MAX_LINE:
            raise UserError(f"{path}: holds a line of more than {limits.MAX_LINE // 2**20} Mi characters")
        yield line


def read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    """A Parquet file, a thousand rows at a time. Raises UserError."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from _batches(file.iter_batches(batch_size=1024))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a Parquet file that can be read ({_first_line(error)})") from error


def read_arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """An Arrow IPC file or stream, as `datasets` and Feather write them. Raises UserError."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = pyarrow.ipc.open_file(source)
                yield from _batches(file.get_batch(i) for i in range(file.num_record_batches))
            else:
                source.seek(0)
                yield from _batches(pyarrow.ipc.open_stream(source))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not an Arrow file that can be read ({_first_line(error)})") from error


def read_xlsx(path: Path) -> Iterator[tuple[int, Row]]:
    """The first sheet of a workbook, its first row the header; a row with a formula is refused.

    Raises:
        UserError: no workbook, or openpyxl is not installed.
    """
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path}: reading .xlsx needs openpyxl: pip install 'align[data]', or save it as CSV"
        ) from None
    broken = (openpyxl.utils.exceptions.InvalidFileException, zipfile.BadZipFile, zlib.error, EOFError)
    broken += (KeyError, ValueError, TypeError, SyntaxError, IndexError, AttributeError)
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(part.file_size for part in packed.infolist())
        if size > limits.MAX_FILE:
            raise UserError(f"{path}: unpacks to more than {limits.MAX_FILE // 2**30} GiB; save it as CSV")
        book = openpyxl.load_workbook(path, read_only=True, data_only=False)
    except broken as error:
        raise UserError(f"{path}: is not a workbook that can be read ({_first_line(error)})") from error
    try:
        rows = book.worksheets[0].iter_rows() if book.worksheets else iter(())
        first = next(rows, ())
        header = ["" if cell.value is None else str(cell.value) for cell in first]
        while header and not header[-1]:
            header.pop()
        _check_header(path, header)
        for number, cells in enumerate(rows):
            formula = next((cell for cell in cells if cell.data_type == "f"), None)
            if formula is not None:
                what = f"{formula.coordinate} ({shown(str(formula.value), 40)})"
                yield number, Unreadable(f"has a formula in {what}: paste its value")
                continue
            values = [cell.value for cell in cells[: len(header)]]
            if any(value is not None for value in values):
                values += [None] * (len(header) - len(values))
                yield number, dict(zip(header, values, strict=True))
    except broken as error:
        raise UserError(f"{path}: is not a workbook that can be read ({_first_line(error)})") from error
    finally:
        book.close()


def _check_header(path: Path, header: Sequence[str]) -> None:
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UserError(f"{path}: the header names {shown(twice[0])} more than once")


def _cells(header: Sequence[str], cells: Sequence[str]) -> Row:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    return Unreadable(f"has {len(cells)} cells, the header has {len(header)} ({shown(cells)})")


def _batches(batches: Any) -> Iterator[tuple[int, Row]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            yield number, row
            number += 1


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Rows of one sheet of an XLSX workbook, and which of its sheets hold rows."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.data.readers import limits
from align.data.readers.row import Row, Unreadable
from align.data.readers.tables import check_header
from align.errors import UserError
from align.records import shown

if TYPE_CHECKING:
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet


def read_xlsx(path: Path, sheet: str | None = None) -> Iterator[tuple[int, Row]]:
    """The rows of a sheet, its first row the header; a row with a formula is refused.

    Args:
        sheet: its name; without one there must be no more than one sheet that holds rows.

    Raises:
        UserError: no workbook, no such sheet, several to choose from, or openpyxl is not installed.
    """
    with _opened(path) as sheets:
        rows = _cells(_sheet(path, sheets, sheet), path)
        head = next((cells for cells in rows if _is_full(cells)), ())
        header = ["" if cell.value is None else str(cell.value) for cell in head]
        while header and not header[-1]:
            header.pop()
        check_header(path, header)
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


def other_sheets(path: Path, sheet: str | None) -> list[str]:
    """The sheets that hold rows and are not read where `sheet` is (None: the only one). Raises UserError."""
    with _opened(path) as sheets:
        read = _sheet(path, sheets, sheet).title
        return [name for name in _with_rows(path, sheets) if name != read]


def _sheet(path: Path, sheets: "dict[str, ReadOnlyWorksheet]", name: str | None) -> "ReadOnlyWorksheet":
    if name is not None:
        if name not in sheets:
            raise UserError(f"{path}: has no sheet {name!r}; its sheets are {', '.join(sheets)}")
        return sheets[name]
    if not sheets:
        raise UserError(f"{path}: has no sheet")
    full = _with_rows(path, sheets)
    if len(full) > 1:
        raise UserError(
            f"{path}: {len(full)} sheets hold rows ({', '.join(full)}); name one of them after a #, for example "
            f"'{path.name}#{full[0]}'"
        )
    return sheets[full[0]] if full else next(iter(sheets.values()))


def _with_rows(path: Path, sheets: "dict[str, ReadOnlyWorksheet]") -> list[str]:
    """The names of the sheets that hold a row under their header."""
    return [name for name, sheet in sheets.items() if len(list(islice(filter(_is_full, _cells(sheet, path)), 2))) == 2]


def _is_full(cells: Sequence[Any]) -> bool:
    return any(cell.value is not None for cell in cells)


def _cells(sheet: "ReadOnlyWorksheet", path: Path) -> Iterator[Any]:
    sheet.reset_dimensions()  # the size that a sheet states may be a million empty rows of 16,384 empty cells
    for number, cells in enumerate(sheet.iter_rows()):
        if number >= limits.MAX_SHEET_ROWS:
            raise UserError(f"{path}: sheet {sheet.title} has more than {limits.MAX_SHEET_ROWS} rows; save it as CSV")
        yield cells


@contextmanager
def _opened(path: Path) -> "Iterator[dict[str, ReadOnlyWorksheet]]":
    """Name -> sheet of a workbook, charts left out. Raises UserError."""
    try:
        import openpyxl
    except ImportError:
        raise UserError(
            f"{path}: reading .xlsx needs openpyxl: pip install 'align[data]', or save it as CSV"
        ) from None
    broken = (openpyxl.utils.exceptions.InvalidFileException, zipfile.BadZipFile, zlib.error, EOFError)
    broken += (KeyError, ValueError, TypeError, SyntaxError, IndexError, AttributeError)
    book = None
    try:
        _check_size(path)
        book = openpyxl.load_workbook(path, read_only=True, data_only=False)
        yield {sheet.title: sheet for sheet in book.worksheets}
    except broken as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path}: is not a workbook that can be read ({why})") from error
    finally:
        if book is not None:
            book.close()


def _check_size(path: Path) -> None:
    """Raises UserError where a workbook unpacks to too much: its sheets are read in pieces, the rest is not."""
    with zipfile.ZipFile(path) as packed:
        parts = packed.infolist()
    whole = sum(part.file_size for part in parts if not part.filename.startswith("xl/worksheets/"))
    if whole > limits.MAX_PART or limits.is_bomb(sum(part.file_size for part in parts), path.stat().st_size):
        raise UserError(
            f"{path}: unpacks to {sum(part.file_size for part in parts)} bytes, {whole} of which must be in memory "
            "at once; save it as CSV"
        )

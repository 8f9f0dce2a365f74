"""Where rows come from: files, compressed or not.

A reader yields `(row_number, row)`. Row numbers count from 0; in a .jsonl file they are line numbers less one. A row
that cannot be read at all comes as `Unreadable`, so that one broken line does not hide the next. Nothing is read
without a bound: a longer line is a row that is refused, a longer file is a sentence.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from align.data.readers.columnar import read_arrow, read_parquet
from align.data.readers.compression import PACKED, open_bytes
from align.data.readers.row import BOM, Row
from align.data.readers.tables import read_csv
from align.data.readers.texts import read_json, read_jsonl, read_text
from align.data.readers.workbooks import read_xlsx
from align.errors import UserError

TABLES = (read_parquet, read_arrow, read_xlsx)  # packed as they are
READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".csv": partial(read_csv, delimiter=","),
    ".tsv": partial(read_csv, delimiter="\t"),
    ".xlsx": read_xlsx,
    ".txt": read_text,
}
SUFFIXES = tuple(READERS)


def read_rows(path: Path, sheet: str | None = None) -> Iterator[tuple[int, Row]]:
    """The rows of a file, by the end of its name (SUFFIXES, and .gz or .zst behind it).

    Args:
        sheet: of a workbook; None is the only one that holds rows.

    Raises:
        UserError: the file as a whole is none.
    """
    reader = READERS.get(kind_of_file(path))
    if reader is None:
        raise UserError(
            f"{path}: a data file's name ends in one of {', '.join(SUFFIXES)}, or in one of these and "
            f"{' or '.join(PACKED)}"
        )
    if path.suffix.lower() in PACKED and reader in TABLES:
        raise UserError(f"{path}: {kind_of_file(path)} files are packed as they are; unpack this one")
    try:
        yield from reader(path, sheet) if reader is read_xlsx else reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def split_sheet(name: str | Path) -> tuple[Path, str | None]:
    """The path and the sheet of `book.xlsx#votes`; a path alone has no sheet."""
    path = Path(name)
    before, mark, sheet = str(name).rpartition("#")
    if not mark or READERS.get(kind_of_file(Path(before))) is not read_xlsx or path.exists():
        return path, None
    return Path(before), sheet


def kind_of_file(path: Path) -> str:
    """`.jsonl` of rows.jsonl and of rows.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def has_bom(path: Path) -> bool:
    """Whether a file of text begins with UTF-8's byte order mark."""
    if READERS.get(kind_of_file(path)) in (None, *TABLES):
        return False
    with open_bytes(path) as file:
        return file.read(len(BOM)) == BOM

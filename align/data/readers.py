"""Where rows come from: files and the Hugging Face hub.

A reader yields `(row_number, row)`. Row numbers count from 0; in a .jsonl file they are line numbers less one. A row
that cannot be read at all comes as `Unreadable`, so that one broken line does not hide the next.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.artifacts.inputs import parse_hub
from align.errors import UserError
from align.records import shown

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Unreadable:
    """Stands where a row should be."""

    why: str


Row = dict[str, Any] | Unreadable


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a .jsonl, .json, .parquet, .csv or .tsv file. Raises UserError where the file as a whole is none."""
    readers = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: a data file's name ends in one of {', '.join(SUFFIXES)}")
    try:
        yield from reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def _row(value: Any) -> Row:
    return value if isinstance(value, dict) else Unreadable(f"is {shown(value)}, not an object with named fields")


def _parse(data: bytes) -> Any:
    """The JSON value in `data`, or Unreadable."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})")
    except json.JSONDecodeError as error:
        return Unreadable(f"is not JSON ({error.msg} at character {error.pos}: {shown(error.doc, 40)})")
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        return Unreadable(f"is not JSON that can be read ({error})")


def _refuse_utf16(path: Path, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16; save it as UTF-8")


def _jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:  # bytes are split at b"\n" only: text mode, or splitlines, would also end at others
        for number, line in enumerate(file):
            if number == 0:
                _refuse_utf16(path, line)
                line = line.removeprefix(_BOM)
            if line.strip():
                value = _parse(line)
                yield number, value if isinstance(value, Unreadable) else _row(value)


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    data = path.read_bytes()
    _refuse_utf16(path, data)
    if not data.strip():
        return
    value = _parse(data.removeprefix(_BOM))
    if isinstance(value, Unreadable):
        raise UserError(f"{path}: {value.why}")
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise UserError(f'{path}: a .json file holds a list of rows or {{"data": [rows]}}, this one {shown(value)}')
    for number, item in enumerate(value):
        yield number, _row(item)


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # the default refuses a document of more than 128 KiB
    with path.open("rb") as raw:
        _refuse_utf16(path, raw.read(2))
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # newline="" leaves a CRLF inside a quoted field as it is
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise UserError(f"{path}: the header names {shown(twice[0])} more than once")
            for number, cells in enumerate(cells for cells in rows if cells):
                if len(cells) == len(header):
                    yield number, dict(zip(header, cells, strict=True))
                else:
                    yield number, Unreadable(f"has {len(cells)} cells, the header has {len(header)} ({shown(cells)})")
        except csv.Error as error:
            raise UserError(f"{path}: line {rows.line_num} is not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: is not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
            ) from error


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    yield number, row
                    number += 1
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: is not a Parquet file that can be read ({_first_line(error)})") from error


def read_hub(source: str, config: str | None, split: str) -> Iterable[tuple[int, Row]]:
    """The rows of one split of a hub data set (or of the local cache, offline). Raises UserError."""
    import datasets

    name, revision = parse_hub(source)
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        what = f"{source}, config {config}" if config else source
        raise UserError(f"{what}, split {split}: cannot be loaded ({_first_line(error)})") from error
    return enumerate(rows)


def hub_commit(source: str) -> str:
    """The commit that a hub data set's revision is now, from the hub, else from the local cache. Raises UserError."""
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.file_download import repo_folder_name

    name, revision = parse_hub(source)
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return revision
    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        folder = repo_folder_name(repo_id=name, repo_type="dataset")
        ref = Path(constants.HF_HUB_CACHE, folder, "refs", revision or "main")
        if ref.is_file():
            return ref.read_text().strip()
        raise UserError(
            f"{source}: its commit is not known, the hub does not answer ({_first_line(error)}) and the local cache "
            "has no such data set; check the id, go online once, or give the files in train and eval"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

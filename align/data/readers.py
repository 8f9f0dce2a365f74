"""Where rows come from: files, compressed or not, and the Hugging Face hub.

A reader yields `(row_number, row)`. Row numbers count from 0; in a .jsonl file they are line numbers less one. A row
that cannot be read at all comes as `Unreadable`, so that one broken line does not hide the next. Nothing is read
without a bound: a longer line is a row that is refused, a longer file is a sentence.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.artifacts.inputs import parse_hub
from align.data.compression import PACKED, open_bytes
from align.errors import UserError
from align.records import shown

MAX_LINE = 64 * 2**20  # bytes of one JSON line
MAX_FILE = 2 * 2**30  # bytes of a .json file, which is read as a whole
BLOCK = 2000  # characters after which a plain text is cut at the next blank line
MAX_BLOCK = 100_000  # characters at which it is cut in any case
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Unreadable:
    """Stands where a row should be; `value` is what JSON there is, where it is no object."""

    why: str
    value: Any = field(default=None, compare=False)


Row = dict[str, Any] | Unreadable


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The rows of a file, by the end of its name (SUFFIXES, and .gz or .zst behind it).

    Raises:
        UserError: the file as a whole is none.
    """
    reader = READERS.get(kind_of_file(path))
    if reader is None:
        raise UserError(
            f"{path}: a data file's name ends in one of {', '.join(SUFFIXES)}, or in one of these and "
            f"{' or '.join(PACKED)}"
        )
    if path.suffix.lower() in PACKED and reader in (_parquet, _arrow, _xlsx):
        raise UserError(f"{path}: {kind_of_file(path)} files are packed as they are; unpack this one")
    try:
        yield from reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def kind_of_file(path: Path) -> str:
    """`.jsonl` of rows.jsonl and of rows.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _row(value: Any) -> Row:
    return (
        value if isinstance(value, dict) else Unreadable(f"is {shown(value)}, not an object with named fields", value)
    )


def _parse(data: bytes) -> Any:
    """The JSON value in `data`, or Unreadable."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})")
    except json.JSONDecodeError as error:
        return Unreadable(f"is not JSON ({error.msg} at character {error.pos}: {shown(error.doc[:80], 40)})")
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        return Unreadable(f"is not JSON that can be read ({error})")


def refuse_utf16(path: Path, start: bytes) -> None:
    """UserError where the first bytes of a file are UTF-16's mark."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16; save it as UTF-8")


def has_bom(path: Path) -> bool:
    """Whether a file of text begins with UTF-8's byte order mark."""
    if READERS.get(kind_of_file(path)) not in (_jsonl, _json, _text, _csv):
        return False
    with open_bytes(path) as file:
        return file.read(len(_BOM)) == _BOM


def _jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    with open_bytes(path) as file:  # bytes are split at b"\n" only: text mode, or splitlines, would also end at others
        number = 0
        while line := file.readline(MAX_LINE + 1):
            if number == 0:
                refuse_utf16(path, line)
                line = line.removeprefix(_BOM)
            if len(line) > MAX_LINE:
                while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, Unreadable(f"is a line of more than {MAX_LINE // 2**20} MiB")
            elif line.strip():
                value = _parse(line)
                yield number, value if isinstance(value, Unreadable) else _row(value)
            number += 1


def _json(path: Path) -> Iterator[tuple[int, Row]]:
    with open_bytes(path) as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise UserError(f"{path}: has more than {MAX_FILE // 2**30} GiB, and a .json file is read whole; write .jsonl")
    refuse_utf16(path, data)
    if not data.strip():
        return
    value = _parse(data.removeprefix(_BOM))
    if isinstance(value, Unreadable):
        raise UserError(f"{path}: {value.why}")
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict) and len(value) > 1 and all(isinstance(item, dict) for item in value.values()):
        # an object keyed by id; a row's own id stands
        value = [{"id": key, **item} for key, item in value.items()]
    if not isinstance(value, list):
        raise UserError(
            f'{path}: a .json file holds a list of rows, {{"data": [rows]}} or {{id: row, ...}}, '
            f"this one {shown(value)}"
        )
    for number, item in enumerate(value):
        yield number, _row(item)


def _text(path: Path) -> Iterator[tuple[int, Row]]:
    """Blocks of whole lines, `{"text": ...}`, that end at a blank line; put together they are the file again."""
    with open_bytes(path) as file:
        block, size, number = [], 0, 0
        while line := file.readline(MAX_BLOCK):
            refuse_utf16(path, line if not number and not block else b"")
            block.append(line)
            size += len(line)
            if (size >= BLOCK and not line.strip()) or size >= MAX_BLOCK:
                yield number, _block(block, first=number == 0)
                block, size, number = [], 0, number + 1
        if block:
            yield number, _block(block, first=number == 0)


def _block(lines: list[bytes], first: bool) -> Row:
    data = b"".join(lines)
    try:
        return {"text": (data.removeprefix(_BOM) if first else data).decode()}
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})")


def _csv(path: Path) -> Iterator[tuple[int, Row]]:
    from align.data.tables import read_csv

    return read_csv(path, "\t" if kind_of_file(path) == ".tsv" else ",")


def _parquet(path: Path) -> Iterator[tuple[int, Row]]:
    from align.data.tables import read_parquet

    return read_parquet(path)


def _arrow(path: Path) -> Iterator[tuple[int, Row]]:
    from align.data.tables import read_arrow

    return read_arrow(path)


def _xlsx(path: Path) -> Iterator[tuple[int, Row]]:
    from align.data.tables import read_xlsx

    return read_xlsx(path)


READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".csv": _csv,
    ".tsv": _csv,
    ".xlsx": _xlsx,
    ".txt": _text,
}
SUFFIXES = tuple(READERS)


def read_hub(
    source: str, config: str | None, split: str, *, streaming: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of one split of a hub data set, or of the local cache, offline.

    Args:
        streaming: read what is asked for as it comes, and keep nothing; else the whole split is fetched and kept.

    Raises:
        UserError: it cannot be had, or not to its end.
    """
    import datasets

    name, revision = parse_hub(source)
    what = f"{source}, config {config}" if config else source
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=streaming)
        yield from enumerate(rows)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{what}, split {split}: cannot be loaded ({_first_line(error)})") from error


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

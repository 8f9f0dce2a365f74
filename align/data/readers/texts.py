"""Rows of text files: JSON lines, JSON, and plain text in blocks."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.data.readers import limits
from align.data.readers.compression import open_bytes
from align.data.readers.json_values import JSONStream, parse
from align.data.readers.row import BOM, Row, Unreadable, refuse_utf16
from align.errors import UserError
from align.records import shown

BLOCK = 2000  # characters after which a plain text is cut at the next blank line
MAX_BLOCK = 100_000  # characters at which it is cut in any case


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """One JSON object a line; a line that is none is a row that cannot be read."""
    with open_bytes(path) as file:  # bytes are split at b"\n" only: text mode, or splitlines, would also end at others
        number = 0
        while line := file.readline(limits.MAX_LINE + 1):
            if number == 0:
                refuse_utf16(path, line)
                line = line.removeprefix(BOM)
            if len(line) > limits.MAX_LINE:
                while (rest := file.readline(limits.MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, Unreadable(f"is a line of more than {limits.MAX_LINE // 2**20} MiB")
            elif line.strip():
                value = _parse(line)
                yield number, value if isinstance(value, Unreadable) else _row(value)
            number += 1


def read_json(path: Path) -> Iterator[tuple[int, Row]]:
    """A list of objects, an object that holds one, or an object per line; never in memory as a whole.

    Raises:
        UserError: the file is none of these, or is not JSON from some place on.
    """
    if _is_jsonl(path):
        yield from read_jsonl(path)
        return
    with open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        try:
            for number, value in enumerate(_json_rows(JSONStream(text), path)):
                yield number, value if isinstance(value, Unreadable) else _row(value)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: is not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8"
            ) from error
        except ValueError as error:
            raise UserError(f"{path}: is not JSON ({error})") from error


def _is_jsonl(path: Path) -> bool:
    """Whether the first line is a whole object, and more lines follow."""
    with open_bytes(path) as file:
        line = file.readline(limits.MAX_LINE)
        refuse_utf16(path, line)
        line = line.removeprefix(BOM).strip()
        if not (line.startswith(b"{") and line.endswith(b"}")):
            return False
        while rest := file.read(2**16):
            if rest.strip():
                return _is_whole(line)
    return False


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _json_rows(stream: JSONStream, path: Path) -> Iterator[Any]:
    """The rows of a list, of the list under `data` in an object, or of an object keyed by id."""
    start = stream.peek()
    if start == "[":
        yield from stream.elements()
        stream.end()
    elif start == "{":
        yield from _object_rows(stream, path)
    elif start:
        raise _no_rows(path, stream.value())


def _object_rows(stream: JSONStream, path: Path) -> Iterator[Any]:
    first: dict[str, Any] = {}  # the members before it is known what they are
    holds = "ids or fields"
    ids: set[str] = set()
    for key in stream.members():
        if holds != "ids" and key == "data" and stream.peek() == "[":
            if holds == "data":
                raise UserError(f'{path}: has the key "data" twice: keep one of the two lists')
            yield from stream.elements()
            holds = "data"
            continue
        value = stream.value()
        if holds == "data":
            continue
        if key in ids:
            raise UserError(f"{path}: has the key {shown(key)} twice: keep one of the two rows")
        ids.add(key)
        if holds == "ids":
            yield _with_id(key, value)
            continue
        first = first if len(first) > 3 and holds == "fields" else first | {key: value}
        if not isinstance(value, dict):
            holds = "fields"
        elif holds != "fields" and (len(first) > 100 or stream.position > limits.MAX_LINE):
            holds = "ids"
            yield from (_with_id(name, row) for name, row in first.items())
    stream.end()
    if holds == "ids or fields" and len(first) > 1:
        yield from (_with_id(name, row) for name, row in first.items())
    elif holds in ("ids or fields", "fields"):
        raise _no_rows(path, first)


def _with_id(name: str, row: Any) -> Any:
    """A row of an object keyed by id; a row's own id stands."""
    return {"id": name, **row} if isinstance(row, dict) else row


def _no_rows(path: Path, value: Any) -> UserError:
    return UserError(
        f'{path}: a .json file holds a list of rows, {{"data": [rows]}}, {{id: row, ...}} or an object per line, this '
        f"one {shown(value)}; a single row goes into a list"
    )


def read_text(path: Path) -> Iterator[tuple[int, Row]]:
    """Plain text, cut into rows at blank lines."""
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
        return {"text": (data.removeprefix(BOM) if first else data).decode()}
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})")


def _row(value: Any) -> Row:
    return (
        value if isinstance(value, dict) else Unreadable(f"is {shown(value)}, not an object with named fields", value)
    )


def _parse(data: bytes) -> Any:
    """The JSON value in `data`, or Unreadable."""
    try:
        return parse(data.decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})")

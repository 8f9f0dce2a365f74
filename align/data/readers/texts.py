"""Rows of text files: JSON lines, JSON, and plain text in blocks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.data.readers import limits
from align.data.readers.compression import open_bytes
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
    """A list of objects, or an object that holds one. Raises UserError where the file is neither."""
    with open_bytes(path) as file:
        data = file.read(limits.MAX_FILE + 1)
    if len(data) > limits.MAX_FILE:
        raise UserError(
            f"{path}: has more than {limits.MAX_FILE // 2**30} GiB, and a .json file is read whole; write .jsonl"
        )
    refuse_utf16(path, data)
    if not data.strip():
        return
    value = _parse(data.removeprefix(BOM))
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
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})")
    except json.JSONDecodeError as error:
        return Unreadable(f"is not JSON ({error.msg} at character {error.pos}: {shown(error.doc[:80], 40)})")
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        return Unreadable(f"is not JSON that can be read ({error})")

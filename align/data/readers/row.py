"""A row as it was read, or why there is none."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.errors import UserError

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Unreadable:
    """Stands where a row should be; `value` is what JSON there is, where it is no object."""

    why: str
    value: Any = field(default=None, compare=False)


Row = dict[str, Any] | Unreadable


def refuse_utf16(path: Path, start: bytes) -> None:
    """UserError where the first bytes of a file are UTF-16's mark."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16; save it as UTF-8")

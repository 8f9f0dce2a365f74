"""What the files of a model say of it, without torch: names and shapes of its tensors, the length of its context."""

import json
import math
import stat
from pathlib import Path
from typing import Any, TypeGuard

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.disk import unreadable
from align.artifacts.model_json import read_json
from align.errors import UserError

LONGEST = 2048  # tokens of a row where trainer.max_length is null: what a context allows may not fit a device's memory
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LARGEST = 100_000_000  # bytes; the format's own limit for a header
_MOST_DIMENSIONS = 16


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of every tensor in the safetensors files of a folder.

    Raises:
        UserError: a file that is not safetensors, or is cut off.
    """
    return {name: entry["shape"] for name, entry in _tensors(folder).items()}


def count_weights(folder: Path) -> tuple[int, int]:
    """The floating-point weights in a folder, and the bytes of its other tensors, such as packed 4-bit weights.

    Raises:
        UserError: a file that is not safetensors, or is cut off.
    """
    weights = packed = 0
    for entry in _tensors(folder).values():
        if entry["dtype"] in _FLOATS:
            weights += math.prod(entry["shape"])
        else:
            begin, end = entry["data_offsets"]
            packed += end - begin
    return weights, packed


def _tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape and place of every tensor in the safetensors files of a folder.

    Source: the safetensors format, a header of JSON behind its length in 8 little-endian bytes.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(_header(file))
    return tensors


def _header(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> entry of the tensors in one file, of which every number is checked before anybody uses it."""
    try:
        if not stat.S_ISREG((status := file.stat()).st_mode):
            raise ValueError("it is not a regular file")
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_LARGEST, status.st_size - 8):
                raise ValueError(f"its header is said to have {length} bytes, and the file has {status.st_size}")
            header = stream.read(length)
        entries = json.loads(header)
        if not isinstance(entries, dict):
            raise ValueError("its header is not an object")
        entries.pop("__metadata__", None)
        end = _check_entries(entries)
    except RecursionError:
        raise UserError(f"{file} is not a safetensors file (nested too deeply); fetch or make it again") from None
    except ValueError as error:
        raise UserError(f"{file} is not a safetensors file ({error}); fetch or make it again") from None
    except OSError as error:
        raise unreadable(file, error) from None
    if status.st_size != 8 + length + end:
        raise UserError(f"{file} is cut off: {status.st_size} of {8 + length + end} bytes; fetch it again")
    return entries


def _check_entries(entries: dict[str, Any]) -> int:
    """Where the last tensor ends, in bytes after the header; ValueError for what no writer of the format writes."""
    places = []
    for name, entry in entries.items():
        shown = repr(name[:60])
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            raise ValueError(f"tensor {shown} has no dtype")
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {shown} has the shape {str(shape)[:60]}")
        if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise ValueError(f"tensor {shown} lies at {str(offsets)[:60]}")
        width = _BYTES.get(entry["dtype"])
        if width is not None and math.prod(shape) * width != offsets[1] - offsets[0]:
            raise ValueError(
                f"tensor {shown} has {offsets[1] - offsets[0]} bytes, which its shape {shape} does not take"
            )
        places.append(offsets)
    end = 0
    for start, stop in sorted(places):
        if start != end:
            raise ValueError(f"its tensors overlap or leave a gap at byte {end}")
        end = stop
    return end


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def default_length(folder: Path) -> int:
    """Tokens of a row where trainer.max_length is null: the model's context, at most LONGEST."""
    return min(context_length(folder) or LONGEST, LONGEST)


def context_length(folder: Path) -> int | None:
    """Tokens that the model in `folder`, or the base of the adapter there, was built for; None for no limit."""
    config = read_json((resolve_base(folder).path if is_adapter(folder) else folder) / "config.json")
    config = config.get("text_config", config)
    length: int | None = config.get("max_position_embeddings") or config.get("n_positions")
    return length

"""What the files of a model say of it, without torch: names and shapes of its tensors, the length of its context."""

import json
import math
from pathlib import Path
from typing import Any

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.tokenizer_files import read_json
from align.errors import UserError

LONGEST = 2048  # tokens of a row where trainer.max_length is null: what a context allows may not fit a device's memory
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_LARGEST = 100_000_000  # bytes; the format's own limit for a header


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
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(length) if length <= _LARGEST else b""
        try:
            entries = json.loads(header)
            entries.pop("__metadata__", None)
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{file} is not a safetensors file; fetch or make it again") from error
        if file.stat().st_size != 8 + length + end:
            raise UserError(f"{file} is cut off: {file.stat().st_size} of {8 + length + end} bytes; fetch it again")
        tensors.update(entries)
    return tensors


def default_length(folder: Path) -> int:
    """Tokens of a row where trainer.max_length is null: the model's context, at most LONGEST."""
    return min(context_length(folder) or LONGEST, LONGEST)


def context_length(folder: Path) -> int | None:
    """Tokens that the model in `folder`, or the base of the adapter there, was built for; None for no limit."""
    config = read_json((resolve_base(folder).path if is_adapter(folder) else folder) / "config.json")
    config = config.get("text_config", config)
    return config.get("max_position_embeddings") or config.get("n_positions")

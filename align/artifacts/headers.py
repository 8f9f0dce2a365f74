"""The headers of safetensors files: names and shapes of tensors, without torch."""

import json
from pathlib import Path

from align.errors import UserError

_LARGEST = 100_000_000  # bytes; the format's own limit for a header


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Name -> shape of every tensor in the safetensors files of a folder.

    Source: the safetensors format, a header of JSON behind its length in 8 little-endian bytes.

    Raises:
        UserError: a file that is not safetensors, or is cut off.
    """
    shapes: dict[str, list[int]] = {}
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
        shapes.update({name: entry["shape"] for name, entry in entries.items()})
    return shapes

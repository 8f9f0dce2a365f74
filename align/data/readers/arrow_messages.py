"""What the messages of an Arrow IPC file unpack to, read from their headers before anything is unpacked.

Only the few fields that are needed are read from the flatbuffers of a message. Source: the Arrow columnar format,
format/Message.fbs, "Encapsulated message format" and "Compression".
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow

_DICTIONARY, _BATCH = 2, 3  # of MessageHeader


def unpacked_sizes(source: "pyarrow.NativeFile") -> Iterator[int]:
    """The bytes that each compressed batch of a file or stream unpacks to; 0 for one that is not compressed.

    Raises:
        ValueError: the headers are damaged.
    """
    import pyarrow

    source.seek(0)
    source.seek(8 if source.read(6) == b"ARROW1" else 0)  # behind its first bytes, a file is a stream
    for message in pyarrow.ipc.MessageReader.open_stream(source):
        try:
            yield _unpacked_size(message.metadata.to_pybytes(), message.body)
        except (struct.error, IndexError) as error:
            raise ValueError(f"a message has a damaged header ({error})") from error


def _unpacked_size(metadata: bytes, body: "pyarrow.Buffer | None") -> int:
    root = struct.unpack_from("<I", metadata)[0]
    kind, header = _field(metadata, root, 1), _field(metadata, root, 2)
    if kind is None or header is None or body is None or metadata[kind] not in (_DICTIONARY, _BATCH):
        return 0
    table = _follow(metadata, header)
    if metadata[kind] == _DICTIONARY:
        data = _field(metadata, table, 1)
        if data is None:
            return 0
        table = _follow(metadata, data)
    buffers, compression = _field(metadata, table, 2), _field(metadata, table, 3)
    if buffers is None or compression is None:
        return 0
    start = _follow(metadata, buffers)
    total = 0
    for number in range(struct.unpack_from("<I", metadata, start)[0]):
        offset, length = struct.unpack_from("<qq", metadata, start + 4 + 16 * number)
        if length >= 8:  # each compressed buffer begins with its unpacked length, -1 where it is stored as it is
            total += max(0, struct.unpack_from("<q", memoryview(body), offset)[0])
    return total


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a flatbuffers table is; None where the table does not have it."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
    return table + offset if offset else None


def _follow(data: bytes, at: int) -> int:
    return at + struct.unpack_from("<I", data, at)[0]

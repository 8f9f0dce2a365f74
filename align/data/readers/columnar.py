"""Rows of columnar files: Parquet and Arrow.

A few bytes can stand for gigabytes in them: a text stored once and repeated by number, nulls counted instead of
written. So texts stay numbers into their dictionary while a batch is read, and a batch becomes Python objects in
pieces of bounded size.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from align.data.readers import limits
from align.data.readers.arrow_messages import unpacked_sizes
from align.data.readers.row import Row, Unreadable
from align.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

ROWS = 1024  # of a batch
_PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "PLAIN_DICTIONARY", "RLE_DICTIONARY"}  # what Arrow reads as a dictionary


def read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    """A Parquet file, a thousand rows at a time. Raises UserError."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_sizes(file.metadata, path)
            schema = file.schema_arrow
            texts = _text_columns(file)
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            yield from _batches(file.iter_batches(batch_size=_batch_rows(file.metadata)), schema)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a Parquet file that can be read ({_first_line(error)})") from error


def read_arrow(path: Path) -> Iterator[tuple[int, Row]]:
    """An Arrow IPC file or stream, as `datasets` and Feather write them. Raises UserError."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            for size in unpacked_sizes(source):
                _check_batch(size, path)
            source.seek(0)
            if source.read(6) == b"ARROW1":
                file = pyarrow.ipc.open_file(source)
                batches = (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                source.seek(0)
                batches = iter(pyarrow.ipc.open_stream(source))
            yield from _batches(_honest(batches, path))
    except (pyarrow.ArrowException, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: is not an Arrow file that can be read ({_first_line(error)})") from error


def _text_columns(file: "pyarrow.parquet.ParquetFile") -> list[str]:
    """The columns of texts that can be read as a dictionary and numbers into it."""
    columns = [file.schema.column(position) for position in range(len(file.schema))]
    texts = {
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("STRING", "NONE")
    }
    others = {chunk.path_in_schema for chunk in _chunks(file.metadata) if not _PLAIN.issuperset(chunk.encodings)}
    return sorted(texts - others)


def _chunks(metadata: "pyarrow.parquet.FileMetaData") -> "Iterator[pyarrow.parquet.ColumnChunkMetaData]":
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return (group.column(position) for group in groups for position in range(group.num_columns))


def _check_sizes(metadata: "pyarrow.parquet.FileMetaData", path: Path) -> None:
    """Raises UserError where the sizes that a Parquet file states are out of all proportion to its own."""
    size = path.stat().st_size
    if metadata.num_rows > limits.FREE_VALUES + limits.MAX_RATIO * size:
        raise UserError(f"{path}: claims {metadata.num_rows} rows in {size} bytes: it is damaged or hostile")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for position in range(group.num_columns):
            chunk = group.column(position)
            free = limits.FREE_VALUES + limits.MAX_RATIO * size
            unpacked = chunk.total_uncompressed_size
            if chunk.num_values - group.num_rows > free or unpacked > max(limits.MAX_PART, limits.MAX_RATIO * size):
                raise UserError(
                    f"{path}: column {chunk.path_in_schema} claims {chunk.num_values} values in "
                    f"{unpacked} bytes, which a file of {size} bytes cannot hold: it is damaged or hostile"
                )


def _batch_rows(metadata: "pyarrow.parquet.FileMetaData") -> int:
    """Rows of a batch: few where a text is stored by what it shares with the one before it, or is of a large width."""
    shared = [chunk.total_uncompressed_size for chunk in _chunks(metadata) if "DELTA_BYTE_ARRAY" in chunk.encodings]
    widths = [metadata.schema.column(position).length for position in range(len(metadata.schema))]
    return max(1, min(ROWS, limits.MAX_PART // max([1, *shared, *widths])))


def _honest(batches: "Iterator[pyarrow.RecordBatch]", path: Path) -> "Iterator[pyarrow.RecordBatch]":
    size = path.stat().st_size
    for batch in batches:
        if batch.num_rows > limits.FREE_VALUES + limits.MAX_RATIO * size:
            raise UserError(f"{path}: claims {batch.num_rows} rows in {size} bytes: it is damaged or hostile")
        yield batch


def _check_batch(unpacked: int, path: Path) -> None:
    size = path.stat().st_size
    if unpacked > max(limits.MAX_PART, limits.MAX_RATIO * size):
        raise UserError(
            f"{path}: a batch unpacks to {unpacked} bytes, and the file has {size}: it is damaged or hostile"
        )


def _batches(
    batches: "Iterator[pyarrow.RecordBatch]", schema: "pyarrow.Schema | None" = None
) -> Iterator[tuple[int, Row]]:
    """`schema` has texts where the batches have numbers into a dictionary."""
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            rows = batch.slice(start, ROWS)
            if schema is not None and _size(rows) <= limits.MAX_PART // 4:
                rows = rows.cast(schema)  # plain texts become Python objects four times as fast
            for row in _rows(rows):
                yield number, row
                number += 1


def _rows(batch: "pyarrow.RecordBatch") -> Iterator[Row]:
    """The rows of a batch, made in pieces that fit into memory."""
    size = _size(batch)
    if batch.num_rows == 1 and size > limits.MAX_LINE:
        yield Unreadable(f"has more than {limits.MAX_LINE // 2**20} MiB")
    elif batch.num_rows > 1 and size > limits.MAX_PART // 4:
        half = batch.num_rows // 2
        yield from _rows(batch.slice(0, half))
        yield from _rows(batch.slice(half))
    else:
        yield from to_pylist(batch)


def _size(batch: "pyarrow.RecordBatch") -> int:
    import pyarrow

    return unpacked_size(pyarrow.StructArray.from_arrays(batch.columns, names=batch.schema.names))


def to_pylist(batch: "pyarrow.RecordBatch") -> list[Row]:
    """The rows of a batch as Python objects."""
    return batch.to_pylist()


def unpacked_size(array: "pyarrow.Array") -> int:
    """Bytes of an array's values once each stands for itself, whatever they share in the array."""
    import pyarrow
    import pyarrow.compute

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return 8 * len(array) + unpacked_size(array.dictionary)
        lengths = pyarrow.compute.binary_length(array.dictionary)
        total = pyarrow.compute.sum(pyarrow.compute.take(lengths, array.indices).cast(pyarrow.int64()))
        return 8 * len(array) + (total.as_py() or 0)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return 8 * len(array) + unpacked_size(array.flatten())
    if pyarrow.types.is_list_view(kind) or pyarrow.types.is_large_list_view(kind):
        return 8 * len(array) + unpacked_size(array.flatten())
    if pyarrow.types.is_string_view(kind) or pyarrow.types.is_binary_view(kind):  # views may share their bytes
        lengths = np.frombuffer(array.buffers()[1], np.int32)[4 * array.offset : 4 * (array.offset + len(array)) : 4]
        return 16 * len(array) + int(lengths.astype(np.int64).sum())
    if pyarrow.types.is_run_end_encoded(kind):
        text = _is_text(kind.value_type) and pyarrow.compute.max(pyarrow.compute.binary_length(array.values)).as_py()
        return len(array) * (8 + (text or 0))
    if pyarrow.types.is_map(kind):
        return unpacked_size(array.keys) + unpacked_size(array.items)
    if pyarrow.types.is_struct(kind):
        return 8 * len(array) + sum(unpacked_size(child) for child in array.flatten())
    if pyarrow.types.is_nested(kind):
        raise UserError(f"a column of type {kind} cannot be read: convert it")
    return 8 * len(array) + array.nbytes


def _is_text(kind: "pyarrow.DataType") -> bool:
    import pyarrow.types as types

    return types.is_string(kind) or types.is_binary(kind) or types.is_large_string(kind) or types.is_large_binary(kind)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Tables and token counts kept between runs, so that a sweep, a resume or a second rank tokenises nothing twice.

`datasets` keeps what `map` made of a table that lies on disk, under a fingerprint of the table, the function and its
arguments, tokenizer and chat template among them, and TRL tokenises with `map`. So a table need only lie on disk under
the digest of its rows. Both kinds are in `datasets`' own cache (`HF_DATASETS_CACHE`) and can be removed at any time.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from align.data.loading.tables import to_dataset
from align.records import Record

if TYPE_CHECKING:
    import datasets

VERSION = 2  # of what is kept under a key


def rows_digest(records: Sequence[Record]) -> str:
    """64 hex digits that stand for the records in their order."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.format, record.to_row()], sort_keys=True).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def cached_dataset(records: Sequence[Record]) -> "datasets.Dataset":
    """`to_dataset`, on disk; in memory where the disk has no place for it. Raises UserError as `to_dataset` does."""
    import datasets

    table = to_dataset(records)
    path = _place(rows_digest(records), "rows") / "rows.arrow"
    if not path.is_file() and not _write(path, lambda file: _write_table(table, file)):
        return table
    with suppress(OSError, ValueError):  # removed, or cut off, by somebody else: what is in memory is as good
        return datasets.Dataset.from_file(str(path))
    return table


def cached_lengths(
    records: Sequence[Record], key: str | None, count: Callable[[Sequence[Record]], list[tuple[int, int]]]
) -> list[tuple[int, int]]:
    """`count(records)`, from the cache where records and `key` were met before.

    Args:
        key: hex digits that stand for whatever else the counts depend on; None where nothing does.
    """
    if key is None:
        return count(records)
    path = _place(rows_digest(records), "lengths") / f"{key[:32]}.npy"
    with suppress(OSError, ValueError):
        found = np.load(path, allow_pickle=False)
        if found.shape == (len(records), 2):
            return [(int(first), int(whole)) for first, whole in found]
    lengths = count(records)
    _write(path, lambda file: np.save(file, np.array(lengths, np.int64)))
    return lengths


def _place(digest: str, what: str) -> Path:
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE, "align", f"v{VERSION}", what, digest[:32])


def _write(path: Path, write: Callable[[Any], None]) -> bool:
    """Whole or not at all; False where it cannot be written, which is no reason to fail."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError:
        return False
    return True


def _write_table(table: "datasets.Dataset", file: Any) -> None:
    from datasets.arrow_writer import ArrowWriter

    with ArrowWriter(features=table.features, stream=file) as writer:
        writer.write_table(table.data.table)
        writer.finalize()

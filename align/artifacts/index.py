"""A store's index: what a list shows of every version, so that ten thousand manifests need not be read.

It is a cache and nothing else: each row carries the inode, time and size of the manifest it was read from, a row that
does not match is read anew, and a missing or damaged index is made again. What is true is in the manifests; whatever
verifies or deletes reads those.

The file has two parts, a line each: the rows, and the metrics of each version, which take longer to read and which
only a list that is filtered or sorted by a metric needs.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from align.artifacts.disk import read_regular, unique_name, unreadable
from align.artifacts.manifest import MANIFEST_FILE, read_manifest
from align.artifacts.summary import Summary
from align.errors import UserError

INDEX_FILE = ".index"
_FORMAT = 2
_LARGEST = 1_000_000_000  # bytes
_IN_ROW = Summary.__slots__[:-1]  # all but the metrics
_WORTH_SAVING = 32  # rows read anew: a smaller store is read as fast as an index


class Index:
    """The rows of one store; use it once, for one look at the store."""

    def __init__(self, root: Path):
        self._file = root / INDEX_FILE
        self._root = root
        self._unread = b""  # the part with the metrics, until somebody asks for one
        self._metrics: dict[str, dict[str, dict[str, float]]] = {}
        self._rows = self._load()
        self._new = 0

    def summaries(self, name: str, numbers: Sequence[int], *, metrics: bool = False) -> Iterator[Summary | UserError]:
        """One for each version, in the order of `numbers`; an error that says why a manifest cannot be read.

        Args:
            metrics: whether each needs all its metrics.
        """
        rows = self._rows.setdefault(name, {})
        known = self._all_metrics().setdefault(name, {}) if metrics else {}
        for number in numbers:
            folder = f"v{number:04d}"
            file = f"{self._root}/{name}/{folder}/{MANIFEST_FILE}"
            try:
                status = os.stat(file)
                seen = [status.st_ino, status.st_mtime_ns, status.st_size]
                row = rows.get(folder)
                if row and row[0] == seen and (not metrics or folder in known):
                    yield Summary(*row[1], known.get(folder))
                    continue
                manifest = read_manifest(file, f"{name}:v{number}")
            except UserError as error:
                yield error
                continue
            except (FileNotFoundError, NotADirectoryError):
                yield UserError(f"{file} is missing: {name}:v{number} is damaged, make this version again")
                continue
            except OSError as error:
                yield unreadable(file, error)
                continue
            summary = Summary.of(manifest)
            rows[folder] = [seen, [getattr(summary, name) for name in _IN_ROW]]
            self._all_metrics().setdefault(name, {})[folder] = summary.metrics or {}
            self._new += 1
            yield summary

    def save(self) -> None:
        """Keep what was read for the next look, where that is worth it and the store may be written."""
        if self._new < _WORTH_SAVING:
            return
        parts = (self._rows, self._all_metrics())
        body = b"\n".join(json.dumps(part, separators=(",", ":")).encode() for part in parts)
        temporary = self._file.with_name(unique_name(".writing-"))
        with contextlib.suppress(OSError):
            temporary.write_bytes(_head(body) + body)
            os.replace(temporary, self._file)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

    def _load(self) -> dict[str, dict[str, list]]:
        try:
            head, _, body = read_regular(self._file, _LARGEST).partition(b"\n")
        except (OSError, ValueError):
            return {}
        if head + b"\n" != _head(body):
            return {}
        first, _, second = body.partition(b"\n")
        try:
            rows = json.loads(first)
            whole = all(
                isinstance(row[0], list) and len(row[1]) == len(_IN_ROW)
                for name in rows.values()
                for row in name.values()
            )
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            return {}
        self._unread = second
        return rows if whole else {}

    def _all_metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """name -> folder of a version -> its metrics, of the versions that have a row."""
        if self._unread:
            unread, self._unread = self._unread, b""
            with contextlib.suppress(ValueError, RecursionError):
                read = json.loads(unread)
                self._metrics = read if isinstance(read, dict) else {}
        return self._metrics


def _head(body: bytes) -> bytes:
    return f"align index {_FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode()

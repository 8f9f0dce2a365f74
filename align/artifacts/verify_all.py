"""Verifying many versions in one go that may be interrupted: what is done is remembered until all are."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from align.artifacts.disk import explain_disk_errors
from align.artifacts.manifest import MANIFEST_FILE
from align.artifacts.store import Store
from align.artifacts.verification import Finding, verify_many

JOURNAL = ".verify.jsonl"
_STALE = 7 * 86400  # seconds: an older interrupted sweep is started over


class Sweep:
    """One sweep over a store; a sweep that was interrupted is gone on with, unless `restart`."""

    def __init__(self, store: Store, *, restart: bool = False):
        self._store = store
        self._journal = store.root / JOURNAL
        if restart or self._age() > _STALE:
            self._journal.unlink(missing_ok=True)
        self._done = self._read()
        self.versions = [(name, number) for name, numbers in store.contents() for number in numbers]
        self.left = [pair for pair in self.versions if self._done.get(_key(*pair)) != self._stamp(*pair)]

    def findings(self) -> Iterator[Finding]:
        """One for each version that is left; a whole one is remembered as soon as it is told."""
        self._store.root.mkdir(parents=True, exist_ok=True)
        with explain_disk_errors("note what is verified", self._journal), open(self._journal, "a") as journal:
            for finding in verify_many(self._store, self.left):
                if finding.whole:
                    name, _, number = finding.ref.partition(":v")
                    key = _key(name, int(number))
                    print(json.dumps([key, self._stamp(name, int(number))]), file=journal, flush=True)
                yield finding
        self._journal.unlink(missing_ok=True)

    def _read(self) -> dict[str, list]:
        done = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._journal.read_text("utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    key, stamp = json.loads(line)
                    done[key] = stamp
        return done

    def _age(self) -> float:
        with contextlib.suppress(OSError):
            return time.time() - self._journal.stat().st_mtime
        return 0.0

    def _stamp(self, name: str, number: int) -> list[int] | None:
        # Tells a version that was restored since from the one that was verified; it vouches for no content.
        with contextlib.suppress(OSError):
            status = os.stat(Path(self._store.home(name), f"v{number:04d}", MANIFEST_FILE))
            return [status.st_ino, status.st_mtime_ns]
        return None


def _key(name: str, number: int) -> str:
    return f"{name}:v{number}"

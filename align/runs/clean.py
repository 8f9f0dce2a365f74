"""What runs left on disk that nobody needs: what it is, and removing it without harm to a run that works or resumes.

Removed only when asked for by name are the folders of runs that can still resume, and of those that have published.
A run that is alive is never touched.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from align.artifacts import run_lock
from align.artifacts.disk import explain_disk_errors, remove_tree, sync_folder, unique_name
from align.artifacts.store import Store
from align.errors import UserError
from align.runs.record import CHECKPOINTS, METRICS_FILE, PUBLISHED, RUNNING, UNREADABLE, Run, size_of

REMOVED = ".removed-"  # a run's folder while it is deleted
_OUTPUT = "output"
_HOURS = 3600.0


@dataclass(frozen=True)
class Leftover:
    """Something in a run's folder, or all of it, that could be removed.

    Attributes:
        run: whose it is; None for a folder that a removal left half done.
        path: what would be removed.
        why: what it is, for a person.
        kept: why it stays; empty where it goes.
    """

    run: Run | None
    path: Path
    size: int
    why: str
    kept: str = ""

    def to_json(self) -> dict:
        """The leftover as data."""
        run = {"run": self.run.identity, "name": self.run.name, "state": self.run.state} if self.run else {}
        return {**run, "path": str(self.path), "size": self.size, "why": self.why, "kept": self.kept or None}


def leftovers(
    store: Store,
    runs: Sequence[Run],
    *,
    named: Sequence[Run] = (),
    resumable: bool = False,
    published: bool = False,
    grace_days: float = 7.0,
) -> list[Leftover]:
    """What could be removed, and why each part goes or stays.

    Args:
        named: runs that the user names: all of them goes, also what could resume; no others are looked at.
        resumable: also runs that can resume, older than the grace period.
        published: also the folders of runs that have published: logs, and what W&B keeps offline.
        grace_days: what was touched later stays.

    Raises:
        UserError: a run that is named is at work.
    """
    if named:
        for run in named:
            if run.state == RUNNING:
                raise UserError(f"{run.name} {run.short} is at work, process {run.holder.pid}; end it first")
            if run.folder.parent != store.runs_root:
                raise UserError(f"{run.short} has no run folder any more: there is nothing to clean")
        return [Leftover(run, run.folder, run.size, _what(run)) for run in named]
    found: list[Leftover] = []
    for run in runs:
        found += _of_run(run, resumable=resumable, published=published, grace_days=grace_days)
    for path in sorted(store.runs_root.glob(f"{REMOVED}*")):
        found.append(Leftover(None, path, size_of(path), "a run's folder whose removal was interrupted"))
    return found


def remove(store: Store, chosen: Sequence[Leftover]) -> list[Leftover]:
    """Remove what is not kept, and return what went; each run is held meanwhile, and skipped if it has started."""
    gone = []
    for leftover in chosen:
        if leftover.kept:
            continue
        with explain_disk_errors(f"remove {leftover.path}", leftover.path):
            if leftover.run is None:
                remove_tree(leftover.path)
                gone.append(leftover)
            elif _remove_of_run(store, leftover, leftover.run):
                gone.append(leftover)
    return gone


def _remove_of_run(store: Store, leftover: Leftover, run: Run) -> bool:
    """Remove something of a run; False where somebody has started the run since it was looked at."""
    if not leftover.path.is_dir():
        return False
    hidden = store.runs_root / unique_name(REMOVED)
    try:
        with run_lock.borrow(run.folder) as holder:
            if holder.number != (run.holder.number if run.holder else 0) + 1:
                return False
            os.rename(leftover.path, hidden)
    except run_lock.Held:
        return False
    sync_folder(store.runs_root)
    remove_tree(hidden)
    return True


def _of_run(run: Run, *, resumable: bool, published: bool, grace_days: float) -> list[Leftover]:
    if run.state in (RUNNING, UNREADABLE):
        return []
    days = _age_days(run)
    young = f"younger than {grace_days:g} days" if days < grace_days else ""
    if run.state == PUBLISHED:
        if published:
            return [Leftover(run, run.folder, run.size, _what(run), young)]
        parts = _parts(run, (CHECKPOINTS, _OUTPUT))
        return [Leftover(run, path, size, f"{path.name} of a run that has published") for path, size in parts]
    if not run.can_resume:
        return [Leftover(run, run.folder, run.size, _what(run), young)]
    found = [
        Leftover(run, path, size, "unfinished output, which a resumed run writes again")
        for path, size in _parts(run, (_OUTPUT,))
    ]
    kept = young if resumable else "it can resume; --resumable, or its name, removes it"
    return [*found, Leftover(run, run.folder, run.size - sum(one.size for one in found), _what(run), kept)]


def _parts(run: Run, names: Sequence[str]) -> list[tuple[Path, int]]:
    """The folders in a run's folder that have something in them, with their bytes."""
    paths = [run.folder / name for name in names]
    return [(path, size) for path in paths if path.is_dir() and (size := size_of(path))]


def _what(run: Run) -> str:
    if run.state == PUBLISHED:
        offline = any((run.folder / "wandb").glob("offline-run-*"))
        return "log and records of a run that has published" + (", W&B's offline files among them" if offline else "")
    state = f"a run that {'was ' if run.state in ('stopped', 'interrupted') else ''}{run.state}"
    if run.can_resume:
        return f"{state} and resumes after step {max(run.checkpoints)}"
    return f"{state} and has no checkpoint to resume from"


def _age_days(run: Run) -> float:
    """Days since a run did anything."""
    newest = run.folder.stat().st_mtime
    for name in ("holders", CHECKPOINTS, METRICS_FILE):
        if (run.folder / name).exists():
            newest = max(newest, (run.folder / name).stat().st_mtime)
    if run.ended:
        newest = max(newest, datetime.fromisoformat(run.ended).timestamp())
    return (time.time() - newest) / (24 * _HOURS)

"""A run's checkpoints on disk: whole or not there, as many as the budget allows, and how much room there is.

One is written in a hidden folder beside its place, made durable, marked whole last and renamed: what a crash or a
power cut leaves half done has another name, and the run goes on from the one before.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from align.artifacts.disk import make_folder, remove_tree, sync_file, sync_folder, unique_name, write_durably
from align.artifacts.text import human_size
from align.errors import UserError

MARK = "whole.json"
WRITING, REMOVING = ".writing-", ".removing-"
_PREFIX = "checkpoint-"
_PICKLED_ARGUMENTS = "training_args.bin"  # never read again


def stage(folder: Path) -> Path:
    """A new hidden folder in which to write `checkpoint-<step>`; those that were left half done are removed."""
    make_folder(folder, 0o700)
    sweep(folder)
    staging = folder / unique_name(WRITING)
    staging.mkdir(0o700)
    return staging


def sweep(folder: Path) -> None:
    """Remove what was being written, or removed, when a process died."""
    for path in folder.glob(".*"):
        if path.name.startswith((WRITING, REMOVING)):
            remove_tree(path)


def sync(checkpoint: Path) -> None:
    """Make every file of a checkpoint that is being written durable; once on each host."""
    (checkpoint / _PICKLED_ARGUMENTS).unlink(missing_ok=True)
    for here, _, files in os.walk(checkpoint):
        for name in files:
            sync_file(Path(here, name))
        sync_folder(Path(here))


def commit(staging: Path, step: int, facts: dict[str, Any]) -> Path:
    """Mark the synced checkpoint in `staging` whole, with `facts` in its mark, and give it its name."""
    written = staging / name_of(step)
    sizes = {str(path.relative_to(written)): path.stat().st_size for path in written.rglob("*") if path.is_file()}
    mark = {"step": step, "files": sizes, **facts}
    write_durably(written / MARK, (json.dumps(mark, indent=1) + "\n").encode())
    sync_folder(written)
    path = staging.parent / name_of(step)
    if path.exists():  # of a life before this one, from which it was not possible to go on
        _remove(path)
    os.rename(written, path)
    sync_folder(staging.parent)
    remove_tree(staging)
    return path


def name_of(step: int) -> str:
    """The name of the checkpoint after an optimizer step."""
    return f"{_PREFIX}{step}"


def read_mark(checkpoint: Path) -> dict[str, Any] | None:
    """The mark of a whole checkpoint: its step, its files' sizes and the facts; None for one that is not whole."""
    try:
        mark = json.loads((checkpoint / MARK).read_bytes())
        whole = all((checkpoint / name).stat().st_size == size for name, size in mark["files"].items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return mark if whole else None


def all_whole(folder: Path) -> dict[int, Path]:
    """step -> the whole checkpoints in a folder, oldest first."""
    found = {}
    for path in folder.glob(f"{_PREFIX}*"):
        mark = read_mark(path)
        if mark is not None:
            found[mark["step"]] = path
    return dict(sorted(found.items()))


def last_whole(folder: Path) -> Path | None:
    """The last whole checkpoint of this run's own folder; others are removed.

    Raises:
        UserError: others may write there. Parts of a checkpoint are pickles, which only their writer may load.
    """
    if not folder.is_dir():
        return None
    for place in (folder, folder.parent):
        status = place.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise UserError(
                f"{place} belongs to another user or may be written by others, and what is loaded from a checkpoint "
                f"could run code: take it over (chown, chmod 700) if you know what is in it, or delete it"
            )
    sweep(folder)
    whole = all_whole(folder)
    for path in folder.glob(f"{_PREFIX}*"):
        if path not in whole.values():
            _remove(path)
    return list(whole.values())[-1] if whole else None


def keep_budget(folder: Path, *, limit: int | None, max_gb: float | None, best: Path | None) -> None:
    """Remove the oldest checkpoints beyond `limit` of them or `max_gb`; the last and the best stay.

    Args:
        limit: `trainer.save_total_limit`; None or 0 is no limit.
        max_gb: 10^9 bytes; None is no limit.
        best: the best by `trainer.metric_for_best_model`.
    """
    paths = list(all_whole(folder).values())
    sizes = {path: size_of(path) for path in paths} if max_gb is not None else {}
    for path in list(paths[:-1]):
        too_many = bool(limit) and len(paths) > limit
        too_big = max_gb is not None and sum(sizes[one] for one in paths) > max_gb * 1e9
        if path != best and (too_many or too_big):
            paths.remove(path)
            _remove(path)


def size_of(checkpoint: Path) -> int:
    """Bytes in a whole checkpoint."""
    mark = read_mark(checkpoint)
    return sum(mark["files"].values()) if mark else 0


def check_room(folder: Path, need: int) -> None:
    """There is room for `need` more bytes.

    Raises:
        UserError: there is not; with the checkpoint from which the run can go on.
    """
    place = next(one for one in (folder, *folder.parents) if one.is_dir())
    free = shutil.disk_usage(place).free
    if free >= need:
        return
    whole = all_whole(folder)
    resumes = f"it resumes after step {max(whole)}" if whole else "it starts from the beginning"
    raise UserError(
        f"the disk of {folder} has {human_size(free)} free and a checkpoint takes {human_size(need)}; free some, or "
        f"keep fewer (trainer.save_total_limit, artifacts.checkpoints_gb), and give the same command again: {resumes}"
    )


def _remove(path: Path) -> None:
    """Take a checkpoint away whole: what a crash leaves of it has another name."""
    gone = path.with_name(unique_name(REMOVING))
    os.rename(path, gone)
    remove_tree(gone)

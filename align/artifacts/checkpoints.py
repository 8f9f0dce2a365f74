"""A run's checkpoints on disk: whole or not there, as many as the budget allows, and how much room there is.

A checkpoint is written in a hidden folder next to its place, made durable, marked whole last and renamed: what a crash
or a power cut leaves half done has another name, and the run resumes from the checkpoint before. The mark holds the
BLAKE3 hash of every file, which is checked before anything is loaded. Checkpoints of release 0.1.0 have sizes only.
"""

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.artifacts.digests import hash_files, walk_files
from align.artifacts.disk import (
    make_folder,
    read_regular,
    remove_tree,
    sync_file,
    sync_folder,
    unique_name,
    write_durably,
)
from align.artifacts.model_files import tensor_shapes
from align.artifacts.text import human_size
from align.errors import UserError

MARK = "whole.json"
WRITING, REMOVING, DAMAGED = ".writing-", ".removing-", ".damaged-"
_PREFIX = "checkpoint-"
_PICKLED_ARGUMENTS = "training_args.bin"  # never read again
_LARGEST = 16_000_000  # bytes of a mark
_ZIPPED = (".pt", ".pth")  # what torch.save writes: a zip archive, with a CRC-32 of each part


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
    """Mark the synced checkpoint in `staging` whole, with hashes and `facts` in its mark, and give it its name."""
    written = staging / name_of(step)
    mark = {"step": step, "files": hash_files(walk_files(written)), **facts}
    write_durably(written / MARK, (json.dumps(mark, indent=1) + "\n").encode())
    sync_folder(written)
    path = staging.parent / name_of(step)
    if path.exists():  # of an earlier attempt, from which the run could not resume
        _remove(path)
    os.rename(written, path)
    sync_folder(staging.parent)
    remove_tree(staging)
    return path


def name_of(step: int) -> str:
    """The name of the checkpoint after an optimizer step."""
    return f"{_PREFIX}{step}"


def read_mark(checkpoint: Path) -> dict[str, Any] | None:
    """The mark of a checkpoint whose files all have their sizes: its step, files and facts; None for any other."""
    try:
        mark = json.loads(read_regular(checkpoint / MARK, _LARGEST))
        whole = mark["step"] == int(checkpoint.name.removeprefix(_PREFIX)) and all(
            (checkpoint / name).stat().st_size == _size(entry) for name, entry in mark["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return mark if whole else None


def all_whole(folder: Path) -> dict[int, Path]:
    """step -> the checkpoints in a folder whose files all have their sizes, oldest first."""
    marks = {path: read_mark(path) for path in folder.glob(f"{_PREFIX}*")}
    return dict(sorted((mark["step"], path) for path, mark in marks.items() if mark is not None))


def has_digests(checkpoint: Path) -> bool:
    """Whether the mark holds hashes; release 0.1.0 wrote sizes only."""
    mark = read_mark(checkpoint)
    return mark is not None and all(isinstance(entry, dict) for entry in mark["files"].values())


def problem(checkpoint: Path) -> str | None:
    """What is wrong with the content of a checkpoint, as `optimizer.pt is not what was written`; None if nothing is.

    Without hashes, what torch.save wrote is checked by its CRC-32 sums, and JSON and safetensors headers are read.
    """
    mark = read_mark(checkpoint)
    if mark is None:
        return "it is not whole"
    try:
        present = dict(walk_files(checkpoint))
        present.pop(MARK)
        if odd := sorted(present.keys() ^ mark["files"].keys()):
            return f"{odd[0]} {'does not belong to it' if odd[0] in present else 'is missing'}"
        if all(isinstance(entry, dict) for entry in mark["files"].values()):
            found = hash_files(present.items())
            wrong = [name for name, entry in sorted(mark["files"].items()) if found[name] != entry]
        else:
            wrong = [name for name, path in sorted(present.items()) if not _is_readable(path)]
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    return f"{wrong[0]} is not what was written" if wrong else None


def last_whole(folder: Path, *, also_best: bool = False, say: Callable[[str], None] = print) -> Path | None:
    """The last checkpoint of this run's own folder whose content is what was written.

    A damaged one is put aside, with a sentence, and the one before it is taken; None where there is none.

    Args:
        also_best: the best checkpoint so far is loaded at the end, so it must be sound too.
        say: takes each sentence.

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
    places = sorted(folder.glob(f"{_PREFIX}*"), key=_step_in_name)
    while places:
        newest = places.pop()
        trouble = problem(newest) or (also_best and _problem_of_best(newest)) or None
        if trouble is None:
            # What is older and whole is checked when it is needed, and removed by the budget.
            for path in places:
                if read_mark(path) is None:
                    _remove(path)
            if not has_digests(newest):
                say(f"{newest.name} was written by align 0.1.0, without hashes: its weights cannot be verified")
            return newest
        _put_aside(newest)
        if places:
            say(f"{newest.name} is damaged ({trouble}) and was put aside; trying {places[-1].name}")
        else:
            say(f"{newest.name} is damaged ({trouble}) and was put aside; the run starts from the beginning")
    return None


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
        too_many = limit is not None and 0 < limit < len(paths)
        too_big = max_gb is not None and sum(sizes[one] for one in paths) > max_gb * 1e9
        if path != best and (too_many or too_big):
            paths.remove(path)
            _remove(path)


def size_of(checkpoint: Path) -> int:
    """Bytes in a whole checkpoint."""
    mark = read_mark(checkpoint)
    return sum(map(_size, mark["files"].values())) if mark else 0


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


def _size(entry: dict[str, Any] | int) -> int:
    """Bytes of a file by its entry in a mark, which was the size alone in 0.1.0."""
    size = entry["size"] if isinstance(entry, dict) else entry
    if type(size) is not int:
        raise TypeError(f"the size is {size!r}")
    return size


def _step_in_name(path: Path) -> int:
    number = path.name.removeprefix(_PREFIX)
    return int(number) if number.isascii() and number.isdigit() else -1


def _problem_of_best(checkpoint: Path) -> str | None:
    """What is wrong with the best checkpoint that this one names; None where it names none, or itself."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_bytes())
        best = state.get("best_model_checkpoint")
    except (OSError, ValueError, AttributeError, RecursionError):
        return "trainer_state.json is not what was written"
    if not best or Path(best).name == checkpoint.name:
        return None
    trouble = problem(checkpoint.with_name(Path(best).name))
    return f"the best so far, {Path(best).name}, is damaged: {trouble}" if trouble else None


def _is_readable(path: Path) -> bool:
    """Whether a file that has no hash can at least be read as what it is."""
    try:
        if path.suffix in _ZIPPED:
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        if path.suffix == ".safetensors":
            tensor_shapes(path.parent)
    except (ValueError, RecursionError, UserError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError):
        return False
    return True


def _put_aside(path: Path) -> None:
    """Keep the last damaged checkpoint under another name: a defect of the disk or the memory may need a look."""
    for older in path.parent.glob(f"{DAMAGED}*"):
        remove_tree(older)
    os.rename(path, path.with_name(unique_name(f"{DAMAGED}{path.name}-")))
    sync_folder(path.parent)


def _remove(path: Path) -> None:
    """Take a checkpoint away whole: what a crash leaves of it has another name."""
    gone = path.with_name(unique_name(REMOVING))
    os.rename(path, gone)
    remove_tree(gone)

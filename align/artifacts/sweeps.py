"""Sweeps: which runs were started together to be compared, and what each of them published.

`<store>/.sweeps/<name>.json` is written by `launch/run.py --multirun`. The versions in it stay in the store, although
no alias points at them, until `align artifacts gc --release-sweep` says that nobody compares them any more.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from align.artifacts.disk import explain_disk_errors, make_folder, sync_folder, write_durably
from align.artifacts.refs import check_word
from align.artifacts.store import Store
from align.errors import UserError

FOLDER = ".sweeps"
_SUFFIX = ".json"


@dataclass(frozen=True)
class Job:
    """One combination of a sweep.

    Attributes:
        settings: key -> value of what is swept.
        identity: of the run.
        ref: the version it published; None where it has published nothing.
    """

    settings: Mapping[str, str]
    identity: str
    ref: str | None = None


@dataclass(frozen=True)
class Sweep:
    """What a sweep has made so far.

    Attributes:
        name: also the group of its runs.
        metric, better: what it is sorted by; `min` or `max`.
        best: the best version by that metric.
    """

    name: str
    jobs: Sequence[Job] = field(default_factory=tuple)
    metric: str | None = None
    better: str | None = None
    best: str | None = None

    @property
    def refs(self) -> list[str]:
        """The versions that it has published."""
        return [job.ref for job in self.jobs if job.ref]

    def save(self, store: Store) -> None:
        """Write the record, replacing an earlier one of that name."""
        folder = store.root / FOLDER
        body: dict[str, Any] = asdict(self)
        with explain_disk_errors("record this sweep", folder):
            make_folder(folder)
            write_durably(folder / f"{check_word(self.name, 'sweep')}{_SUFFIX}", _encoded(body))
            sync_folder(folder)


def read_sweeps(store: Store) -> list[Sweep]:
    """Every sweep of the store, by name.

    Raises:
        UserError: a record cannot be read: nobody can tell which versions it keeps.
    """
    folder = store.root / FOLDER
    if not folder.is_dir():
        return []
    return [_read(file) for file in sorted(folder.glob(f"*{_SUFFIX}"))]


def release(store: Store, names: Sequence[str]) -> None:
    """Forget sweeps: their versions are needed no more than others."""
    for name in names:
        file = store.root / FOLDER / f"{check_word(name, 'sweep')}{_SUFFIX}"
        with explain_disk_errors(f"release the sweep {name}", file), contextlib.suppress(FileNotFoundError):
            file.unlink()


def check_released(store: Store, names: Sequence[str]) -> list[str]:
    """The sweeps that a user names, `all` being every one.

    Raises:
        UserError: there is no such sweep.
    """
    known = [sweep.name for sweep in read_sweeps(store)]
    if "all" in names:
        return known
    for name in names:
        if name not in known:
            has = f"sweeps: {', '.join(known)}" if known else "it has none"
            raise UserError(f"no sweep {name!r} in the store {store.root}; {has}")
    return list(names)


def _read(file: Path) -> Sweep:
    try:
        body = json.loads(file.read_bytes())
        jobs = [Job(dict(job["settings"]), str(job["identity"]), job["ref"]) for job in body.pop("jobs")]
        return Sweep(jobs=tuple(jobs), **body)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{file}, the record of a sweep, cannot be read ({error}); delete it if nobody needs that sweep's versions"
        ) from None


def _encoded(body: dict[str, Any]) -> bytes:
    return (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()

"""A run as its folder and the store tell of it: what it is, how far it is, how it ended, and what it left."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.artifacts import checkpoints, run_lock
from align.artifacts.index import Index
from align.artifacts.metrics import HEADLINES, headline, numbers
from align.artifacts.refs import Ref, is_ref
from align.artifacts.store import Store
from align.artifacts.summary import Summary, stage_of
from align.artifacts.text import printable
from align.artifacts.version import Version
from align.errors import UserError
from align.runs.metrics_file import STEP, last_values
from align.runs.progress import Progress, read_progress

RUNNING, STOPPED, INTERRUPTED, FAILED, DIED, PUBLISHED = STATES = (
    run_lock.RUNNING,
    run_lock.STOPPED,
    run_lock.INTERRUPTED,
    run_lock.FAILED,
    "died",  # its process is gone and said nothing: killed, out of memory, a power cut
    run_lock.PUBLISHED,
)
UNREADABLE = "unreadable"
RECORD_FILE, CONFIG_FILE, METRICS_FILE = "run.json", "config.yaml", "metrics.jsonl"
LOG_FILE, CHECKPOINTS = "log.txt", "checkpoints"
ERRORS = "errors"  # what each rank that failed said, in a file of its own
SHORT = 12  # digits of an identity that a person reads
_LEAST = 4  # digits of an identity that name a run


@dataclass(frozen=True)
class Run:
    """One run, as it was when it was read.

    Attributes:
        folder: its private folder, or that of a version whose run's folder is gone.
        state: one of STATES, or UNREADABLE.
        error: why it failed, where that is known.
        metrics: the last value of each metric; of a published run those of its version.
        published: the versions in the store that have its identity; the last is the newest of the run's own name.
        checkpoints: step -> bytes of each whole checkpoint.
        size: bytes in its folder.
        record: `run.json`.
    """

    identity: str
    folder: Path
    state: str
    name: str = "?"
    stage: str = "?"
    error: str | None = None
    holder: run_lock.Holder | None = None
    progress: Progress | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    published: Sequence[str] = ()
    checkpoints: Mapping[int, int] = field(default_factory=dict)
    size: int = 0
    record: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def short(self) -> str:
        """What a person calls the run: the first digits of its identity, or the version that was named."""
        return self.label or self.identity[:SHORT]

    @property
    def started(self) -> str | None:
        """When it was first started under the record that is there; ISO 8601, UTC."""
        return self.record.get("started") or (self.holder.since if self.holder else None)

    @property
    def ended(self) -> str | None:
        """When it ended, as far as anybody noted it; ISO 8601, UTC."""
        return self.holder.ended if self.holder else None

    @property
    def can_resume(self) -> bool:
        """Whether the same command would resume it from a checkpoint."""
        return self.state not in (RUNNING, PUBLISHED) and bool(self.checkpoints)

    @property
    def headline(self) -> list[str]:
        """The metrics that speak for it; of a run that is not done, what its trainer logs of them."""
        return live_headline(self.stage, self.metrics)

    def to_json(self) -> dict[str, Any]:
        """The run as data."""
        holder = self.holder
        return {
            "identity": self.identity,
            "name": self.name,
            "stage": self.stage,
            "group": self.record.get("group"),
            "state": self.state,
            "error": self.error,
            "resumable": self.can_resume,
            "step": self.step,
            "progress": vars(self.progress) if self.progress else None,
            "metrics": {name: _for_json(value) for name, value in self.metrics.items()},
            "headline": self.headline,
            "published": list(self.published),
            "checkpoints": [{"step": step, "size": size} for step, size in self.checkpoints.items()],
            "size": self.size,
            "started": self.started,
            "ended": self.ended,
            "host": holder.host if holder else None,
            "pid": holder.pid if holder else None,
            "path": str(self.folder),
        }


def live_headline(stage: str | None, metrics: Mapping[str, float], count: int = 2) -> list[str]:
    """The metrics that speak for a run; before it has evaluated, those of its training under the same names."""
    if stage not in HEADLINES:
        return headline(stage, metrics, count)
    chosen = []
    for metric in HEADLINES[stage]:
        logged = metric.name.removeprefix("eval_").removeprefix("train_")
        chosen.append(metric.best(metrics) or (logged if logged in metrics else None))
    return list(dict.fromkeys(name for name in chosen if name is not None))[:count]


def read_runs(store: Store) -> list[Run]:
    """Every run whose folder is in the store, the one that was started last first."""
    published = publications(store)
    runs = [read_run(store, folder, published) for folder in _folders(store.runs_root)]
    return sorted(runs, key=lambda run: (run.started or "", run.identity), reverse=True)


def read_run(store: Store, folder: Path, published: Mapping[str, Sequence["Publication"]]) -> Run:
    """One run.

    Args:
        published: as `publications` gives it.
    """
    identity = folder.name
    versions = published.get(identity, ())
    refs: list[str] = [version.ref for version in versions]
    try:
        record = _record(folder)
        holder = run_lock.read_holder(folder)
        is_alive = run_lock.is_held(folder)
        marks = checkpoints.all_whole(folder / CHECKPOINTS)
        sizes = {step: checkpoints.size_of(path) for step, path in marks.items()}
        logged = last_values(folder / METRICS_FILE)
        progress = read_progress(folder)
    except OSError as error:
        reason = f"{error.filename or folder} cannot be read ({error.strerror})"
        return Run(identity, folder, UNREADABLE, error=reason, published=refs)
    name = printable(record.get("name") or _ref_name(refs))
    refs.sort(key=lambda ref: _ref_name([ref]) == name)  # a value model is not what the run is for
    steps = [int(logged[STEP])] if STEP in logged else []
    steps += list(sizes) + ([progress.done] if progress and progress.unit == "steps" else [])
    state, error = _ending(folder, holder, is_alive, versions)
    metrics = {name: value for name, value in logged.items() if name != STEP}
    if state == PUBLISHED and refs:
        with contextlib.suppress(UserError):  # a damaged version is told of by `align artifacts ls`
            metrics = numbers(store.resolve(refs[-1]).manifest.metrics) or metrics
    return Run(
        identity,
        folder,
        state,
        name=name,
        stage=printable(record.get("stage") or "?"),
        error=error,
        holder=holder,
        progress=progress,
        step=max(steps, default=None),
        metrics=metrics,
        published=refs,
        checkpoints=sizes,
        size=size_of(folder),
        record=record,
    )


def find_run(store: Store, text: str) -> Run:
    """The run that a user names: `dpo` (the newest of that name), `dpo:v2`, or the first digits of an identity.

    Raises:
        UserError: there is none, or several identities begin so.
    """
    if ":" in text and is_ref(text):
        return run_of_version(store.resolve(text))
    runs = read_runs(store)
    named = [run for run in runs if run.name == text]
    if named:
        return named[0]
    begins = [run for run in runs if len(text) >= _LEAST and run.identity.startswith(text)]
    if len(begins) == 1:
        return begins[0]
    if begins:
        raise UserError(f"{text!r} begins several runs: {', '.join(run.identity[:SHORT] for run in begins)}")
    with contextlib.suppress(UserError):
        if Ref.parse(text).name in store.names():
            return run_of_version(store.resolve(text))  # its run's folder is gone
    known = ", ".join(dict.fromkeys(run.name for run in runs)) or "none"
    raise UserError(
        f"no run {text!r} in {store.runs_root}; name a run's artifact (here: {known}), a version such as dpo:v2, or "
        "the first digits of an identity, as align runs ls shows them"
    )


def run_of_version(version: Version) -> Run:
    """The run that published a version, as the version itself keeps it."""
    manifest = version.manifest
    step = last_values(version.path / METRICS_FILE).get(STEP)
    return Run(
        manifest.identity or "?",
        version.path,
        PUBLISHED,
        name=version.name,
        stage=stage_of(manifest) or "?",
        step=None if step is None else int(step),
        metrics=numbers(manifest.metrics),
        published=(version.ref,),
        size=manifest.size,
        record={"started": manifest.started, "inputs": manifest.inputs},
        label=version.ref,
    )


@dataclass(frozen=True)
class Publication:
    """A version that a run has published."""

    ref: str
    ended: str  # ISO 8601, UTC


def publications(store: Store) -> dict[str, list[Publication]]:
    """identity -> the versions in the store that a run of it has published, by name and number."""
    found: dict[str, list[Publication]] = {}
    index = Index(store.root)
    for name, versions in store.contents():
        for summary in index.summaries(name, versions):
            if isinstance(summary, Summary) and summary.identity:
                made = Publication(f"{name}:v{summary.number}", summary.ended or "")
                found.setdefault(summary.identity, []).append(made)
    index.save()
    return found


def size_of(folder: Path) -> int:
    """Bytes in the files of a folder; what disappears meanwhile counts nothing."""
    total = 0
    for here, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.name[0] != "." and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _record(folder: Path) -> dict[str, Any]:
    """What `run.json` says; nothing where it is missing or damaged."""
    try:
        record = json.loads((folder / RECORD_FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _ending(
    folder: Path, holder: run_lock.Holder | None, is_alive: bool, published: Sequence[Publication]
) -> tuple[str, str | None]:
    """The state of a run, and why it failed."""
    if is_alive:
        return RUNNING, None
    if holder is None:
        return (PUBLISHED if published else DIED), None
    state = DIED if holder.state == RUNNING else holder.state
    # what died after it had published, before it noted so, has published
    if state == PUBLISHED or any(version.ended >= holder.since for version in published):
        return PUBLISHED, None
    error = holder.error or _rank_error(folder)
    return (FAILED, error) if error and state in (STOPPED, DIED) else (state, error)


def _rank_error(folder: Path) -> str | None:
    """What the first rank that failed left, which the main process did not live to record: its last line."""
    files = sorted((folder / ERRORS).glob("rank-*.txt"))
    for file in files:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
            if lines:
                return f"{file.stem.replace('-', ' ')}: {lines[-1].strip()}"
    return None


def _ref_name(refs: Sequence[str]) -> str:
    return refs[0].partition(":")[0] if refs else "?"


def _for_json(value: float) -> float | str:
    return value if isinstance(value, int) or value - value == 0 else str(value)

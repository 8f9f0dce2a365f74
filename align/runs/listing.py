"""`align runs ls`: which runs a list shows, in which order, and in which words."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from align.artifacts.metrics import Condition, Metric, named_metric
from align.artifacts.text import human_size, minute, printable, short_number, shorten, table
from align.errors import UserError
from align.runs.record import FAILED, PUBLISHED, RUNNING, STATES, UNREADABLE, Run

ORDERS = ("started", "name", "size")
RESUMABLE = "resumable"
_ERROR = 90  # characters of an error in a list


@dataclass(frozen=True)
class Selection:
    """The runs that a user wants to see; the empty one is all of them, the newest first.

    Attributes:
        names: patterns such as `dpo*`; a run's name needs to match one.
        states: of STATES, or `resumable`; a run needs to be in one.
        stage: what it runs.
        group: its pipeline or sweep.
        conditions: on metrics, such as `loss<0.5`; all must hold.
        sort: one of ORDERS, or a metric, the best first.
    """

    names: Sequence[str] = ()
    states: Sequence[str] = ()
    stage: str | None = None
    group: str | None = None
    conditions: Sequence[Condition] = ()
    sort: str = "started"
    reverse: bool = False
    count: int | None = None

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that the user names, for a list to show first."""
        names = [condition.name for condition in self.conditions]
        return [named_metric(name, self.stage) for name in ([] if self.sort in ORDERS else [self.sort]) + names]

    def check(self) -> None:
        """Raises UserError for a state that there is not, or a count below 1."""
        known = (*STATES, UNREADABLE, RESUMABLE)
        for state in self.states:
            if state not in known:
                raise UserError(f"there is no state {state!r}; states: {', '.join(known)}")
        if self.count is not None and self.count < 1:
            raise UserError(f"-n {self.count} shows nothing; write a positive number")

    def select(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that are wanted, in the order that is wanted."""
        self.check()
        chosen = [run for run in runs if self._wants(run)]
        if self.sort == "name":
            chosen.sort(key=lambda run: run.name)
        elif self.sort == "size":
            chosen.sort(key=lambda run: run.size, reverse=True)
        elif self.sort != "started":
            metric = named_metric(self.sort, self.stage)
            if chosen and not any(metric.best(run.metrics) for run in chosen):
                known = sorted({name for run in chosen for name in run.headline})
                raise UserError(
                    f"no run listed here has the metric {metric.name!r}; sort by {', '.join(ORDERS)}"
                    + (f", or by a metric such as {', '.join(known[:6])}" if known else "")
                )
            chosen.sort(key=lambda run: metric.sort_key(run.metrics))
        return (chosen[::-1] if self.reverse else chosen)[: self.count]

    def _wants(self, run: Run) -> bool:
        if self.names and not any(fnmatchcase(run.name, pattern) for pattern in self.names):
            return False
        if self.states and not (run.state in self.states or (RESUMABLE in self.states and run.can_resume)):
            return False
        if self.stage and run.stage != self.stage:
            return False
        if self.group and run.record.get("group") != self.group:
            return False
        return all(condition.holds(run.metrics) for condition in self.conditions)


def run_table(runs: Sequence[Run], named: Sequence[Metric] = ()) -> str:
    """Runs as a table, and under it why those failed that did."""
    rows = [
        [
            run.short,
            run.name,
            run.stage,
            run.state,
            progress_of(run),
            metrics_of(run, named),
            human_size(run.size),
            minute(run.started),
            result_of(run),
        ]
        for run in runs
    ]
    headings = ["RUN", "NAME", "STAGE", "STATE", "PROGRESS", "METRICS", "SIZE", "STARTED (UTC)", "RESULT"]
    return table(headings, rows, right=["SIZE"])


def progress_of(run: Run) -> str:
    """How far a run is, in a few words."""
    if run.state == PUBLISHED:
        return f"{run.step} steps" if run.step else ""
    if run.progress and (run.step is None or run.progress.unit != "steps" or run.progress.done >= run.step):
        return str(run.progress)
    total = f"/{run.progress.total}" if run.progress and run.progress.total > 0 else ""
    return f"{run.step}{total} steps" if run.step else ""


def metrics_of(run: Run, named: Sequence[Metric] = ()) -> str:
    """The metrics that the user names, then those that speak for the run."""
    first = [name for metric in named if (name := metric.best(run.metrics))]
    names = dict.fromkeys([*first, *run.headline])
    return printable(" ".join(f"{name}={short_number(run.metrics[name])}" for name in names))


def result_of(run: Run) -> str:
    """What came of a run: a version, an error, or where it would resume."""
    if run.state == RUNNING:
        return f"process {run.holder.pid} on {run.holder.host}" if run.holder else ""
    if run.state == PUBLISHED:
        if run.published:
            return run.published[-1]
        return f"{run.holder.published} (removed since)" if run.holder and run.holder.published else ""
    resumes = f"resumes after step {max(run.checkpoints)}" if run.checkpoints else ""
    error = shorten(" ".join(run.error.split()), _ERROR) if run.error else ""
    if run.state in (FAILED, UNREADABLE) and error:
        return f"{error} ({resumes})" if resumes else error
    return resumes or "no checkpoint"

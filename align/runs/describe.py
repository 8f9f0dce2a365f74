"""All about one run, as a person reads it in a terminal."""

from collections.abc import Sequence

from align.artifacts.metrics import HEADLINES, Metric
from align.artifacts.text import clock, human_size, printable, short_number
from align.runs.listing import progress_of, result_of
from align.runs.metrics_file import Curves
from align.runs.record import ERRORS, LOG_FILE, RUNNING, Run
from align.runs.terminal import plot

_HELD_OUT = "eval_"
_PLOTS = 2


def description(run: Run, curves: Curves, metrics: Sequence[Metric] = ()) -> str:
    """The facts of a run, its checkpoints, its last metrics, and its curves.

    Args:
        metrics: whose curves are drawn; by default those that speak for the run.
    """
    holder = run.holder
    facts = {
        "stage": run.stage,
        "state": run.state,
        "result": result_of(run) if run.state != RUNNING else "",
        "progress": progress_of(run),
        "time left": _time_left(run),
        "started": run.started,
        "ended": run.ended,
        "process": f"{holder.pid} on {holder.host}" if holder else "",
        "group": run.record.get("group"),
        "size": human_size(run.size),
        "folder": run.folder,
        "log": run.folder / LOG_FILE if (run.folder / LOG_FILE).is_file() else "",
        "identity": run.identity,
    }
    lines = [f"{run.name} {run.short}" if not run.label else run.label]
    lines += [f"  {name:<12}{printable(value)}" for name, value in facts.items() if value]
    if run.error:
        lines += ["error:", *(f"  {printable(line)}" for line in run.error.splitlines())]
        lines += [f"  (all of it: {file})" for file in sorted((run.folder / ERRORS).glob("rank-*.txt"))]
    inputs = [f"  {role}: {ref}" for role, ref in _inputs(run)]
    lines += ["inputs:", *inputs] if inputs else []
    if run.checkpoints:
        lines.append("checkpoints:")
        lines += [f"  step {step}  {human_size(size)}" for step, size in run.checkpoints.items()]
    if run.metrics:
        width = max(len(name) for name in run.metrics)
        lines.append("metrics:")
        lines += [f"  {printable(name):<{width}}  {short_number(value)}" for name, value in run.metrics.items()]
    for name in charted(run, curves, metrics):
        lines += ["", plot(name, {run.short: curves.points[name]})]
    return "\n".join(lines)


def charted(run: Run, curves: Curves, metrics: Sequence[Metric] = ()) -> list[str]:
    """The curves that are drawn of a run: those named, else those of its headline with more than one point."""
    if metrics:
        found = [name for metric in metrics for name in curves.names() if metric.best({name: 0.0})]
        return list(dict.fromkeys(found))
    names = [metric.name for metric in HEADLINES.get(run.stage, ())]
    names = [other for name in names for other in (name.removeprefix(_HELD_OUT), name)]
    return [name for name in names if len(curves.points.get(name, ())) > 1][:_PLOTS]


def _time_left(run: Run) -> str:
    left = run.progress.seconds_left if run.progress and run.state == RUNNING else None
    return f"about {clock(left)}" if left is not None else ""


def _inputs(run: Run) -> list[tuple[str, str]]:
    found = []
    for role, record in (run.record.get("inputs") or {}).items():
        for entry in record if isinstance(record, list) else [record]:
            if isinstance(entry, dict) and entry.get("ref"):
                found.append((printable(role), printable(entry["ref"])))
    return list(dict.fromkeys(found))

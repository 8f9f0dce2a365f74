"""What differs between runs: settings, inputs and metrics, one row for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.artifacts.config_file import LARGEST, read_settings
from align.artifacts.disk import read_regular
from align.artifacts.metrics import Metric, named_metric
from align.artifacts.text import short_number, shorten, table
from align.runs.describe import charted
from align.runs.metrics_file import Curves
from align.runs.record import CONFIG_FILE, Run
from align.runs.terminal import plot

# Blocks of the config that say where and how a run is watched, never what it computes; inputs have rows of their own.
_BESIDE = ("tracking", "artifacts", "launcher", "force", "inputs")
_PLOTS = 2
_CELL = 40  # characters of a value in a terminal
_ABSENT = "-"


@dataclass(frozen=True)
class Comparison:
    """What differs between some runs.

    Attributes:
        labels: the runs.
        config, inputs, metrics: name -> its value in each run, in that order; None where a run has none.
        better: metric -> `min` or `max`.
    """

    labels: list[str]
    config: dict[str, list[Any]] = field(default_factory=dict)
    inputs: dict[str, list[str | None]] = field(default_factory=dict)
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    better: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The comparison as data."""
        return vars(self)

    def __str__(self) -> str:
        lines = []
        for title, rows in (("config", self.config), ("inputs", self.inputs), ("metrics", self.metrics)):
            if rows:
                cells = [[name, *(_shown(value) for value in values)] for name, values in rows.items()]
                lines.append(table([title, *self.labels], cells, right=self.labels if title == "metrics" else ()))
        if not self.config and not self.inputs:
            lines.insert(0, "the same config and the same inputs")
        return "\n\n".join(lines)


def compare(runs: Sequence[Run], labels: Sequence[str], *, metrics: Sequence[str] = ()) -> Comparison:
    """Every setting and input in which the runs differ, and their metrics side by side.

    Args:
        metrics: the names of those to show, patterns with `*` among them; by default those that speak for the runs.
    """
    configs = [read_config(run) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    settings = {key: [config.get(key) for config in configs] for key in keys}
    records = [_inputs(run.record.get("inputs") or {}) for run in runs]
    roles = dict.fromkeys(role for record in records for role in record)
    inputs = {role: [record.get(role) for record in records] for role in roles}
    wanted = [named_metric(text) for text in metrics]
    if metrics:
        found = [name for run in runs for name in run.metrics if any(_means(metric, name) for metric in wanted)]
    else:
        found = [name for run in runs for name in run.headline]
    names = list(dict.fromkeys(found))
    return Comparison(
        labels=list(labels),
        config={key: values for key, values in settings.items() if _differ(values)},
        inputs={role: refs for role, refs in inputs.items() if _differ(refs)},
        metrics={name: [run.metrics.get(name) for run in runs] for name in names},
        better={
            name: next((m.better for m in wanted if _means(m, name)), named_metric(name).better) for name in names
        },
    )


def labels_of(runs: Sequence[Run]) -> list[str]:
    """What each run is called beside the others: its name where no other has it, else the first of its identity."""
    names = [run.name for run in runs]
    return [run.label or (run.name if names.count(run.name) == 1 else f"{run.name} {run.short}") for run in runs]


def overlaid(pairs: Sequence[tuple[Run, Curves]], labels: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Plots for a terminal, the curves of all runs in each: of the metrics named, else of the runs' headlines."""
    wanted = [named_metric(text) for text in metrics]
    names = list(dict.fromkeys(name for run, curves in pairs for name in charted(run, curves, wanted)))
    shared = {name: sum(name in curves.points for _, curves in pairs) for name in names}
    if not metrics:
        names = sorted(names, key=lambda name: -shared[name])[:_PLOTS]
    return [
        plot(name, {label: curves.points.get(name, []) for label, (_, curves) in zip(labels, pairs, strict=True)})
        for name in names
    ]


def read_config(run: Run) -> dict[str, Any]:
    """The settings of a run that can change what it computes: dotted key -> value; empty where it has none."""
    return dotted({key: value for key, value in _config(run.folder / CONFIG_FILE).items() if key not in _BESIDE})


def dotted(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as one level, named as on a command line: `trainer.beta`."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            found |= dotted(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def _config(file: Path) -> dict[str, Any]:
    try:
        return read_settings(read_regular(file, LARGEST))
    except (OSError, ValueError):
        return {}


def _inputs(records: Mapping[str, Any]) -> dict[str, str]:
    """Role -> ref and digest of each input."""
    found = {}
    for role, record in records.items():
        entries = record if isinstance(record, list) else [record]
        for number, entry in enumerate(entries):
            name = f"{role}[{number}]" if isinstance(record, list) else role
            if isinstance(entry, dict):
                found[name] = f"{entry.get('ref')} {str(entry.get('digest'))[:12]}"
    return found


def _better(name: str, wanted: Sequence[Metric]) -> str:
    return next((metric.better for metric in wanted if _means(metric, name)), named_metric(name).better)


def _means(metric: Metric, name: str) -> bool:
    return metric.best({name: 0.0}) is not None


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)


def _shown(value: Any) -> str:
    return _ABSENT if value is None else shorten(short_number(value), _CELL)

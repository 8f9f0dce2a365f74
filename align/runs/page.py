"""The curves of runs as one HTML file: nothing in it is fetched from anywhere, and without script it still shows."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from align.artifacts.metrics import HEADLINES
from align.artifacts.text import minute, printable, short_number
from align.runs.chart import COLORS, Line, chart, thinned
from align.runs.compare import Comparison
from align.runs.listing import progress_of, result_of
from align.runs.metrics_file import Curves
from align.runs.record import Run

_HELD_OUT = "eval_"
# What every trainer counts or times: it is shown below what a run is about.
_CLOCKWORK = ("runtime", "per_second", "epoch", "num_tokens", "time", "learning_rate", "grad_norm", "train_loss")
_LONG = 60  # characters of a cell that is broken into lines
_STATIC = Path(__file__).parent / "static"


def page(title: str, runs: Sequence[tuple[Run, Curves]], comparison: Comparison | None = None) -> str:
    """The page: the runs, what differs between them, and a chart for each metric that any of them logged."""
    groups = metric_groups(runs)
    charts: dict[str, list[Line]] = {name: _lines(runs, sources) for name, sources in groups.items()}
    main = [name for name in charts if not any(word in name for word in _CLOCKWORK)]
    drawn: list[str] = []
    for name in [*main, *(name for name in charts if name not in main)]:
        drawn.append(chart(name, charts[name], len(drawn)))
    order = [*main, *(name for name in charts if name not in main)]
    body = [f"<h1>{_text(title)}</h1>", _tools(runs), _runs_table(runs)]
    if comparison is not None:
        body += _difference_tables(comparison)
    if drawn:
        body.append(f'<h2>Curves</h2><div class="charts">{"".join(drawn[: len(main)])}</div>')
    else:
        body.append('<p class="soft">No curves: these runs have logged nothing.</p>')
    if drawn[len(main) :]:
        body.append(
            f"<details><summary>{len(drawn) - len(main)} rates, clocks and counters</summary>"
            f'<div class="charts">{"".join(drawn[len(main) :])}</div></details>'
        )
    data = {f"chart{number}": [_data(line) for line in charts[name]] for number, name in enumerate(order)}
    colors = "".join(f".r{n}{{stroke:var(--c{n})}}.dots.r{n}{{fill:var(--c{n});stroke:none}}" for n in range(COLORS))
    embedded = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{_text(title)}</title><style>{_static('curves.css')}{colors}</style></head><body>",
        *body,
        f'<div id="tip"></div><script type="application/json" id="data">{embedded}</script>',
        f"<script>{_static('curves.js')}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def metric_groups(runs: Sequence[tuple[Run, Curves]]) -> dict[str, list[str]]:
    """Title of a chart -> the metrics in it: a metric and the same one on held-out data share a chart.

    Those that speak for the runs come first.
    """
    groups: dict[str, list[str]] = {}
    names = {name for _, curves in runs for name in curves.points}
    for name in sorted(names, key=lambda name: (name.startswith(_HELD_OUT), name)):
        groups.setdefault(name.removeprefix(_HELD_OUT), []).append(name)
    first = [metric.name.removeprefix(_HELD_OUT) for run, _ in runs for metric in HEADLINES.get(run.stage, ())]
    ordered = [name for name in dict.fromkeys(first) if name in groups]
    return {name: groups[name] for name in [*ordered, *sorted(groups.keys() - set(ordered))]}


def _lines(runs: Sequence[tuple[Run, Curves]], sources: Sequence[str]) -> list[Line]:
    return [
        Line(label_of(run), number, curves.points[name], name.startswith(_HELD_OUT))
        for number, (run, curves) in enumerate(runs)
        for name in sources
        if name in curves.points
    ]


def label_of(run: Run) -> str:
    """What a run is called in a legend."""
    return run.label or f"{run.name} {run.short}"


def _data(line: Line) -> dict[str, Any]:
    points = [[step, value] for step, value in thinned(line.finite)]
    return {"label": printable(line.label), "held": line.held_out, "points": points}


def _tools(runs: Sequence[tuple[Run, Curves]]) -> str:
    keys = "".join(
        f'<label><input type="checkbox" data-run="{number}" checked><i class="key" '
        f'style="background:var(--c{number % COLORS})"></i> {_text(label_of(run))}</label>'
        for number, (run, _) in enumerate(runs)
    )
    smooth = '<label>smooth <input id="smooth" type="range" min="0" max="0.98" step="0.02" value="0"></label>'
    return f'<div class="tools">{keys}{smooth}<span class="soft">dashed, with dots: held-out data</span></div>'


def _runs_table(runs: Sequence[tuple[Run, Curves]]) -> str:
    rows = [
        [
            label_of(run),
            run.stage,
            run.state,
            progress_of(run),
            "  ".join(f"{name} {short_number(run.metrics[name])}" for name in run.headline),
            minute(run.started),
            result_of(run),
        ]
        for run, _ in runs
    ]
    return _table(["run", "stage", "state", "progress", "metrics", "started (UTC)", "result"], rows)


def _difference_tables(comparison: Comparison) -> list[str]:
    parts = []
    chapters = {
        "Settings that differ": comparison.config,
        "Inputs that differ": comparison.inputs,
        "Metrics": comparison.metrics,
    }
    for title, rows in chapters.items():
        if rows:
            cells = [[name, *(short_number(value) if value is not None else "" for value in values)]
                     for name, values in rows.items()]  # fmt: skip
            parts += [f"<h2>{title}</h2>", _table(["", *comparison.labels], cells)]
    return parts


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in headings)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    kind = ' class="long"' if len(text) > _LONG else ""
    return f"<td{kind}>{_text(text)}</td>"


def _static(name: str) -> str:
    return (_STATIC / name).read_text("utf-8")


def _text(text: object) -> str:
    return escape(printable(text), quote=True)

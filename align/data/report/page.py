"""The data report as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Sequence
from html import escape
from typing import Any

from align.data.report.findings import SEVERITIES, Finding, Report, plain, some

_STYLE = """
:root { --ink: #1c2330; --soft: #5b6678; --line: #dfe3ea; --back: #f6f7f9; --card: #fff; --info: #3b6fb6;
  --warning: #a86200; --error: #b3261e; --sound: #2c7a4b; --s0: #3b6fb6; --s1: #d0843c; --s2: #5a9a6e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #9aa5b8; --line: #323a48; --back: #14181f;
  --card: #1c222c; --info: #7ba7e0; --warning: #e0a04a; --error: #ef7d75; --sound: #6fbf8d; --s0: #7ba7e0;
  --s1: #e0a04a; --s2: #7fc095; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; color: var(--ink); background: var(--back);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); } section + section { margin-top: 4rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem 1.1rem; }
.badge { display: inline-block; border: 1px solid; border-radius: 99px; padding: 0 .6rem; font-size: .8rem;
  font-weight: 600; vertical-align: 2px; } .info { color: var(--info); } .warning { color: var(--warning); }
.error { color: var(--error); } .sound { color: var(--sound); }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .8rem .3rem 0;
  border-top: 1px solid var(--line); vertical-align: top; } tr:first-child > * { border-top: 0; }
th { font-weight: 500; color: var(--soft); width: 15rem; } td.number { text-align: right; width: 5rem;
  font-variant-numeric: tabular-nums; }
code, .quote { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.finding { border-left: 4px solid currentColor; margin-bottom: .7rem; } .finding > * { color: var(--ink); }
.finding h3 { font-size: 1rem; margin: 0; } .finding .head { display: flex; gap: .7rem; align-items: baseline; }
.finding .number { margin-left: auto; font-variant-numeric: tabular-nums; } .finding p.soft { color: var(--soft); }
details summary { cursor: pointer; color: var(--soft); } .quote { color: var(--soft); margin: .15rem 0 .15rem 1rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
@media (max-width: 30rem) { .grid { grid-template-columns: 1fr; } th { width: 9rem; } }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 11px; }
.legend span { margin-right: 1rem; } .legend i { display: inline-block; width: .7rem; height: .7rem;
  border-radius: 2px; margin-right: .35rem; }
.bar { display: flex; height: .9rem; border-radius: 4px; overflow: hidden; background: var(--line); margin: .5rem 0; }
"""


def to_html(reports: Sequence[Report]) -> str:
    """One page with a section for each set."""
    title = reports[0].title if len(reports) == 1 else f"{len(reports)} data sets"
    sections = "\n".join(_section(report) for report in reports)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{sections}\n</body>\n</html>\n"
    )


def _section(report: Report) -> str:
    kind = f", {report.kind}" if report.kind else ""
    counts = ", ".join(
        f"{len(report.at(severity))} {severity}{'s' if len(report.at(severity)) != 1 and severity != 'info' else ''}"
        for severity in reversed(SEVERITIES)
        if report.at(severity)
    )
    return "\n".join(
        [
            "<section>",
            f'<h1>{escape(report.title)} <span class="badge {report.verdict}">{report.verdict}</span></h1>',
            f'<p class="soft">{escape(report.format)}{kind} &middot; layout {escape(report.layout)} '
            f"({escape(report.recognised)}){' &middot; ' + counts if counts else ''}</p>",
            "<h2>What became of the rows</h2>",
            _rows(report),
            "<h2>Findings</h2>",
            "\n".join(_finding(finding) for finding in report.findings)
            or '<p class="card sound">Nothing was found.</p>',
            "<h2>Lengths</h2>" if report.histograms else "",
            '<div class="grid">',
            *(_histogram(title, told) for title, told in report.histograms.items()),
            "</div>",
            "<h2>Numbers</h2>",
            _table((name, plain(value)) for name, value in report.statistics.items()),
            "<h2>What each stage would do with it</h2>",
            _table(report.stages.items()),
            "<h2>Files</h2>",
            _files(report.files),
            "</section>",
        ]
    )


def _rows(report: Report) -> str:
    parts = [(report.rows_used, "var(--sound)")]
    parts += [(entry["count"], "var(--warning)") for entry in report.refused.values()]
    total = max(1, report.rows_in)
    bar = "".join(
        f'<div style="width:{100 * count / total:.3f}%;background:{color};border-right:1px solid var(--card)"></div>'
        for count, color in parts
        if count
    )
    splits = ", ".join(f"{count} {split}" for split, count in report.splits.items())
    rows = [
        "<tr><th>why refused</th><th>example</th><td></td></tr>",
        *(
            f"<tr><td>{escape(why)}</td><td class='quote'>{escape(str(entry['rows'][0] if entry['rows'] else ''))}: "
            f"{escape(entry['example'])}</td><td class='number'>{entry['count']:,}</td></tr>"
            for why, entry in report.refused.items()
        ),
    ]
    return (
        f'<div class="card"><p><b>{report.rows_in:,}</b> rows in = <b>{report.rows_used:,}</b> used + '
        f"<b>{report.rows_refused:,}</b> refused &rarr; <b>{report.records:,}</b> records"
        f"{f' ({splits})' if splits else ''}</p>"
        f'<div class="bar">{bar}</div>{"<table>" + "".join(rows) + "</table>" if report.refused else ""}</div>'
    )


def _finding(finding: Finding) -> str:
    quotes = "".join(f'<p class="quote"><b>{escape(place)}</b> {escape(text)}</p>' for place, text in finding.examples)
    places = f'<p class="quote">{escape(some(finding.rows, 50))}</p>' if finding.rows else ""
    more = f"<details><summary>where</summary>{places}{quotes}</details>" if places or quotes else ""
    remedy = f'<p class="soft">&rarr; {escape(finding.remedy)}</p>' if finding.remedy else ""
    return (
        f'<div class="card finding {finding.severity}"><div class="head">'
        f'<h3>{escape(finding.name.replace("_", " "))}</h3><span class="badge {finding.severity}">'
        f'{finding.severity}</span><span class="number">{finding.count:,} of {finding.of:,} ({finding.share:.1%})'
        f"</span></div><p>{escape(finding.message)}</p>{remedy}{more}</div>"
    )


def _histogram(title: str, told: dict[str, Any]) -> str:
    """A step outline a series over shared edges, filled where there is one."""
    edges, series = told["edges"], told["series"]
    width, height, left, bottom = 440, 170, 8, 20
    top = max((max(counts, default=0) for counts in series.values()), default=0) or 1
    step = (width - 2 * left) / max(1, len(edges) - 1)
    shapes = []
    for number, counts in enumerate(series.values()):
        points = [(left, height - bottom)]
        for bin_number, count in enumerate(counts):
            y = height - bottom - count / top * (height - bottom - 8)
            points += [(left + bin_number * step, y), (left + (bin_number + 1) * step, y)]
        points.append((left + len(counts) * step, height - bottom))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        color = f"var(--s{number % 3})"
        shapes.append(f'<polyline points="{path}" fill="{color}" fill-opacity=".18" stroke="{color}"/>')
    axis = height - bottom
    marks = [0, len(edges) // 4, len(edges) // 2, 3 * len(edges) // 4, len(edges) - 1]
    ticks = "".join(
        f'<text x="{left + mark * step:.1f}" y="{height - 5}" text-anchor="'
        f'{"start" if mark == 0 else "end" if mark == len(edges) - 1 else "middle"}">{edges[mark]:,}'
        f"{'+' if mark == len(edges) - 1 else ''}</text>"
        for mark in marks
    )
    legend = "".join(
        f'<span><i style="background:var(--s{number % 3})"></i>{escape(name)}</span>'
        for number, name in enumerate(series)
    )
    return (
        f'<div class="card"><b>{escape(title)}</b><p class="legend soft">{legend}</p>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f'<line x1="{left}" y1="{axis}" x2="{width - left}" y2="{axis}" stroke="var(--line)"/>'
        f"{''.join(shapes)}{ticks}</svg></div>"
    )


def _table(pairs: Any) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in pairs)
    return f'<div class="card"><table>{rows}</table></div>' if rows else ""


def _files(files: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(file['name'])}</td><td><code>{escape(file['digest'][:16])}</code></td>"
        f"<td class='number'>{file['rows']:,}</td></tr>"
        for file in files
    )
    return f'<div class="card"><table>{rows}</table></div>'

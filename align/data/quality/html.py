"""The data report as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from align.data.layouts.labels import label_lines
from align.data.quality.findings import SEVERITIES, Finding, Report, carried_lines, plain, read_line, some, unread_line
from align.data.quality.plots import histogram
from align.data.quality.style import STYLE


def to_html(reports: Sequence[Report]) -> str:
    """One page with a section for each set."""
    title = reports[0].title if len(reports) == 1 else f"{len(reports)} data sets"
    sections = "\n".join(_section(report) for report in reports)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{sections}\n</body>\n</html>\n"
    )


def _section(report: Report) -> str:
    kind = f", {report.kind}" if report.kind else ""
    parts = [
        "<section>",
        f'<h1>{escape(report.title)} <span class="badge {report.verdict}">{report.verdict}</span></h1>',
        f'<p class="soft">{escape(report.format)}{kind} &middot; layout {escape(report.layout)} '
        f"({escape(report.recognised)})</p>",
        _tiles(report),
        _stages(report),
        _columns(report),
        "<h2>What was found</h2>",
        "".join(_finding(finding) for finding in report.findings) or '<p class="card sound">Nothing was found.</p>',
        _repair(report),
    ]
    if report.refused:
        parts += ["<h2>Rows that give no record</h2>", _refused(report)]
    if report.histograms:
        plots = "".join(histogram(title, told) for title, told in report.histograms.items())
        parts += ["<h2>How it is distributed</h2>", f'<div class="grid">{plots}</div>']
    if report.samples:
        parts += ["<h2>A few records, drawn by chance</h2>", "".join(_sample(sample) for sample in report.samples)]
    parts += ["<h2>Numbers</h2>", _table((name, plain(value)) for name, value in report.statistics.items())]
    return "\n".join([*parts, "<h2>Files</h2>", _files(report.files), "</section>"])


def _tiles(report: Report) -> str:
    """The numbers to know before anything else."""
    splits = ", ".join(f"{count:,} {split}" for split, count in report.splits.items())
    prompts = report.statistics.get("distinct prompts")
    told = [
        (f"{report.rows_in:,}", "rows in", ""),
        (f"{report.rows_refused:,}", "refused", "warning" if report.rows_refused else ""),
        (f"{report.records:,}", f"records ({splits})" if splits else "records", ""),
        *([(f"{prompts:,}", "distinct prompts", "")] if prompts is not None else []),
        *(
            (str(len(found)), _plural(one, len(found)), one)
            for one in reversed(SEVERITIES)
            if (found := report.at(one))
        ),
    ]
    tiles = "".join(f'<div><b class="{kind}">{value}</b><span>{name}</span></div>' for value, name, kind in told)
    return f'<div class="tiles">{tiles}</div>'


def _plural(severity: str, count: int) -> str:
    return severity if severity == "info" or count == 1 else f"{severity}s"


def _stages(report: Report) -> str:
    """What each stage would do with the set: those that can read it, then the others."""
    able = {stage: says for stage, says in report.stages.items() if not says.startswith("cannot")}
    chips = "".join(
        f'<span class="chip{"" if stage in able else " off"}" title="{escape(says)}">{stage}</span>'
        for stage, says in sorted(report.stages.items(), key=lambda item: item[0] not in able)
    )
    made: dict[str, list[str]] = {}
    for stage, says in able.items():
        if says.startswith("makes"):
            made.setdefault(says.removesuffix(" of it"), []).append(stage)
    told = "; ".join(f"{', '.join(stages)}: {says}" for says, stages in made.items())
    return f'<p class="chips"><span class="soft">goes into</span> {chips}</p><p class="soft small">{escape(told)}</p>'


def _columns(report: Report) -> str:
    """How each label was read, and which columns were not."""
    lines = [f"<p>read as <b>{escape(line)}</b></p>" for line in label_lines(report.labels)]
    lines += [f"<p>column {escape(line)}</p>" for line in carried_lines(report.carried)]
    if report.read:
        lines.append(f'<p class="soft">columns read: {escape(read_line(report.read))}</p>')
    if report.unread:
        lines.append(f'<p class="soft">columns not read: {escape(unread_line(report.unread))}</p>')
    return "\n".join(lines)


def _finding(finding: Finding) -> str:
    first, *others = finding.examples or [("", "")]
    places = f'<p class="quote">{escape(some(finding.rows, 50))}</p>' if finding.rows else ""
    more = "".join(map(_quote, others))
    details = f"<details><summary>more, and where</summary>{more}{places}</details>" if more or places else ""
    advice = f'<p class="soft">&rarr; {_advice(finding)}</p>' if finding.advice else ""
    return (
        f'<div class="card finding {finding.severity}"><div class="head">'
        f'<h3>{escape(finding.name.replace("_", " "))}</h3><span class="badge {finding.severity}">'
        f'{finding.severity}</span><span class="number">{finding.count:,} of {finding.of:,} &middot; '
        f"{finding.share:.1%}</span></div>"
        f'<div class="share"><i style="width:{max(100 * finding.share, 0.4):.2f}%"></i></div>'
        f"<p>{escape(finding.message)}</p>{_quote(first) if first[1] else ''}{advice}{details}</div>"
    )


def _quote(example: Sequence[str]) -> str:
    return f'<p class="quote"><b>{escape(example[0])}</b> {escape(example[1])}</p>'


def _advice(finding: Finding) -> str:
    text = escape(finding.remedy)
    return text + (f"{': ' if text else ''}<code>{escape(finding.repair)}</code>" if finding.repair else "")


def _repair(report: Report) -> str:
    if not report.repair:
        return ""
    command = f"align data import (or make) ... {report.repair}"
    return (
        f'<div class="card repair"><p>All of these at once, with what was there before kept in '
        f"<code>repairs.jsonl</code>:</p><pre>{escape(command)}</pre></div>"
    )


def _refused(report: Report) -> str:
    parts = [(report.rows_used, "var(--sound)")]
    parts += [(entry["count"], "var(--warning)") for entry in report.refused.values()]
    bar = "".join(
        f'<div style="width:{100 * count / max(1, report.rows_in):.3f}%;background:{color}"></div>'
        for count, color in parts
        if count
    )
    rows = "".join(
        f"<tr><td>{escape(why)}</td><td class='quote'>{escape(str(entry['rows'][0] if entry['rows'] else ''))}: "
        f"{escape(entry['example'])}</td><td class='number'>{entry['count']:,}</td></tr>"
        for why, entry in report.refused.items()
    )
    sums = f"{report.rows_in:,} rows in = {report.rows_used:,} used + {report.rows_refused:,} refused"
    head = "<tr><th>why</th><th>the first</th><td></td></tr>"
    return f'<div class="card"><p>{sums}</p><div class="bar">{bar}</div><table>{head}{rows}</table></div>'


def _sample(sample: dict[str, str]) -> str:
    """A record's sides, answers beside each other; closed, because data may be meant to offend."""
    sides = "".join(
        f'<div class="{escape(side)}"><b>{escape(side)}</b><p>{escape(text)}</p></div>'
        for side, text in sample.items()
    )
    opening = next(iter(sample.values()))[:90].replace("\n", " ")
    return (
        f'<details class="card sample"><summary>{escape(opening)}</summary><div class="sides">{sides}</div></details>'
    )


def _table(pairs: Iterable[tuple[str, Any]]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in pairs)
    return f'<div class="card"><table>{rows}</table></div>' if rows else ""


def _files(files: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(file['name'])}</td><td><code>{escape(file['digest'][:16])}</code></td>"
        f"<td class='number'>{file['rows']:,}</td></tr>"
        for file in files
    )
    return f'<div class="card"><table>{rows}</table></div>'

"""The data report: what was read, what became of it, and what was found, each finding with a severity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from align.data.layouts.labels import label_lines
from align.records import readable_json

EXAMPLES = 5
ROWS = 50  # places named in a finding
SEVERITIES = ("info", "warning", "error")
REFUSE = (*SEVERITIES, "never")


REPAIRS = {
    "exact_duplicates": "--drop duplicates",
    "contradictions": "--drop contradictions",
    "eval_overlap": "--drop overlap",
    "control_characters": "--fix control",
    "mojibake": "--fix mojibake",
    "line_ends": "--fix line_ends",
    "end_markers": "--fix end_markers",
    "outer_space": "--fix space",
    **{name: f"--drop {name}" for name in ("secrets", "emails", "phones", "identity_numbers")},
    **{name: f"--drop {name}" for name in ("turn_markers", "role_order")},
    "replacement_characters": "--drop replacement_characters",
    "unseen_tools": "--drop tools",
}
"""A finding's name -> the option of `align data import` that removes it; for `overlap_<benchmark>` see `repair`."""


@dataclass
class Tally:
    """How often something was found, and where first."""

    count: int = 0
    rows: list[str] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    sides: Counter[str] = field(default_factory=Counter)
    last: str = ""

    def add(self, place: str, text: str = "", side: str | None = None) -> None:
        """Count `place` once, however often it is named in a row."""
        if side:
            self.sides[side] += 1
        if place == self.last:
            return
        self.last, self.count = place, self.count + 1
        if len(self.rows) < ROWS:
            self.rows.append(place)
        if text and len(self.examples) < EXAMPLES:
            self.examples.append((place, text))


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: a word to refer to it by.
        count, of: how many, and of how many rows or records.
        message: one sentence, with what it means for training.
        remedy: what to do about it; empty where nothing need be done.
        rows: the first few places, `file:row`.
        examples: (place, text) of some.
    """

    name: str
    severity: str
    count: int
    of: int
    message: str
    remedy: str = ""
    rows: tuple[str, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0

    @property
    def repair(self) -> str:
        """The option of `align data import` and `make` that removes it; empty if there is none."""
        return REPAIRS.get(self.name, "--drop overlap" if self.name.startswith("overlap_") else "")

    @property
    def advice(self) -> str:
        """What to do about it, the option that does it at the end."""
        return ": ".join(part for part in (self.remedy, self.repair and f"align data import {self.repair}") if part)


@dataclass(frozen=True)
class Report:
    """A set of rows that are read in one way."""

    title: str
    files: list[dict[str, Any]]  # name, sha256 or commit, rows
    layout: str
    recognised: str  # how the layout was told
    format: str
    kind: str | None  # standard or conversational
    rows_in: int
    rows_used: int  # gave a record or more
    refused: dict[str, dict[str, Any]]  # reason -> count, rows, example
    records: int
    splits: dict[str, int]  # train, eval -> records
    stages: dict[str, str]  # stage -> what it would do with the set
    statistics: dict[str, Any]
    histograms: dict[str, dict[str, Any]]  # title -> edges, and counts by series
    findings: list[Finding] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)  # column, value, meaning, count: how labels were read
    read: dict[str, list[str]] = field(default_factory=dict)  # column -> the fields of records made of it
    unread: list[dict[str, Any]] = field(default_factory=list)  # name, rows, looks_like, values: columns not read
    carried: dict[str, Any] = field(default_factory=dict)  # kept: column -> its records; not_carried: column -> why
    samples: list[dict[str, str]] = field(default_factory=list)  # side -> its text, of a few records drawn by chance

    @property
    def rows_refused(self) -> int:
        return sum(entry["count"] for entry in self.refused.values())

    @property
    def verdict(self) -> str:
        """The highest severity found; `sound` where there is none."""
        return next((one for one in reversed(SEVERITIES) if self.at(one)), "sound")

    @property
    def repair(self) -> str:
        """The options of `align data import` that remove everything of weight that can be repaired."""
        asked: dict[str, list[str]] = {}
        for finding in self.at_least("warning"):
            if finding.repair:
                option, rule = finding.repair.split()
                asked.setdefault(option, []).append(rule)
        return " ".join(f"{option} {','.join(dict.fromkeys(rules))}" for option, rules in sorted(asked.items()))

    def at(self, severity: str) -> list[Finding]:
        """The findings of just that severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def at_least(self, severity: str) -> list[Finding]:
        """The findings of that severity and above; none for `never`."""
        if severity == "never":
            return []
        return [one for one in self.findings if SEVERITIES.index(one.severity) >= SEVERITIES.index(severity)]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            **asdict(self),
            "rows_refused": self.rows_refused,
            "verdict": self.verdict,
            "findings": [
                asdict(found) | {"share": round(found.share, 6), "repair": found.repair} for found in self.findings
            ],
        }


def carried_lines(carried: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each column that records keep, and for each that they cannot."""
    kept, left_out = carried.get("kept", {}), carried.get("not_carried", {})
    lines = [f"{name} of {count} records is handed to reward functions and judges" for name, count in kept.items()]
    return lines + [f"{name} is not carried: {why}" for name, why in left_out.items()]


def read_line(columns: dict[str, list[str]]) -> str:
    """The columns that were read, by the fields made of them: `prompt <- question, context; completion <- answer`."""
    fields = dict.fromkeys(field for fields in columns.values() for field in fields)
    parts = [f"{field} <- {', '.join(name for name, made in columns.items() if field in made)}" for field in fields]
    return "; ".join(parts + [name for name, made in columns.items() if not made])


def unread_line(columns: Sequence[dict[str, Any]]) -> str:
    """The columns that were not read, and what they look like: `id, label (looks like a label)`."""
    return ", ".join(
        column["name"] + (f" (looks like {column['looks_like']})" if column["looks_like"] else "")
        for column in columns
    )


def find(tally: Tally, name: str, severity: str, of: int, message: str, remedy: str = "") -> Finding:
    """A finding of what a tally holds, with how often on which side."""
    sides = ", ".join(f"{side} {count}" for side, count in tally.sides.items())
    message += f" ({sides})" if sides else ""
    return Finding(name, severity, tally.count, of, message, remedy, tuple(tally.rows), tuple(tally.examples))


def to_text(report: Report, width: int = 110) -> str:
    """The report for a terminal."""
    lines = [report.title, "=" * min(len(report.title), width)]
    lines += [f"  {file['name']}  {file['rows']} rows  {file['digest'][:12]}" for file in report.files[:20]]
    if len(report.files) > 20:
        lines.append(f"  ... and {len(report.files) - 20} more files")
    lines += [
        f"layout     {report.layout} ({report.recognised})",
        f"format     {report.format}" + (f", {report.kind}" if report.kind else ""),
        f"rows       {report.rows_in} in = {report.rows_used} used + {report.rows_refused} refused",
        f"records    {report.records}" + "".join(f", {split} {count}" for split, count in report.splits.items()),
    ]
    lines += [f"read as    {line}" for line in label_lines(report.labels)]
    if report.read:
        lines.append(f"columns read: {read_line(report.read)}")
    if report.unread:
        lines.append(f"columns not read: {unread_line(report.unread)}")
    lines += [f"column     {line}" for line in carried_lines(report.carried)]
    for reason, entry in report.refused.items():
        lines.append(f"  refused  {entry['count']:>6}  {reason}  (rows {some(entry['rows'])})")
    for name, value in report.statistics.items():
        lines.append(f"{name:<28} {plain(value)}")
    lines += [f"stage {stage:<9} {says}" for stage, says in report.stages.items()]
    for severity in reversed(SEVERITIES):
        for finding in report.at(severity):
            lines.append(f"{severity.upper()}: {finding.name}: {finding.count} of {finding.of} ({finding.share:.1%})")
            lines.append(f"    {finding.message}")
            if finding.rows:
                lines.append(f"    rows: {some(finding.rows)}")
            lines += [f"    {place}: {text}" for place, text in finding.examples[:3]]
            if finding.advice:
                lines.append(f"    -> {finding.advice}")
    if report.repair:
        lines.append(f"fix all    align data import (or make) ... {report.repair}")
    lines.append(f"verdict    {report.verdict}")
    return "\n".join(lines)


def dump(reports: Sequence[Report]) -> str:
    """JSON for programs: an object for one set, a list for several."""
    told = [report.to_json() for report in reports]
    return readable_json(told[0] if len(told) == 1 else told, indent=2) + "\n"


def some(places: Sequence[Any], limit: int = 8) -> str:
    """The first places, and that there are more."""
    return ", ".join(map(str, places[:limit])) + (", ..." if len(places) > limit else "")


def plain(value: Any) -> str:
    """A statistic as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(one)}" for name, one in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)

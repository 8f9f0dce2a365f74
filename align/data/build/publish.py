"""A dataset artifact on its way into the store: filled, reported on, let through or not, published."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.artifacts.inputs import Input
from align.artifacts.provenance import git_commit, packages
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.config.paths import PROJECT
from align.data.quality.findings import Report, dump
from align.data.quality.html import to_html
from align.errors import UserError


@dataclass(frozen=True)
class Tolerance:
    """Which findings keep a set from being published: those of `refuse` and above, unless they are in `allow`."""

    refuse: str = "error"
    allow: tuple[str, ...] = ()

    def check(self, report: Report) -> None:
        """Raises UserError where the report has findings that may not pass."""
        stopping = [finding for finding in report.at_least(self.refuse) if finding.name not in self.allow]
        if stopping:
            worst = stopping[0]
            more = f" (and {', '.join(finding.name for finding in stopping[1:])})" if len(stopping) > 1 else ""
            rows = f", {worst.rows[0]}" if worst.rows else ""
            raise UserError(
                f"{report.title}: {worst.name}{more}: {worst.count} of {worst.of} {worst.message}{rows}. "
                f"{worst.advice + '; or let' if worst.advice else 'Let'} it pass: --allow {worst.name}, or "
                "--refuse never"
            )


def published_before(store: Store, name: str, identity: str) -> Version | None:
    """The version of `name` that was made in just this way, pointed at again; None where there is none."""
    before = [version for version in store.find(identity) if version.name == name]
    if not before:
        return None
    store.point(before[-1])
    return before[-1]


@contextmanager
def staged(store: Store, name: str) -> Iterator[Path]:
    """A folder of the store to fill, with an empty `records` in it; it goes where the block fails."""
    folder = store.stage(name)
    try:
        (folder / "records").mkdir()
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_report(folder: Path, report: Report) -> None:
    """`report.json` for programs and `report.html` for people, beside the records."""
    (folder / "report.json").write_text(dump([report]), "utf-8")
    (folder / "report.html").write_text(to_html([report]), "utf-8")


def report_notes(report: Report, allowed: Sequence[str] = ()) -> dict[str, Any]:
    """What a manifest says of the report: what `data.refuse` reads, without reading the report."""
    return {
        "findings": {f.name: {"severity": f.severity, "count": f.count, "of": f.of} for f in report.findings},
        "verdict": report.verdict,
        "allowed": list(allowed),
    }


def described(folder: Path, parent: Input) -> tuple[str, dict[str, Any]]:
    """Format and notes of a dataset that a stage made of `parent`, by the report it wrote in `folder`.

    What `parent` was allowed is allowed here: it holds the same records.
    """
    report = json.loads((folder / "report.json").read_text("utf-8"))
    findings = {one["name"]: {key: one[key] for key in ("severity", "count", "of")} for one in report["findings"]}
    allowed = parent.manifest.notes.get("allowed", [])
    return report["format"], {"findings": findings, "verdict": report["verdict"], "allowed": allowed}


def publish(
    store: Store,
    folder: Path,
    report: Report,
    *,
    name: str,
    inputs: dict[str, Any],
    identity: str,
    started: str,
    metrics: Mapping[str, Any],
    notes: dict[str, Any],
    tolerance: Tolerance,
    seed: int | None = None,
) -> Version:
    """`folder` as the next version of `name`. Raises UserError where its report does not let it pass."""
    tolerance.check(report)
    write_report(folder, report)
    return store.publish(
        folder,
        name=name,
        type="dataset",
        format=report.format,
        inputs=inputs,
        identity=identity,
        packages=packages(),
        git_commit=git_commit(PROJECT),
        seed=seed,
        metrics=dict(metrics),
        started=started,
        notes=notes | report_notes(report, tolerance.allow),
    )

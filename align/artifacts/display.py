"""Artifacts as a person reads them in a terminal: a table of versions, and all about one."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from align.artifacts.digests import algorithm_of
from align.artifacts.index import Index
from align.artifacts.store import Store
from align.artifacts.summary import Summary, flat, kind, printable, short_number
from align.artifacts.version import Version
from align.errors import UserError


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Aligned columns under headings; the columns named in `right` are aligned to the right."""
    cells = [list(headings), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def human_size(size: int) -> str:
    """Bytes in the unit that leaves one to three digits before the point, in powers of 1000: 1.2 MB."""
    number, unit = float(size), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if number < 999.95:
            break
        number, unit = number / 1000, bigger
    return f"{size} B" if unit == "B" else f"{number:.1f} {unit}"


def list_table(store: Store) -> tuple[str, list[str]]:
    """A row for every version in the store, and a sentence for every one that could not be read."""
    rows, problems = [], []
    index = Index(store.root)
    for name, numbers in store.contents():
        aliases: dict[int, list[str]] = {}
        for alias, number in store.aliases(name).items():
            aliases.setdefault(number, []).append(alias)
        for number in store.pins(name):
            aliases.setdefault(number, []).append("(pinned)")
        for summary in index.summaries(name, numbers):
            if isinstance(summary, Summary):
                rows.append(
                    [
                        name,
                        f"v{summary.number}",
                        ",".join(aliases.get(summary.number, [])),
                        summary.kind,
                        human_size(summary.size),
                        minute(summary.ended),
                        summary.metrics,
                        ", ".join(summary.parents),
                    ]
                )
            else:
                problems.append(str(summary))
    index.save()
    headings = ["NAME", "VERSION", "ALIASES", "TYPE", "SIZE", "CREATED (UTC)", "METRICS", "PARENTS"]
    return (table(headings, rows, right=["SIZE"]) if rows else "", problems)


def list_json(store: Store) -> tuple[list[dict], list[str]]:
    """What `list_table` shows, as data."""
    rows, problems = [], []
    for name, versions in _readable(store, problems):
        aliases = store.aliases(name)
        for version in versions:
            names = [alias for alias, number in aliases.items() if number == version.number]
            rows.append(as_json(version) | {"aliases": names})
    return rows, problems


def as_json(version: Version) -> dict[str, Any]:
    """A version as data: its manifest, ref, digest and where it is."""
    return {
        "ref": version.ref,
        "digest": version.digest,
        "path": str(version.path),
        **asdict(version.manifest),
    }


def description(store: Store, version: Version) -> str:
    """Everything a manifest says, for people."""
    manifest = version.manifest
    aliases = [alias for alias, number in store.aliases(version.name).items() if number == version.number]
    facts = {
        "type": kind(manifest),
        "aliases": ", ".join(aliases),
        "path": version.path,
        "digest": manifest.digest,
        "made": f"{minute(manifest.started) or '?'} to {minute(manifest.ended) or '?'} UTC",
        "identity": manifest.identity,
        "config": manifest.config_digest,
        "git commit": manifest.git_commit,
        "seed": manifest.seed,
    }
    lines = [version.ref] + [f"  {name:<12}{printable(value)}" for name, value in facts.items() if value or value == 0]
    inputs = [(role, record["ref"], record["digest"][:12]) for role, record in manifest.each_input()]
    files = [
        (path, human_size(entry["size"]), entry[algorithm_of(entry)][:12])
        for path, entry in sorted(manifest.files.items())
    ]
    metrics = [(name, short_number(value)) for name, value in flat(manifest.metrics).items()]
    for title, rows in (
        ("inputs", inputs),
        ("metrics", metrics),
        ("files", files),
        ("packages", list(manifest.packages.items())),
        ("adapter", list(flat(manifest.adapter or {}).items())),
        ("wandb", list(flat(manifest.wandb or {}).items())),
        ("notes", list(flat(manifest.notes).items())),
    ):
        if rows:
            lines += [f"{title}:", _indented(rows)]
    return "\n".join(lines)


def _readable(store: Store, problems: list[str]) -> list[tuple[str, list[Version]]]:
    found = []
    for name in store.names():
        versions = []
        for number in store.numbers(name):
            try:
                versions.append(store.version(name, number))
            except UserError as error:
                problems.append(str(error))
        found.append((name, versions))
    return found


def _indented(rows: Sequence[Sequence[object]]) -> str:
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def minute(moment: str | None) -> str:
    """2026-11-21T10:20:30Z as 2026-11-21 10:20."""
    return (moment or "")[:16].replace("T", " ")

"""Artifacts as a person reads them in a terminal: a table of versions, and all about one."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from align.artifacts.digests import algorithm_of
from align.artifacts.index import Index
from align.artifacts.store import Store
from align.artifacts.summary import Summary, flat, kind
from align.artifacts.text import human_size, minute, printable, short_number, table
from align.artifacts.version import Version
from align.errors import UserError


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

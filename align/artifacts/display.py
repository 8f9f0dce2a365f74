"""One version as a person reads it in a terminal, and as data."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from align.artifacts.digests import algorithm_of
from align.artifacts.lineage import merged_parents
from align.artifacts.metrics import flat
from align.artifacts.store import Store
from align.artifacts.summary import kind
from align.artifacts.text import human_size, minute, printable, short_number
from align.artifacts.version import Version


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
    inputs = [
        (", ".join(roles), parent.record["ref"], parent.record["digest"][:12])
        for roles, parent in merged_parents(store, version)
    ]
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


def _indented(rows: Sequence[Sequence[object]]) -> str:
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)

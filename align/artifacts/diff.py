"""What two versions disagree about: config, data, parents, packages and metrics."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

from align.artifacts.digests import algorithm_of
from align.artifacts.manifest import Manifest
from align.artifacts.metrics import flat
from align.artifacts.text import printable, short_number
from align.artifacts.verification import read_file
from align.artifacts.version import Version

CHAPTERS = ("facts", "config", "data", "parents", "packages", "metrics", "files")
_ABSENT = "-"


@dataclass(frozen=True)
class Difference:
    """chapter -> key -> (one side, the other); None is a key that a side has not."""

    left: str
    right: str
    chapters: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        body = {name: {key: list(pair) for key, pair in rows.items()} for name, rows in self.chapters.items()}
        return {"left": self.left, "right": self.right, **body}

    def __str__(self) -> str:
        lines = [f"{self.left}  ->  {self.right}"]
        for chapter, rows in self.chapters.items():
            width = max(len(printable(key)) for key in rows)
            lines.append(f"{chapter}:")
            for key, (left, right) in rows.items():
                change = ""
                if isinstance(left, int | float) and isinstance(right, int | float):
                    with contextlib.suppress(OverflowError):  # an integer of hundreds of digits
                        change = f"  ({right - left:+.4g})"
                lines.append(f"  {printable(key):<{width}}  {_shown(left)} -> {_shown(right)}{change}")
        return "\n".join(lines if self.chapters else [*lines, "no difference"])


def compare(left: Version, right: Version) -> Difference:
    """Every difference, chapter by chapter; a chapter without one is left out."""
    one, two = _chapters(left), _chapters(right)
    found = {}
    for chapter in CHAPTERS:
        keys = dict.fromkeys([*one[chapter], *two[chapter]])
        rows = {key: (one[chapter].get(key), two[chapter].get(key)) for key in keys}
        if rows := {key: pair for key, pair in rows.items() if pair[0] != pair[1]}:
            found[chapter] = rows
    return Difference(left.ref, right.ref, found)


def _chapters(version: Version) -> dict[str, dict[str, Any]]:
    manifest = version.manifest
    parents: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for role, record in manifest.inputs.items():
        chapter = data if role.startswith("data.") or role == "dataset" else parents
        for at, one in enumerate(record if isinstance(record, list) else [record]):
            key = f"{role}[{at}]" if isinstance(record, list) else role
            chapter[key] = f"{one['ref']} {one['digest'][:12]}"
    facts = {name: getattr(manifest, name) for name in ("type", "format", "git_commit", "seed")}
    return {
        "facts": facts | flat({"adapter": manifest.adapter or {}}),
        "config": _config(version),
        "data": data,
        "parents": parents,
        "packages": manifest.packages,
        "metrics": flat(manifest.metrics),
        "files": _files(manifest),
    }


def _config(version: Version) -> dict[str, Any]:
    """The resolved config, one level; a version that has none differs in nothing here."""
    if "config.yaml" not in version.manifest.files:
        return {}
    from align.artifacts.config_file import read_settings  # imported here: only this needs YAML

    return flat(read_settings(read_file(version, "config.yaml")))


def _files(manifest: Manifest) -> dict[str, str]:
    return {
        path: f"{entry['size']} bytes {entry[algorithm_of(entry)][:12]}"
        for path, entry in sorted(manifest.files.items())
    }


def _shown(value: Any) -> str:
    return _ABSENT if value is None else short_number(value)

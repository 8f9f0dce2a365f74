"""A version as a plain Hugging Face directory that needs no align: its files, and a card made from the manifest."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.artifacts.disk import clone_file, explain_disk_errors
from align.artifacts.lineage import Node, lineage, tree
from align.artifacts.manifest import MODEL_TYPES
from align.artifacts.metrics import flat
from align.artifacts.refs import HUB_PREFIX
from align.artifacts.store import Store
from align.artifacts.summary import kind
from align.artifacts.text import printable, short_number
from align.artifacts.verification import check_version
from align.artifacts.version import Version
from align.errors import UserError

CARD = "README.md"
_TAGS = {"model": "text-generation", "reward_model": "text-classification"}
_LIBRARY = {True: "peft", False: "transformers"}


def export(store: Store, version: Version, folder: Path) -> Path:
    """Copy a version into `folder`, which is made: for models the content of model/, for others everything.

    The copy shares blocks with the store where the file system can, and is the reader's to change.

    Raises:
        UserError: the folder is not empty, or the version is not what was published.
    """
    with explain_disk_errors(f"export {version.ref}", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not an empty folder; name a new one")
        check_version(store, version, below_gb=math.inf)
        top = "model/" if version.manifest.type in MODEL_TYPES else ""
        for inside in version.manifest.files:
            if not inside.startswith(top):
                continue
            target = folder / inside.removeprefix(top)
            target.parent.mkdir(parents=True, exist_ok=True)
            clone_file(version.path / inside, target)
        name = CARD if not (folder / CARD).exists() else "CARD.md"
        (folder / name).write_text(card(store, version), "utf-8")
        os.chmod(folder / name, 0o644)
    return folder


def card(store: Store, version: Version) -> str:
    """The model or dataset card: what the manifest says, in Markdown with the Hub's metadata on top."""
    manifest = version.manifest
    root = lineage(store, version)
    head: dict[str, Any] = {"tags": ["align", manifest.type]}
    if manifest.type in MODEL_TYPES:
        head |= {"library_name": _LIBRARY[bool(manifest.adapter)], "base_model": _base(store, version)}
        head |= {"pipeline_tag": _TAGS.get(manifest.type)}
    head["datasets"] = list(dict.fromkeys(_datasets(root)))
    lines = ["---"]
    lines += [f"{key}: {json.dumps(value)}" for key, value in head.items() if value]
    lines += ["---", "", f"# {version.ref}", ""]
    lines.append(f"A {kind(manifest)}, made by align on {(manifest.ended or '?')[:10]}. It is never changed; its")
    lines += [f"content has the digest `{manifest.digest}`.", ""]
    lines += ["## Where it comes from", "", "```", tree(root), "```", ""]
    for title, rows in (
        ("Metrics", {key: short_number(value) for key, value in flat(manifest.metrics).items()}),
        ("Made with", {**manifest.packages, "git commit": manifest.git_commit, "seed": manifest.seed}),
    ):
        if rows := {key: value for key, value in rows.items() if value is not None}:
            lines += [f"## {title}", "", "| | |", "|---|---|"]
            lines += [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()] + [""]
    config = version.path / "config.yaml"
    if "config.yaml" in manifest.files:
        lines += ["## Config", "", "```yaml", config.read_text("utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def _base(store: Store, version: Version | None) -> str | None:
    """The Hub's name of the model that training began from, where it began from one that is there."""
    while version is not None:
        record, following = (version.manifest.adapter or {}).get("base"), None
        for parent in store.parents(version):
            if parent.role == "policy":
                record, following = record or parent.record, parent.version
        if record is not None and record["ref"].startswith(HUB_PREFIX):
            return _on_hub(record["ref"])
        version = following
    return None


def _datasets(node: Node) -> Iterator[str]:
    """The Hub's names of the datasets that a lineage names."""
    for parent in node.parents:
        if any(role.startswith("data.") for role in parent.roles) and parent.ref.startswith(HUB_PREFIX):
            yield _on_hub(parent.ref)
        yield from _datasets(parent)


def _on_hub(ref: str) -> str:
    return ref.removeprefix(HUB_PREFIX).partition("@")[0]


def _cell(value: object) -> str:
    return printable(value).replace("|", "\\|")

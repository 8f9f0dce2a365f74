"""The card of an exported version: what its manifest says, in Markdown with the Hub's metadata on top."""

from collections.abc import Iterator
from typing import Any

from align.artifacts.lineage import Node, lineage, tree
from align.artifacts.manifest import MODEL_TYPES
from align.artifacts.metrics import flat
from align.artifacts.refs import HUB_PREFIX
from align.artifacts.store import Store
from align.artifacts.summary import kind
from align.artifacts.text import printable, short_number
from align.artifacts.version import Version
from align.records import readable_json

_TAGS = {"model": "text-generation", "reward_model": "text-classification"}
_LIBRARY = {True: "peft", False: "transformers"}
_AUTO_CLASS = {"model": "AutoModelForCausalLM"}  # other models are sequence classifiers with one label


def card(store: Store, version: Version, *, base: str | None = None) -> str:
    """The model or dataset card of a version.

    Args:
        base: the folder next to an adapter's files that holds its base, if the export has one.
    """
    manifest = version.manifest
    root = lineage(store, version)
    head: dict[str, Any] = {"tags": ["align", manifest.type]}
    if manifest.type in MODEL_TYPES:
        head |= {"library_name": _LIBRARY[bool(manifest.adapter)], "base_model": _base(store, version)}
        head |= {"pipeline_tag": _TAGS.get(manifest.type)}
    head["datasets"] = list(dict.fromkeys(_datasets(root)))
    lines = ["---"]
    lines += [f"{key}: {readable_json(value)}" for key, value in head.items() if value]
    lines += ["---", "", f"# {version.ref}", ""]
    lines.append(f"A {kind(manifest)}, made by align on {(manifest.ended or '?')[:10]}. It is never changed; its")
    lines += [f"content has the digest `{manifest.digest}`.", ""]
    if base is not None:
        lines += ["## How to load it", "", *_usage(manifest.type, base), ""]
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
        lines += ["## Config", "", "```yaml", config.read_text("utf-8", errors="replace").rstrip(), "```", ""]
    return "\n".join(lines)


def _usage(type: str, base: str) -> list[str]:
    """How to load an adapter with the base that lies next to it."""
    auto_class = _AUTO_CLASS.get(type, "AutoModelForSequenceClassification")
    options = "" if type in _AUTO_CLASS else ", num_labels=1"
    return [
        f"An adapter (PEFT) on the model in `{base}/`. `folder` is this folder:",
        "",
        "```python",
        "from peft import PeftModel",
        f"from transformers import {auto_class}",
        "",
        f'base = {auto_class}.from_pretrained(f"{{folder}}/{base}"{options})',
        "model = PeftModel.from_pretrained(base, folder)",
        "```",
    ]


def _base(store: Store, version: Version | None) -> str | None:
    """The Hub's name of the model that training began from, where it began from one that is there."""
    seen = set()
    while version is not None and version.ref not in seen:  # a circle is what only forged manifests make
        seen.add(version.ref)
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

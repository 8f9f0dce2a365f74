"""What came from what: the tree from a version down to hub repositories and files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from align.artifacts.metrics import key_metrics, numbers
from align.artifacts.store import Store
from align.artifacts.summary import kind, stage_of
from align.artifacts.text import minute, printable
from align.artifacts.version import Parent, Version

SEEN = "see above"
DEEPEST = 100  # generations that are shown: whatever shows a tree may recurse
_SPLITS = ("train", "eval")


@dataclass(frozen=True)
class Node:
    """A version, or a source outside the store, in the tree of what came from what."""

    roles: tuple[str, ...]  # what it was to the version made from it; none at the root
    ref: str
    digest: str
    type: str
    remark: str = ""  # why the tree ends here, if it does not end by itself
    version: Version | None = None
    files: tuple[str, ...] = ()
    parents: list["Node"] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The tree as data."""
        return {
            "role": self.roles[0] if self.roles else "",
            "roles": list(self.roles),
            "ref": self.ref,
            "digest": self.digest,
            "type": self.type,
            "remark": self.remark,
            "files": list(self.files),
            "parents": [parent.to_json() for parent in self.parents],
        }


def lineage(store: Store, version: Version) -> Node:
    """The tree from `version` down to hub repositories and files; what is shown above is not unfolded again."""
    return _unfold(store, (), version, seen=set())


def tree(node: Node) -> str:
    """A lineage as text."""
    return "\n".join(_lines(node, "", ""))


def version_metrics(version: Version, count: int = 2) -> str:
    """The metrics that speak for a version, as `name=value name=value`."""
    return key_metrics(stage_of(version.manifest), numbers(version.manifest.metrics), count)


def _unfold(store: Store, roles: tuple[str, ...], version: Version, seen: set[str], depth: int = 0) -> Node:
    manifest = version.manifest
    if depth == DEEPEST and manifest.inputs:
        remark = f"and what it was made from: align artifacts lineage {version.ref}"
        return Node(roles, version.ref, version.digest, kind(manifest), remark, version)
    first = version.ref not in seen
    seen.add(version.ref)
    remark = "" if first or not manifest.inputs else SEEN
    unfolded = merged_parents(store, version) if first else ()
    parents = [_parent(store, roles, parent, seen, depth) for roles, parent in unfolded]
    return Node(roles, version.ref, version.digest, kind(manifest), remark, version, (), parents)


def merged_parents(store: Store, version: Version) -> Iterator[tuple[tuple[str, ...], Parent]]:
    """The parents of a version, each once with all that it was to the version, in the manifest's order."""
    merged: dict[tuple[str, str, str], tuple[list[str], Parent]] = {}
    for parent in store.parents(version):
        for role, record in _sources(parent):
            key = (record["ref"], record["digest"], record.get("type") or "")
            roles, _ = merged.setdefault(key, ([], Parent(role, record, parent.version)))
            if role not in roles:
                roles.append(role)
    for roles, parent in merged.values():
        yield tuple(roles), parent


def _sources(parent: Parent) -> Iterator[tuple[str, dict[str, Any]]]:
    """The record of a parent; of a data set that was read from files or splits, one for each with its own digest."""
    record = parent.record
    parts = {split: record[split] for split in _SPLITS if isinstance(record.get(split), dict)}
    if not parent.role.startswith("data.") or not parts:
        yield parent.role, record
        return
    refs = {split: _source_ref(part) for split, part in parts.items()}
    only_eval = refs.get("eval") == record["ref"] != refs.get("train")  # an evaluation reads what is held out
    for split, part in parts.items():
        if only_eval and split == "train":
            continue
        digest = str(part.get("sha256") or part.get("revision") or record["digest"])
        named = f"split {part['split']}" if part.get("split") else ""
        yield f"{parent.role}.{split}", {"ref": refs[split] or record["ref"], "digest": digest, "type": named}


def _source_ref(part: dict[str, Any]) -> str:
    if "file" in part:
        return str(part["file"])
    return f"hf:{part['dataset']}@{part['revision']}" if "dataset" in part and "revision" in part else ""


def _parent(store: Store, roles: tuple[str, ...], parent: Parent, seen: set[str], depth: int) -> Node:
    if parent.version:
        return _unfold(store, roles, parent.version, seen, depth + 1)
    record = parent.record
    remark = "no longer in this store, or not what it was" if record.get("kind") == "artifact" else ""
    files = tuple(str(file) for file in record.get("files") or () if file != record["ref"])
    return Node(roles, record["ref"], record["digest"], record.get("type") or "", remark, None, files)


def _lines(node: Node, head: str, below: str) -> list[str]:
    facts = [node.type, node.digest[:12]]
    if node.version:
        facts += [minute(node.version.manifest.ended), version_metrics(node.version)]
    label = f"{', '.join(node.roles)}: {node.ref}" if node.roles else node.ref
    remark = f"  ({node.remark})" if node.remark else ""
    lines = [head + printable("  ".join([label, *filter(None, facts)]) + remark)]
    children: list[Node | str] = [*node.files, *node.parents]
    for position, child in enumerate(children):
        last = position == len(children) - 1
        first, rest = (below + "└─ ", below + "   ") if last else (below + "├─ ", below + "│  ")
        lines += [first + printable(child)] if isinstance(child, str) else _lines(child, first, rest)
    return lines

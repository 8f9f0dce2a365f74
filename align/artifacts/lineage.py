"""What came from what: the tree from a version down to hub repositories and files."""

from dataclasses import dataclass, field
from typing import Any

from align.artifacts.store import Store
from align.artifacts.summary import key_metrics, kind
from align.artifacts.text import minute, printable
from align.artifacts.version import Parent, Version


@dataclass(frozen=True)
class Node:
    """A version, or a source outside the store, in the tree of what came from what."""

    role: str  # "" at the root
    ref: str
    digest: str
    type: str
    remark: str = ""  # why the tree ends here, if it does not end by itself
    version: Version | None = None
    files: tuple[str, ...] = ()
    parents: list["Node"] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "ref": self.ref,
            "digest": self.digest,
            "type": self.type,
            "remark": self.remark,
            "files": list(self.files),
            "parents": [parent.to_json() for parent in self.parents],
        }


def lineage(store: Store, version: Version) -> Node:
    """The tree from `version` down to hub repositories and files; what is shown above is not unfolded again."""
    return _unfold(store, "", version, seen=set())


def tree(node: Node) -> str:
    """A lineage as text."""
    return "\n".join(_lines(node, "", ""))


def _unfold(store: Store, role: str, version: Version, seen: set[str]) -> Node:
    manifest = version.manifest
    first = version.ref not in seen
    seen.add(version.ref)
    remark = "" if first or not manifest.inputs else "see above"
    parents = [_parent(store, parent, seen) for parent in store.parents(version)] if first else []
    return Node(role, version.ref, version.digest, kind(manifest), remark, version, (), parents)


def _parent(store: Store, parent: Parent, seen: set[str]) -> Node:
    if parent.version:
        return _unfold(store, parent.role, parent.version, seen)
    record = parent.record
    remark = "no longer in this store, or not what it was" if record.get("kind") == "artifact" else ""
    files = tuple(str(file) for file in record.get("files") or () if file != record["ref"])
    return Node(parent.role, record["ref"], record["digest"], record.get("type") or "", remark, None, files)


def _lines(node: Node, head: str, below: str) -> list[str]:
    facts = [node.type, node.digest[:12]]
    if node.version:
        facts += [minute(node.version.manifest.ended), key_metrics(node.version.manifest.metrics)]
    label = f"{node.role}: {node.ref}" if node.role else node.ref
    remark = f"  ({node.remark})" if node.remark else ""
    lines = [head + printable("  ".join([label, *filter(None, facts)]) + remark)]
    children: list[Node | str] = [*node.files, *node.parents]
    for at, child in enumerate(children):
        last = at == len(children) - 1
        first, rest = (below + "└─ ", below + "   ") if last else (below + "├─ ", below + "│  ")
        lines += [first + printable(child)] if isinstance(child, str) else _lines(child, first, rest)
    return lines

"""The manifest: what a version holds, what it was made from and how."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from align.artifacts.disk import read_regular
from align.errors import UserError

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
LARGEST = 64_000_000  # bytes of a manifest's text: some hundred thousand files
DEEPEST = 32  # levels of objects and lists in a manifest: whatever shows one may recurse
MODEL_TYPES = ("model", "reward_model", "value_model")
TYPES = (*MODEL_TYPES, "dataset", "comparisons", "report")
# The record of the run, not what it made: they hold clock times and what tracking settings ask for, so the digest
# leaves them out (their own sha256 is in `files`).
RECORD_FILES = ("config.yaml", "metrics.jsonl", "samples.jsonl")
# What a file's hash may be made with; the first found in its entry counts. All give 64 hex digits.
ALGORITHMS = ("blake3", "sha256")
# The end of a manifest's text: the SHA-256 of all the text before it, so that no bit of a manifest can flip unseen.
_CHECKSUM = ',\n  "checksum": "'
_END = '"\n}\n'


def canonical_json(value: Any) -> bytes:
    """One byte string for one value, so that equal values have equal digests; NaN and infinity raise ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def json_digest(value: Any) -> str:
    """sha256 (64 hex digits) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def json_numbers(value: Any) -> Any:
    """`value` with NaN and infinities, which JSON has not, as strings that float() reads: "nan", "inf", "-inf"."""
    if isinstance(value, dict):
        return {key: json_numbers(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_numbers(one) for one in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


class NewerFormat(UserError):
    """What a later release of align wrote; this one cannot read it, and it is not damaged."""


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says about one version."""

    name: str
    version: int  # counted from 1
    type: str  # one of TYPES
    files: dict[str, dict]  # path inside the version -> {algorithm: hex, "size": bytes}; not manifest.json
    format: str | None = None  # a dataset's: one of TRL's
    inputs: dict[str, Any] = field(default_factory=dict)  # role -> {"ref", "digest", ...} or a list of such
    identity: str | None = None  # the run that made it
    config_digest: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    seed: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    started: str | None = None  # ISO 8601, UTC
    ended: str | None = None  # ISO 8601, UTC
    wandb: dict[str, Any] | None = None
    adapter: dict[str, Any] | None = None  # a LoRA artifact's: {"base": the input it belongs to, ...}
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problem := _problem(vars(self)):
            raise ValueError(problem)

    @property
    def ref(self) -> str:
        return f"{self.name}:v{self.version}"

    @property
    def digest(self) -> str:
        """sha256 (hex) of type, format and files: equal content has an equal digest, whenever it was made."""
        content = {path: entry for path, entry in self.files.items() if path not in RECORD_FILES}
        return json_digest({"type": self.type, "format": self.format, "files": content})

    @property
    def size(self) -> int:
        """Bytes in its files."""
        return sum(entry["size"] for entry in self.files.values())

    def each_input(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(role, record) of every input; a role that holds a list comes once for each of its entries."""
        for role, record in self.inputs.items():
            for one in record if isinstance(record, list) else [record]:
                yield role, one

    def to_json(self) -> str:
        body = {"schema": SCHEMA, "digest": self.digest, **asdict(self)}
        text = json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        return text + _CHECKSUM + _text_digest(text.encode()) + _END

    @classmethod
    def from_json(cls, text: str | bytes, where: Path | str) -> "Manifest":
        """The manifest in `text`; UserError naming `where` (its path) when it is damaged or from a newer align."""
        try:
            body = json.loads(text)
        except ValueError as error:
            raise _damaged(where, f"not JSON ({error})") from None
        except RecursionError:
            raise _damaged(where, f"nested more than {DEEPEST} levels") from None
        if not isinstance(body, dict):
            raise _damaged(where, "not a JSON object")
        schema = body.pop("schema", None)
        if type(schema) is int and schema > SCHEMA:
            raise NewerFormat(f"{where} has schema {schema}, this align reads up to {SCHEMA}: use a newer align")
        if schema != SCHEMA:
            raise _damaged(where, f"schema is {schema!r}, expected {SCHEMA}")
        digest, checksum = body.pop("digest", None), body.pop("checksum", None)
        names = {one.name for one in fields(cls)}
        if missing := sorted(names - body.keys()):
            raise _damaged(where, f"no field {missing[0]!r}")
        if unknown := sorted(body.keys() - names):
            raise _damaged(where, f"unknown field {unknown[0]!r}")
        try:
            manifest = cls(**body)
        except ValueError as error:
            raise _damaged(where, str(error)) from None
        if digest != manifest.digest:
            raise _damaged(where, f"digest is {digest!r} but type, format and files give {manifest.digest}")
        if checksum is not None and not _whole(text, checksum):
            raise _damaged(where, "its text is not what was written (the checksum in its last line differs)")
        return manifest


def read_manifest(path: Path | str, ref: str) -> Manifest:
    """The manifest of the version `ref` in the file `path`.

    Raises:
        UserError: the file is missing, damaged, from a newer align, or of another version.
        OSError: it cannot be read, which proves nothing about it.
    """
    try:
        text = read_regular(path, LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is missing: {ref} is damaged, make this version again") from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    manifest = Manifest.from_json(text, path)
    if manifest.ref != ref:
        raise UserError(f"{path} belongs to {manifest.ref}: a version's folder may not be renamed; put it back")
    return manifest


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "type"), (str,)),
    **dict.fromkeys(("format", "identity", "config_digest", "git_commit", "started", "ended"), (str, type(None))),
    **dict.fromkeys(("files", "inputs", "packages", "metrics", "notes"), (dict,)),
    **dict.fromkeys(("wandb", "adapter"), (dict, type(None))),
    "version": (int,),
    "seed": (int, type(None)),
}


# Notes that later stages rely on.
_NOTES: dict[str, type] = {"stage": str, "verdict": str, "findings": dict, "tokenizer": dict, "allowed": list}


def _problem(body: dict[str, Any]) -> str | None:
    """What is wrong with the values of a manifest's fields, or None."""
    for name, kinds in _KINDS.items():
        if not isinstance(body[name], kinds) or isinstance(body[name], bool):
            return f"{name} is {body[name]!r}"
    if body["version"] < 1:
        return f"version is {body['version']}"
    if body["type"] not in TYPES:
        return f"type is {body['type']!r}, expected one of {', '.join(TYPES)}"
    if deep := next((name for name, value in body.items() if _is_deep([value], DEEPEST)), None):
        return f"{deep} is nested more than {DEEPEST} levels"
    for path, entry in body["files"].items():
        if not isinstance(entry, dict) or not _is_size(entry.get("size")) or not _has_hash(entry):
            return f"files[{path!r}] is {entry!r}"
        if (
            path.startswith("/")
            or not path.isprintable()
            or "\\" in path
            or any(part in ("", ".", "..") for part in path.split("/"))
        ):
            return f"files[{path!r}] is not a path inside the version"
        if path.casefold() == MANIFEST_FILE:
            return f"files[{path!r}] is the manifest itself"
        if above := next((folder for folder in _folders_above(path) if folder in body["files"]), None):
            return f"files[{above!r}] is a file and the folder of {path!r}"
    for role, value in body["inputs"].items():
        for record in value if isinstance(value, list) else [value]:
            if not _is_input(record):
                return f"inputs[{role!r}] is {record!r}, expected an object with ref and digest"
    for name, kind in _NOTES.items():
        if not isinstance(body["notes"].get(name), kind | None):
            return f"notes[{name!r}] is {body['notes'][name]!r}"
    if not all(isinstance(finding, dict) for finding in (body["notes"].get("findings") or {}).values()):
        return f"notes['findings'] is {body['notes']['findings']!r}"
    adapter = body["adapter"]
    if adapter is not None and not (_is_input(base := adapter.get("base")) and "kind" in base):
        return f"adapter['base'] is {base!r}, expected an object with kind, ref and digest"
    if adapter is not None and not isinstance(adapter.get("kind"), str | None):
        return f"adapter['kind'] is {adapter['kind']!r}"
    return None


def _is_input(record: object) -> bool:
    """Whether a value can be the record of an input."""
    if not isinstance(record, dict) or not isinstance(record.get("files", []), list):
        return False
    texts = [record.get(key) for key in ("kind", "type", "source", "revision") if record.get(key) is not None]
    return all(isinstance(text, str) for text in (record.get("ref"), record.get("digest"), *texts))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 60


def _folders_above(path: str) -> Iterator[str]:
    while (path := path.rpartition("/")[0]) != "":
        yield path


def _is_deep(value: Any, levels: int) -> bool:
    """Whether objects and lists are nested in more than `levels` levels."""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _has_hash(entry: dict[str, Any]) -> bool:
    value = next((entry[name] for name in ALGORITHMS if name in entry), None)
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _text_digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _whole(text: str | bytes, checksum: object) -> bool:
    content = text.encode() if isinstance(text, str) else text
    start, found, end = content.rpartition(_CHECKSUM.encode())
    return bool(found) and end == f"{checksum}{_END}".encode() and checksum == _text_digest(start)


def _damaged(where: Path | str, problem: str) -> UserError:
    return UserError(f"{where} is damaged: {problem}; make this version again, or restore the file from a copy")

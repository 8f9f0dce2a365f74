"""What a stage is given: an artifact, a Hugging Face repository or a path, each pinned to exact content."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from align.artifacts.digests import path_digest
from align.artifacts.disk import explain_disk_errors
from align.artifacts.manifest import Manifest, json_digest
from align.artifacts.refs import HUB_PREFIX, is_ref
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.errors import UserError

# Weights and text only: a pickle is never even downloaded, a program only where the config trusts it.
_ALLOW = {
    "model": ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"],
    "dataset": ["*.parquet", "*.jsonl", "*.json", "*.csv", "*.tsv", "*.txt"],
}
MODEL_CONFIGS = ("config.json", "adapter_config.json")  # every folder of a model has one of them
# Second copies of the weights in other layouts (onnx/, original/, consolidated.safetensors).
_IGNORE = {"model": ["*/*.safetensors", "*/*.json", "*/*.txt", "*/*.model", "consolidated*"], "dataset": []}
_HUB = re.compile(
    r"hf:([A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?)(?:@([A-Za-z0-9][A-Za-z0-9._/-]*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Input:
    """One resolved input."""

    text: str  # as the config named it
    kind: Literal["artifact", "hub", "path"]
    ref: str  # what names exactly this again: sft:v2, hf:org/model@<commit>, or the path as given
    path: Path  # what to load from
    type: str | None  # an artifact's type; not known of the others
    digest: str  # 64 hex digits that stand for the content
    revision: str | None  # the commit of a hub repository
    manifest: Manifest | None  # an artifact's

    def to_manifest(self) -> dict[str, Any]:
        """What the manifest of whatever is made from this records."""
        record = {"ref": self.ref, "digest": self.digest, "kind": self.kind}
        if self.type:
            record["type"] = self.type
        if self.text != self.ref:
            record["source"] = self.text
        if self.revision:
            record["revision"] = self.revision
        return record


def resolve_input(
    store: Store,
    text: str,
    *,
    repo_type: Literal["model", "dataset"] = "model",
    maker: str | None = None,
    code: bool = False,
) -> Input:
    """The input that `text` names, downloaded if need be; UserError if it cannot be had.

    `repo_type` says what a hub repository holds; `maker` is the command line that would make a missing artifact;
    `code` also downloads the Python files of a hub model.
    """
    if text.startswith(HUB_PREFIX):
        return _from_hub(text, repo_type, code)
    if not is_ref(text):
        return _from_path(text, repo_type)
    try:
        version = store.claim(store.resolve(text, maker=maker))
    except UserError as error:
        if os.path.exists(text):
            raise UserError(f"{error} (for the file or folder here, write ./{text})") from None
        raise
    return version_input(version, text)


def version_input(version: Version, text: str | None = None) -> Input:
    """A version as an input; `text` is how the config named it."""
    manifest = version.manifest
    folder = version.content_dir
    return Input(text or version.ref, "artifact", version.ref, folder, manifest.type, version.digest, None, manifest)


def parse_hub(text: str) -> tuple[str, str | None]:
    """(repository, revision or None) of `hf:org/model@revision`; UserError for anything else."""
    found = _HUB.fullmatch(text)
    if not found or ".." in text:
        raise UserError(f"{text!r} is not a Hugging Face repository: write hf:org/name or hf:org/name@revision")
    return found[1], found[2]


def is_commit(revision: str | None) -> bool:
    """Whether a revision of a Hub repository is a commit, which never changes, and not a branch or a tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _from_path(text: str, repo_type: str) -> Input:
    path = Path(text).expanduser()
    if not path.exists():
        raise UserError(
            f"input {text!r} does not exist (looked in {Path.cwd()}): correct the path, or name an artifact "
            "(sft:latest) or a Hugging Face repository (hf:org/name)"
        )
    if repo_type == "dataset":
        raise UserError(
            f"{text} is a path, and this takes a dataset artifact: make one (align data import), or name the file in "
            "the data block of a stage (data=local data.preference.train=<file>)"
        )
    # Before anything is hashed: the path may be a whole disk.
    if not path.is_dir():
        raise UserError(f"input {text!r} is a file; name the folder of a model")
    if not any((path / name).is_file() for name in MODEL_CONFIGS):
        raise UserError(
            f"input {text!r}: {path} holds no {MODEL_CONFIGS[0]} and no tokenizer: it is not a model's folder"
        )
    return Input(text, "path", text, path.absolute(), None, path_digest(path), None, None)


def _from_hub(text: str, repo_type: str, code: bool) -> Input:
    repository, revision = parse_hub(text)
    # Imported here: it costs half a second, and most commands never need it.
    from huggingface_hub import errors, snapshot_download

    try:
        with explain_disk_errors(f"download {text}", Path.home()):
            folder = snapshot_download(
                repository,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=[*_ALLOW[repo_type], *(["*.py"] if code else [])],
                ignore_patterns=_IGNORE[repo_type],
            )
    except errors.GatedRepoError:
        raise UserError(
            f"{text} is gated: accept its terms at https://huggingface.co/{repository} and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{text}: {repository} has no revision {revision!r}; look it up on its page") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{text}: no such {repo_type} repository, or a private one; check the name, or log in with `hf auth login`"
        ) from None
    except (errors.HTTPError, OSError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{text} is not in the local cache and could not be downloaded ({why}): connect to the Hugging Face Hub "
            "(is HF_HUB_OFFLINE set?), or give a path to a copy"
        ) from None
    # The cache names a snapshot's folder by its commit, and a commit stands for its content.
    commit = Path(folder).name
    if not is_commit(commit):
        raise RuntimeError(f"the snapshot of {text} is in {folder}, which is not named by a commit")
    digest = json_digest({"repository": repository, "repo_type": repo_type, "commit": commit})
    return Input(text, "hub", f"{HUB_PREFIX}{repository}@{commit}", Path(folder), None, digest, commit, None)

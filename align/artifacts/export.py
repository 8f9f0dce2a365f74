"""A version as a plain Hugging Face directory that needs no align: its files, an adapter's base, and a card."""

import json
import math
import os
from pathlib import Path

from align.artifacts.bases import ADAPTER_CONFIG, read_adapter_config, resolve_base
from align.artifacts.card import card
from align.artifacts.disk import clone_file, explain_disk_errors
from align.artifacts.inputs import parse_hub
from align.artifacts.manifest import MODEL_TYPES
from align.artifacts.refs import HUB_PREFIX
from align.artifacts.store import Store
from align.artifacts.verification import check_version
from align.artifacts.version import Version
from align.errors import UserError

CARD = "README.md"
BASE = "base"  # the folder of an adapter's base, next to the adapter's files


def export(store: Store, version: Version, folder: Path, *, base: str | None = None) -> Path:
    """Copy a version into `folder`, which is created: of models the content of model/, of other types everything.

    An adapter is exported so that it can be used elsewhere: it names a base on the Hub, and a base that is not there
    is copied into `folder`/base. The copies share blocks with the store where the file system can, and may be changed.

    Args:
        base: the Hub's name of an adapter's base, `hf:org/model` or `hf:org/model@revision`, instead of a copy of it.

    Raises:
        UserError: the folder is not empty, the version or its base is not what was published, or `base` is given for
            something other than an adapter.
    """
    adapter = version.manifest.adapter if version.manifest.type in MODEL_TYPES else None
    if base is not None and adapter is None:
        raise UserError(f"{version.ref} is not an adapter, so --base {base} has no meaning for it: leave it out")
    hub_base = None if base is None else parse_hub(base)
    with explain_disk_errors(f"export {version.ref}", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not an empty folder; name a new one")
        check_version(store, version, below_gb=math.inf)
        shipped = None
        if adapter is not None and hub_base is None and not adapter["base"]["ref"].startswith(HUB_PREFIX):
            shipped = _base_files(store, version)
        top = "model/" if version.manifest.type in MODEL_TYPES else ""
        for inside in version.manifest.files:
            if inside.startswith(top):
                _copy(version.path / inside, folder / inside.removeprefix(top))
        for file in shipped or ():
            _copy(file, folder / BASE / file.name)
        if shipped is not None:
            _rename_base(folder, f"./{BASE}", None)
        elif hub_base is not None:
            _rename_base(folder, *hub_base)
        folder.mkdir(parents=True, exist_ok=True)  # a forged manifest may name no file of a model
        name = CARD if not (folder / CARD).exists() else "CARD.md"
        (folder / name).write_text(card(store, version, base=BASE if shipped is not None else None), "utf-8")
        os.chmod(folder / name, 0o644)
    return folder


def _base_files(store: Store, version: Version) -> list[Path]:
    """The files of the base that an adapter belongs to, from this store or from a folder of the user's."""
    base = resolve_base(version.content_dir)
    if base.kind == "artifact":
        check_version(store, store.resolve(base.ref), below_gb=math.inf)
    return sorted(file for file in base.path.iterdir() if file.is_file() and file.suffix != ".bin")


def _rename_base(folder: Path, name: str, revision: str | None) -> None:
    """Write the base's name into an exported adapter."""
    config = read_adapter_config(folder) | {"base_model_name_or_path": name, "revision": revision}
    (folder / ADAPTER_CONFIG).unlink()  # it may share its blocks, and its mode, with the store's
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    clone_file(source, target)

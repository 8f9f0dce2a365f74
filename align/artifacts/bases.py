"""The base an adapter belongs on: its weights mean something on that one model only."""

from pathlib import Path

from align.artifacts.disk import read_regular, unreadable
from align.artifacts.inputs import Input, resolve_input
from align.artifacts.manifest import LARGEST, MANIFEST_FILE, Manifest
from align.artifacts.model_json import read_json
from align.artifacts.refs import HUB_PREFIX
from align.artifacts.store import Store
from align.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """True if `folder` holds a PEFT adapter and not whole weights."""
    return (folder / ADAPTER_CONFIG).is_file()


def resolve_base(folder: Path, *, code: bool = False) -> Input:
    """The base of the adapter in `folder`; with `code`, the Python files of a base from the Hub too.

    Inside an artifact the manifest names it, as a version of the same store; elsewhere PEFT's own record does, where a
    relative path begins at the adapter's folder.

    Raises:
        UserError: the base is gone, or is no longer what the adapter was trained on.
    """
    recorded = read_adapter_config(folder)
    manifest_file = folder.parent / MANIFEST_FILE
    record = None
    if manifest_file.is_file():
        record = (_manifest(manifest_file).adapter or {}).get("base")
    name = recorded.get("base_model_name_or_path") or ""
    if record is not None and record["kind"] != "path":
        text = record["ref"]
    elif (folder / name).is_dir() or Path(name).exists() or name.startswith("."):
        # PEFT takes a relative path from the working directory; in an export it is relative to the adapter
        text = str(folder / name if (folder / name).is_dir() or name.startswith(".") else Path(name).absolute())
    else:
        text = HUB_PREFIX + name + (f"@{recorded['revision']}" if recorded.get("revision") else "")
    try:
        base = resolve_input(Store(folder.parents[2]), text, code=code)
    except UserError as error:
        raise UserError(f"{folder} is an adapter, and its base cannot be had: {error}") from None
    if is_adapter(base.path):
        raise UserError(f"{folder} is an adapter on {text}, which is an adapter itself; name the model below both")
    if record is not None and base.digest != record["digest"]:
        raise UserError(
            f"{folder} is an adapter trained on {text} as it was then, and {text} has changed since: restore it, or "
            "train the adapter again"
        )
    return base


def adapter_kind(folder: Path) -> str | None:
    """How the adapter in `folder` was trained, `lora` or `qlora`; None where no manifest says so."""
    manifest_file = folder.parent / MANIFEST_FILE
    if not manifest_file.is_file():
        return None
    adapter = _manifest(manifest_file).adapter
    return adapter.get("kind") if adapter else None


def _manifest(file: Path) -> Manifest:
    """The manifest beside a folder, which may lie anywhere."""
    try:
        return Manifest.from_json(read_regular(file, LARGEST), file)
    except OSError as error:
        raise unreadable(file, error) from None
    except ValueError as error:
        raise UserError(f"{file} is not a manifest: {error}; move it away") from None


def read_adapter_config(folder: Path) -> dict:
    """PEFT's record of the adapter in `folder`."""
    return read_json(folder / ADAPTER_CONFIG)

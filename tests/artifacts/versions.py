"""Small versions for the tests of the store: a folder filled, and published."""

from pathlib import Path

from align.artifacts.store import Store
from align.artifacts.version import Version

WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # an empty but valid safetensors file


def filled(store: Store, name: str = "sft", files: dict[str, bytes] | None = None) -> Path:
    """A folder of `store.stage` with files in it, by default those of a model."""
    folder = store.stage(name)
    for inside, content in (files or {"model/model.safetensors": WEIGHTS, "config.yaml": b"stage: sft\n"}).items():
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (folder / inside).write_bytes(content)
    return folder


def publish(store: Store, name: str = "sft", files: dict[str, bytes] | None = None, **facts) -> Version:
    """A version of `filled`."""
    return store.publish(filled(store, name, files), name=name, **{"type": "model"} | facts)

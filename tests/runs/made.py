"""Runs made by hand: a folder with the records that a stage leaves, in any state."""

import json
import os
from pathlib import Path

from align.artifacts import checkpoints
from align.artifacts.store import Store
from align.distributed import processes
from tests.artifacts.versions import WEIGHTS, publish

GONE = {"host": os.uname().nodename, "boot": processes.boot(), "pid": 2**22 + 1, "began": "1"}
BETA = "stage: {stage}\nname: {name}\ntrainer:\n  beta: {beta}\n  learning_rate: 0.001\ntracking:\n  group: {group}\n"


def identity_of(name: str) -> str:
    """64 hex digits for a name."""
    return name.encode().hex().ljust(64, "0")


def make_run(
    store: Store,
    name: str,
    state: str = "stopped",
    *,
    stage: str = "dpo",
    rows: list[dict] | None = None,
    steps: tuple[int, ...] = (),
    beta: float = 0.1,
    started: str = "2026-01-01T00:00:00Z",
    group: str | None = None,
    **holder,
) -> Path:
    """A run called `name` that ended, or with `state="died"` did not say so; its folder.

    Args:
        rows: of metrics.jsonl.
        steps: of its whole checkpoints, 1000 bytes each.
        holder: more facts of the record of its process.
    """
    folder = store.run_dir(identity_of(f"{name}{beta}"))
    record = {"stage": stage, "name": name, "identity": folder.name, "started": started, "group": group}
    record["inputs"] = {"policy": {"ref": "sft:v1", "digest": "a" * 64, "kind": "artifact"}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(BETA.format(stage=stage, name=name, beta=beta, group=group))
    (folder / "holders").mkdir(exist_ok=True)
    body = GONE | {"since": started, "state": "running" if state == "died" else state} | holder
    (folder / "holders" / "000001").write_text(json.dumps(body))
    if rows is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in steps:
        staging = checkpoints.stage(folder / "checkpoints")
        (staging / checkpoints.name_of(step)).mkdir()
        (staging / checkpoints.name_of(step) / "model.safetensors").write_bytes(b"x" * 1000)
        checkpoints.commit(staging, step, {})
    return folder


def publish_run(store: Store, name: str, *, stage: str = "dpo", beta: float = 0.1, rows=None, metrics=None, **facts):
    """A run that has published: its folder, and the version."""
    folder = make_run(store, name, "published", stage=stage, beta=beta, rows=rows, published=f"{name}:v1", **facts)
    files = {
        "model/model.safetensors": WEIGHTS,
        "config.yaml": (folder / "config.yaml").read_bytes(),
    }
    if rows is not None:
        files["metrics.jsonl"] = (folder / "metrics.jsonl").read_bytes()
    version = publish(store, name, files, identity=folder.name, metrics=metrics or {}, notes={"stage": stage})
    return folder, version

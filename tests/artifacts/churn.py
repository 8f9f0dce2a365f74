"""gc beside publications and starting runs: processes that publish, resolve and collect in one store at once.

`churn` starts them and says what came of it; a test and `make soak` share it. Nothing waits for anything else, and gc
has no grace period, so that every moment of a publication and of a start meets a collection sooner or later.
"""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from align.artifacts import claims
from align.artifacts.gc import collect, plan_collection
from align.artifacts.store import Store
from align.artifacts.verification import open_version, verify, verify_many
from align.errors import UserError
from tests.artifacts.versions import WEIGHTS, filled

STOP = "stop"
HARM = ("published with files missing", "inputs lost", "called corrupt", "broken", "failed")  # what must not happen
FILES = {"model/model.safetensors": WEIGHTS, "model/config.json": b"{}", "config.yaml": b"stage: sft\n"}


def publisher(store: Store, count: int) -> Counter[str]:
    """Publish, and look at once whether all of it is there."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        folder = filled(store, "base", FILES | {"config.yaml": f"seed: {number}\n".encode()})
        version = store.publish(folder, name="base", type="model")
        outcomes["published"] += 1
        # A second publisher may have moved `latest` on, and gc may then have taken this one whole, but never in part.
        whole = verify(store, version.name, version.number).whole
        outcomes["published with files missing"] += not whole and version.path.is_dir()
    return outcomes


def runner(store: Store, count: int) -> Counter[str]:
    """Resolve an input, as a run does at its start, read it again and again, and publish what was made of it."""
    outcomes: Counter[str] = Counter()
    draw = random.Random(0)
    for _ in range(count):
        numbers = store.numbers("base")
        if not numbers:
            continue
        try:
            version = open_version(store, f"base:v{draw.choice(numbers)}")
        except UserError as error:
            outcomes["removed before it was resolved"] += 1
            outcomes["called corrupt"] += "corrupt" in str(error)
            continue
        outcomes["started"] += 1
        for _ in range(5):
            outcomes["inputs lost"] += not verify(store, version.name, version.number).whole
        record = {"ref": version.ref, "digest": version.digest, "kind": "artifact", "type": "model"}
        store.publish(filled(store, "made", FILES), name="made", type="model", inputs={"policy": record})
        outcomes["inputs lost"] += not verify(store, version.name, version.number).whole
        claims.release()
    return outcomes


def collector(store: Store, count: int) -> Counter[str]:
    """Collect without a grace period until everybody else is done."""
    outcomes: Counter[str] = Counter()
    while not (store.root / STOP).exists():
        outcomes["collected"] += len(collect(store, plan_collection(store, grace_days=0)))
        outcomes["collections"] += 1
    return outcomes


ROLES = {"publisher": publisher, "runner": runner, "collector": collector}


def churn(root: Path, count: int) -> dict[str, int]:
    """Two publishers and two runners do their work `count` times each beside two collectors; what came of it.

    `broken` counts versions that are not whole in the end, and parents that a version lacks.
    """
    store = Store(root)
    store.publish(filled(store, "base", FILES), name="base", type="model")
    command = [sys.executable, "-m", "tests.artifacts.churn", str(root), str(count)]
    start = {"stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, role], **start) for role in ("publisher", "runner") * 2]
    collectors = [subprocess.Popen([*command, "collector"], **start) for _ in range(2)]
    outcomes: Counter[str] = Counter()
    failed = 0
    for process in workers:
        outcomes.update(_answer(process))
        failed += process.returncode != 0
    (root / STOP).touch()
    for process in collectors:
        outcomes.update(_answer(process))
        failed += process.returncode != 0
    everything = [(name, number) for name, numbers in store.contents() for number in numbers]
    broken = sum(not finding.whole for finding in verify_many(store, everything))
    for name, number in everything:
        broken += sum(parent.version is None for parent in store.parents(store.version(name, number)))
    return dict(outcomes) | {"broken": broken, "failed": failed}


def _answer(process: subprocess.Popen) -> dict[str, int]:
    text, _ = process.communicate(timeout=600)
    return json.loads(text) if process.returncode == 0 else {}


if __name__ == "__main__":
    root, count, role = sys.argv[1:]
    print(json.dumps(ROLES[role](Store(root), int(count))))

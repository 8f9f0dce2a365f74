"""How fast the store publishes, verifies and lists, beside what others do with the same files.

    python benchmarks/artifacts.py files [--gb 3] [--folder DIR]              hash rate, publish, verify, peers
    python benchmarks/artifacts.py store [--versions 10000] [--folder DIR]    ls, resolve and lineage in a big store

Writes benchmarks/artifacts.json, with the machine and the versions. The page cache is warm: every file is read once
before. Peers (dvc, mlflow, wandb) are used where they are installed; in an environment of their own: --peers-python.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from align.artifacts.digests import ALGORITHM, new_hash
from align.artifacts.manifest import Manifest
from align.artifacts.store import Store
from align.artifacts.verification import verify

RESULTS = Path(__file__).with_suffix(".json")
FILES = 21
REPEATS = 3
PEERS = {
    "dvc": "import sys; from dvc.cli import main; sys.exit(main(['add', '-q', 'model']))",
    "mlflow": (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db')\n"
        "with mlflow.start_run(): mlflow.log_artifacts('model')"
    ),
    "wandb": (
        "import wandb; run = wandb.init(project='x', mode='offline', dir='.')\n"
        "one = wandb.Artifact('model', 'model'); one.add_dir('model'); run.log_artifact(one); run.finish()"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("files", "store"))
    parser.add_argument("--gb", type=float, default=3)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--names", type=int, default=100)
    parser.add_argument("--peers-python", help="a Python that has dvc, mlflow or wandb")
    parser.add_argument("--folder", help="where to write; a temporary folder if not given")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        place = Path(folder)
        told = files(place, asked.gb, asked.peers_python) if asked.what == "files" else store(place, asked)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "blake3": metadata.version("blake3")}
    told = {"machine": {**machine, "load": round(os.getloadavg()[0], 2)}, **told}
    print(json.dumps(told, indent=2))
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(results | {asked.what: told}, indent=2) + "\n", "utf-8")


def files(place: Path, gb: float, python: str | None) -> dict:
    """GB/s (10^9 bytes) of hashing, publishing and verifying 21 files that are on disk already; the best of three."""
    source = place / "source"
    size = make_files(source, gb)
    os.sync()
    paths = sorted(source.iterdir())

    def hash_mapped() -> None:  # the machine's rate: every file on all cores, mapped, no copy
        for path in paths:
            from blake3 import blake3

            blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()

    def hash_sha256() -> None:
        for path in paths:
            with open(path, "rb") as file:
                hasher = new_hash("sha256")
                while piece := file.read(1 << 20):
                    hasher.update(piece)

    one = Store(place / "store")

    def publish() -> float:
        folder = one.stage("model")
        os.rename(source, folder / "model")
        started = time.perf_counter()
        version = one.publish(folder, name="model", type="model")
        spent = time.perf_counter() - started
        shutil.copytree(version.path / "model", source, copy_function=os.link)
        return spent

    told: dict = {"bytes": size, "files": FILES, "algorithm": ALGORITHM}
    told["hash"] = size / best(timed(hash_mapped)) / 1e9
    told["sha256_one_core"] = size / best(timed(hash_sha256), 1) / 1e9
    told["publish"] = size / best(publish) / 1e9
    number = one.numbers("model")[-1]

    def check() -> None:
        finding = verify(one, "model", number)
        assert finding.whole, finding

    told["verify"] = size / best(timed(check)) / 1e9
    told["cp"] = size / best(timed(lambda: shutil.copytree(source, fresh(place / "copy")))) / 1e9
    shutil.rmtree(place / "copy")
    told |= {"publish_share": told["publish"] / told["hash"], "verify_share": told["verify"] / told["hash"]}
    if python:
        told["peers"] = {name: peer(place, source, size, python, name, code) for name, code in PEERS.items()}
    return {key: round(value, 3) if isinstance(value, float) else value for key, value in told.items()}


def peer(place: Path, source: Path, size: int, python: str, name: str, code: str) -> dict | str:
    """GB/s of a peer's way to keep the same files, its start left out (timed on an empty folder)."""
    version = subprocess.run(
        [python, "-c", f"import {name}; print({name}.__version__)"],
        capture_output=True,
        text=True,
    )
    if version.returncode:
        return "not installed"
    seconds = []
    for tree in ("empty", "full"):
        folder = fresh(place / f"{name}-{tree}")
        folder.mkdir()
        if tree == "full":
            shutil.copytree(source, folder / "model")
        else:
            (folder / "model").mkdir()
            (folder / "model" / "one.txt").write_text("x")
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "DVC_NO_ANALYTICS": "1",
        }
        if name == "dvc":
            init = "import sys; from dvc.cli import main; sys.exit(main(['init', '-q', '--no-scm']))"
            subprocess.run([python, "-c", init], cwd=folder, env=environment, check=True)
        started = time.perf_counter()
        done = subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
        seconds.append(time.perf_counter() - started)
        shutil.rmtree(folder, ignore_errors=True)
        if done.returncode:
            return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    spent = max(seconds[1] - seconds[0], 1e-9)
    return {"version": version.stdout.strip(), "rate": round(size / spent / 1e9, 3), "start_s": round(seconds[0], 2)}


def store(place: Path, asked: argparse.Namespace) -> dict:
    """Seconds of the commands in a store of many versions: as a person waits for them, process start and all."""
    root = place / "store"
    make_store(root, asked.versions, asked.names)
    last = f"model{asked.names - 1:03d}"
    told: dict = {"versions": asked.versions, "names": asked.names}
    commands = {"ls": ["ls"], "show": ["show", last], "lineage": ["lineage", last]}
    for name, command in commands.items():
        told[name] = seconds_of(["-m", "align.cli", "artifacts", *command, "--artifacts", str(root)])
    code = "import sys; from align.artifacts.store import Store; print(Store(sys.argv[1]).resolve(sys.argv[2]).ref)"
    told["resolve"] = seconds_of(["-c", code, str(root), last])
    (root / ".index").unlink()
    told["ls_without_index"] = seconds_of(["-m", "align.cli", "artifacts", "ls", "--artifacts", str(root)], repeats=1)
    told["python_start"] = seconds_of(["-c", "import argparse, json, pathlib"])
    return told


def make_files(folder: Path, gb: float) -> int:
    """21 files like a model's: 20 of weights of unequal size and a small one; returns bytes."""
    folder.mkdir()
    piece = os.urandom(1 << 20)
    shares = [1 + number % 3 for number in range(FILES - 1)]
    total = 0
    for number, share in enumerate(shares):
        count = int(gb * 1e9 * share / sum(shares)) >> 20
        with open(folder / f"model-{number:05d}.safetensors", "wb") as file:
            file.write((2).to_bytes(8, "little") + b"{}" + bytes([number]) * 6)
            for _ in range(count):
                file.write(piece)
            total += file.tell()
    (folder / "config.json").write_text("{}")
    return total + 2


def make_store(root: Path, versions: int, names: int) -> None:
    """Versions written straight to disk, each made from the one before it; real publications would take an hour."""
    weights = {"model/model.safetensors": {ALGORITHM: "0" * 64, "size": 10_000_000}}
    packages = dict.fromkeys(("python", "torch", "transformers", "trl", "peft", "deepspeed", "datasets"), "1.0.0")
    metrics = {f"eval/metric_{number}": number / 7 for number in range(20)} | {"eval_loss": 0.5}
    before: Manifest | None = None
    for at in range(versions):
        name, number = f"model{at % names:03d}", at // names + 1
        inputs = {}
        if at % names and before:
            parent = f"model{at % names - 1:03d}:v{number}"
            inputs = {"policy": {"ref": parent, "digest": before.digest, "kind": "artifact", "type": "model"}}
        before = Manifest(
            name, number, "model", weights, inputs=inputs, metrics=metrics, packages=packages,
            identity=f"{at:064x}", ended="2026-11-21T10:20:30Z",
        )  # fmt: skip
        folder = root / name / f"v{number:04d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(before.to_json())
        log = root / name / "aliases" / "latest"
        log.mkdir(parents=True, exist_ok=True)
        (log / f"{number:06d}").write_text(json.dumps({"version": number, "when": "", "who": ""}) + "\n")


def seconds_of(arguments: list[str], repeats: int = 5) -> float:
    """The median time of a fresh Python process, after one to warm up."""
    command = [sys.executable, *arguments]
    if repeats > 1:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    spent = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        spent.append(time.perf_counter() - started)
    return round(statistics.median(spent), 3)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return run


def best(run: Callable[[], float], repeats: int = REPEATS) -> float:
    return min(run() for _ in range(repeats))


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


if __name__ == "__main__":
    main()

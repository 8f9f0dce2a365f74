"""Runs that are killed at chosen moments, and the run that never was: what test_kills.py and `make soak` share.

A *zygote* has imported what every stage needs and forks each run from itself, so that a start takes a moment and not
the ten seconds of its imports. What is forked runs `align.run.stage.main` as launch/run.py does, one process
or several, and is killed (SIGKILL, no cleanup) by itself before or after the n-th call of a named function, or after
some time.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.artifacts.store import Store
from align.artifacts.version import Version
from align.stages.spec import STAGES
from tests.conftest import TINY_MODEL

KILLED = -signal.SIGKILL
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: ranks whose launcher was killed become the zygote's children
_PATIENCE = 10.0  # seconds that the ranks have to end after one has died, as under `deepspeed`
_WALL_CLOCK = ("_runtime", "_per_second", "step_time", "time/")


# What a stage calls when the costly part of its work is done.
WORK = {
    "evaluate": "write_report",
    "score": "write_scored",
    "sample": "write_comparisons",
    "ppo": "finish_model",
}
FEW_ROWS = {"max_rows": "64", "eval": "null", "eval_fraction": "0.05"}
TRAINING = {
    "trainer.learning_rate": "1e-3",
    "trainer.per_device_train_batch_size": "4",
    "trainer.per_device_eval_batch_size": "8",
    "trainer.gradient_accumulation_steps": "2",
    "trainer.activation_checkpointing": "false",
    "trainer.logging_steps": "3",
    "trainer.save_strategy": "steps",
    "trainer.save_steps": "2",
    "tracking.sample_prompts": "2",
    "tracking.sample_tokens": "4",
}
OFFLINE = TRAINING | {
    "trainer.max_steps": "10",  # beyond an epoch
    "trainer.max_length": "128",
    "trainer.eval_strategy": "steps",
    "trainer.eval_steps": "4",
}
ONLINE = TRAINING | {
    "trainer.max_steps": "8",
    "trainer.num_iterations": "2",
    "trainer.max_completion_length": "8",
}
SMALL = {
    "pretrain": TINY_MODEL | {"data.language_modeling.max_rows": "512"},
    "evaluate": {
        "inputs.policy": "[sft:v1]",
        "inputs.reward_model": "reward:v1",
        "evaluate.max_prompts": "4",
        "evaluate.max_rows": "4",
        "evaluate.max_new_tokens": "8",
        "evaluate.bootstrap": "20",
        "evaluate.temperature": "1",
    },
    "sample": {"inputs.policy": "[sft:v1]", "sample.max_prompts": "8", "sample.max_new_tokens": "8"},
    "score": {"inputs.dataset": "pairs:v1", "inputs.reward_model": "reward:v1"},
}


@dataclass(frozen=True)
class Kill:
    """When a process dies.

    Attributes:
        where: `module:name` or `module:Class.name`, as it is looked up when it is called; `launcher` for the process
            that started the ranks, `time` for any moment.
        nth: which call; thousandths of a second for `launcher` and `time`.
        after: the call has returned.
        rank: whose.
    """

    where: str
    nth: int = 1
    after: bool = False
    rank: int = 0

    def __str__(self) -> str:
        if self.where in ("launcher", "time"):
            return f"{self.where} at {self.nth / 1000:.2f} s"
        return f"{'after' if self.after else 'before'} call {self.nth} of {self.where} on rank {self.rank}"


def moments(stage: str) -> list[Kill]:
    """Moments at which a one-process run of a stage is worth killing, in the order of its life."""
    publishing = [
        Kill("align.artifacts.store:seal", after=True),  # hashed and durable
        Kill("align.artifacts.store:rename_onto"),
        Kill("align.artifacts.store:rename_onto", after=True),  # published, and no alias points at it
        Kill("align.run.stage:remove_tree", 2),  # before it has tidied up; the first call is at the start
    ]
    if STAGES[stage].trainer_config is None:
        return [
            Kill(f"align.stages.{stage}:{WORK[stage]}"),
            Kill("align.distributed.ranks:map_batches", after=True),
            *publishing,
        ]
    return [
        Kill("transformers.trainer:Trainer.training_step"),
        Kill("align.training.tracking:_append", after=True),
        Kill("align.artifacts.checkpoints:stage", after=True),
        Kill("transformers.trainer:Trainer._save_rng_state", 2),  # weights and optimizer are written
        Kill("align.artifacts.checkpoints:commit", 2),  # all is written, nothing is marked
        Kill("align.artifacts.checkpoints:write_durably", 2, after=True),  # marked, and not yet in its place
        Kill("transformers.trainer:Trainer.training_step", 6),
        Kill("align.artifacts.checkpoints:remove_tree", 4),  # while an old one is taken away
        Kill("align.artifacts.checkpoints:commit", 3, after=True),
        Kill(f"align.stages.{stage}:{WORK.get(stage, 'save_model')}"),  # trained, not saved
        *publishing,
    ]


def overrides(stage: str, root: Path, *more: str) -> list[str]:
    """A small run of a stage, whose logs, evaluations and checkpoints do not coincide; what `more` says stands."""
    given = {"stage": stage, "artifacts.root": str(root)}
    if STAGES[stage].trainer_config is not None:
        given |= ONLINE if STAGES[stage].online else OFFLINE
        given |= {f"data.{STAGES[stage].formats[0]}.{key}": value for key, value in FEW_ROWS.items()}
    given |= SMALL.get(stage, {}) | dict(text.split("=", 1) for text in more)
    return [f"{key}={value}" for key, value in given.items()]


class Zygote:
    """The process that forks runs: a context."""

    def __enter__(self) -> "Zygote":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.run.kills"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(self, overrides: list[str], log: Path, *, ranks: int = 1, kill: Kill | None = None) -> list[int]:
        """Run one stage; the exit codes of its ranks, -9 for one that was killed."""
        task = {"overrides": overrides, "log": str(log), "ranks": ranks, "kill": kill and asdict(kill)}
        print(json.dumps(task), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def publish_pairs(root: Path) -> None:
    """A dataset artifact for the stages that read no other."""
    store = Store(root)
    folder = store.stage("pairs")
    (folder / "records").mkdir()
    rows = [{"prompt": f"say {n}", "chosen": "yes, gladly", "rejected": "no"} for n in range(8)]
    (folder / "records" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store.publish(folder, name="pairs", type="dataset", format="preference")


def differences(left: Version, right: Version) -> list[str]:
    """What two versions disagree about, but for the clock: weights, metrics, samples, reports."""
    found = []
    ours, theirs = (_compared(one) for one in (left, right))
    if ours != theirs:
        return [f"files: {ours} and {theirs}"]
    for name in ours:
        if _content(left.path / name) != _content(right.path / name):
            found.append(name)
    if _timeless(left.manifest.metrics) != _timeless(right.manifest.metrics):
        found.append(f"metrics: {_timeless(left.manifest.metrics)} and {_timeless(right.manifest.metrics)}")
    return found


def _compared(version: Version) -> list[str]:
    endings = (".safetensors", ".jsonl", *([] if version.manifest.type == "dataset" else ["report.json"]))
    return sorted(name for name in version.manifest.files if name.endswith(endings))


def _content(file: Path) -> Any:
    if file.suffix != ".jsonl":
        return file.read_bytes()
    return [_timeless(json.loads(line)) for line in file.read_text("utf-8").splitlines()]


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not any(word in key for word in _WALL_CLOCK)}


# -- the zygote -------------------------------------------------------------------------------------------------------


def _serve() -> None:
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries talk while they are imported
    _warm_up()
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(_start(task)), file=answers, flush=True)


def _warm_up() -> None:
    importlib.import_module("align.run.stage")
    for stage in STAGES:
        importlib.import_module(f"align.stages.{stage}")
    importlib.import_module("deepspeed")


def _start(task: dict[str, Any]) -> list[int]:
    """Fork a launcher, which forks the ranks; the ranks' exit codes."""
    kill = Kill(**task["kill"]) if task["kill"] else None
    began = time.monotonic()
    reader, writer = os.pipe()
    launcher = os.fork()
    if not launcher:
        os.close(reader)
        _launch(task, kill, writer)
    os.close(writer)
    codes: dict[int, int] = {}
    with os.fdopen(reader) as told:
        ranks = json.loads(told.readline())
        if kill and kill.where in ("time", "launcher"):
            left = began + kill.nth / 1000 - time.monotonic()
            if not select.select([told], [], [], max(left, 0.0))[0]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(launcher if kill.where == "launcher" else ranks[kill.rank], signal.SIGKILL)
        for line in told:
            pid, code = map(int, line.split())
            codes[pid] = code
    os.waitpid(launcher, 0)
    for pid in ranks:
        if pid not in codes:  # an orphan, and this process's child now
            codes[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return [codes[pid] for pid in ranks]


def _launch(task: dict[str, Any], kill: Kill | None, writer: int) -> None:
    """In the launcher's process: fork the ranks, tell how they end; one that fails ends the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(task["ranks"]):
        pid = os.fork()
        if not pid:
            os.close(writer)
            _run(task, kill, rank, port)
        ranks.append(pid)
    os.write(writer, f"{json.dumps(ranks)}\n".encode())
    left, until = set(ranks), None
    while left:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            left.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            os.write(writer, f"{pid} {code}\n".encode())
            if code and not until:
                until = time.monotonic() + _PATIENCE
                for other in left:
                    os.kill(other, signal.SIGTERM)
        elif until and time.monotonic() > until:
            for other in left:
                os.kill(other, signal.SIGKILL)
        else:
            time.sleep(0.005)
    os._exit(0)


def run_once(task: dict[str, Any]) -> None:
    """Run the task of one process in this one, and end it; where there is a GPU a zygote cannot fork."""
    _run(task, Kill(**task["kill"]) if task["kill"] else None, 0, 0)


def _run(task: dict[str, Any], kill: Kill | None, rank: int, port: int) -> None:
    """In a rank's process: what launch/run.py does."""
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if task["ranks"] > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(task["ranks"]),
            LOCAL_SIZE=str(task["ranks"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    code = 1
    try:
        if kill and kill.rank == rank and kill.where not in ("time", "launcher"):
            _die_at(kill)
        from align.run.stage import main

        code = main(task["overrides"])
    except BaseException:  # noqa: BLE001 - printed, and said by the exit code
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _die_at(kill: Kill) -> None:
    module, _, path = kill.where.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    real = getattr(owner, name)
    calls = 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = calls == kill.nth
        if mine and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


if __name__ == "__main__":
    _serve()

"""Processes: what they share, who goes first, and that none is left when a run is ended from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from align.artifacts.run_lock import read_holder
from align.artifacts.store import Store
from align.config.paths import PROJECT
from align.config.schema import LauncherConfig
from align.distributed import ranks
from align.errors import ExitCode
from align.run.launchers import command, session_alive
from tests.conftest import stage_overrides

PATIENCE = 120.0  # seconds that a launch may take on a busy machine


def test_a_free_port_is_free_until_somebody_listens():
    port = ranks.free_port()
    assert ranks.is_free(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not ranks.is_free(port)


def test_one_process_needs_no_group():
    assert (ranks.rank(), ranks.world_size(), ranks.is_main()) == (0, 1, True)
    assert ranks.share("said") == "said"
    batches = []
    assert ranks.map_batches(lambda batch: batches.append(batch) or batch, [1, 2, 3], 2) == [1, 2, 3]
    assert batches == [[1, 2], [3]]


@pytest.mark.slow
def test_two_processes_share_work_and_word(tmp_path):
    """Results come in order on both; both call equally often; the main one goes first."""
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent("""
            import json, sys, time
            from pathlib import Path
            from align.distributed import ranks

            folder, rank = Path(sys.argv[1]), ranks.rank()
            ranks.join(deepspeed=None)
            told = {"shared": ranks.share(f"from {rank}")}
            for count in (0, 1, 4, 5):
                batches = []
                squares = ranks.map_batches(
                    lambda batch: batches.append(len(batch)) or [x * x for x in batch], list(range(count)), 2
                )
                told[count] = [squares, batches]
            with ranks.main_first():
                if ranks.is_main():
                    time.sleep(0.5)
                    (folder / "cache").write_text("filled")
                told["cache"] = (folder / "cache").read_text()
            (folder / f"{rank}.json").write_text(json.dumps(told))
            ranks.leave()
        """)
    )
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ranks.free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path)],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(PROJECT)},
        )
        for rank in (0, 1)
    ]
    try:
        assert [rank.wait(PATIENCE) for rank in processes] == [0, 0]
    finally:
        for rank in processes:
            rank.kill()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["shared"] == second["shared"] == "from 0"
    assert first["cache"] == second["cache"] == "filled"
    for count in (0, 1, 4, 5):
        assert first[str(count)][0] == second[str(count)][0] == [x * x for x in range(count)]
        assert first[str(count)][1] == second[str(count)][1], "under ZeRO-3 a call is a collective"


def test_a_rank_ends_when_its_launcher_is_killed(tmp_path):
    rank = "import time; from align.distributed import ranks; ranks.end_with_launcher(); print('up'); time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.run([sys.executable, '-uc', {rank!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", launcher],
        env={**os.environ, "WORLD_SIZE": "2", "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        try:
            assert parent.stdout.readline() == "up\n"
            parent.kill()
            parent.wait()
            assert gone(parent.pid, 10)
        finally:
            end(parent.pid)


# -- from outside, while two ranks train -----------------------------------------------------------------------------

LONG = ["trainer.max_steps=100000", "tracking.sample_prompts=0"]


@pytest.fixture
def started(tmp_path) -> Iterator[Callable[[list[str]], tuple[subprocess.Popen, Path]]]:
    """Start a command in a session of its own and wait until it trains; whatever the test does, none of it is left."""
    sessions: list[int] = []

    def start(words: list[str]) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / "log.txt"
        with log.open("w") as stream:
            child = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        sessions.append(child.pid)
        until = time.monotonic() + PATIENCE
        while " step " not in log.read_text():
            assert child.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.2)
        return child, log

    yield start
    for pid in sessions:
        end(pid)


def ranks_of(store: Path) -> list[int]:
    """The processes whose command line names the store."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(store).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def gone(group: int, seconds: float) -> bool:
    """True as soon as the process group is empty; False if it is not in time."""
    until = time.monotonic() + seconds
    while session_alive(group):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def end(group: int) -> None:
    if session_alive(group):
        os.killpg(group, signal.SIGKILL)


def assert_nothing_was_published(store: Path) -> None:
    assert Store(store).names() == ["pretrain", "reward", "sft"]
    assert [version.ref for version in Store(store).versions("sft")] == ["sft:v1"]
    assert not list(store.glob("*/.staging-*"))


def assert_a_checkpoint_was_written(store: Path) -> None:
    """The ranks agreed on a step, and the run's record knows of it, whatever the launcher's exit code was."""
    (mark,) = store.glob(".runs/*/checkpoints/checkpoint-*/whole.json")
    holder = read_holder(mark.parents[2])
    assert (holder.state, holder.step) == ("stopped", json.loads(mark.read_text())["step"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda name: name.name)
def test_deepspeed_ended_ends_every_rank(tiny_store, started, name):
    """Ctrl-C goes to every process of the terminal; SIGTERM and SIGKILL to `deepspeed` alone, which tells nobody."""
    overrides = stage_overrides(tiny_store, "stage=dpo", *LONG)
    child, log = started(command(LauncherConfig(kind="deepspeed", num_accelerators=2), overrides))
    assert len(ranks_of(tiny_store)) >= 3
    if name is signal.SIGINT:
        os.killpg(child.pid, name)
    else:
        child.send_signal(name)
    assert child.wait(30) != 0
    assert gone(child.pid, 30), log.read_text()[-3000:]
    assert ranks_of(tiny_store) == []
    assert_nothing_was_published(tiny_store)
    if name is not signal.SIGINT:
        assert_a_checkpoint_was_written(tiny_store)
    # DeepSpeed terminates the ranks at once: the main one may have no time for its word, and says it once
    assert log.read_text().count("nothing was published") <= 1


@pytest.mark.slow
def test_a_pipeline_ended_ends_its_step(tiny_store, started):
    small = [text for text in stage_overrides(tiny_store, "stage=sft", *LONG) if not text.startswith("stage=")]
    launcher = ["launcher=deepspeed", "launcher.num_accelerators=2"]
    words = [sys.executable, str(PROJECT / "launch" / "pipeline.py"), "pipeline=dpo", f"artifacts.root={tiny_store}"]
    own = [f"sft.{text}" for text in small if not text.startswith("artifacts.")]
    child, log = started([*words, *launcher, *own])
    assert len(ranks_of(tiny_store)) >= 4
    child.terminate()
    assert child.wait(90) == ExitCode.STOPPED
    assert ranks_of(tiny_store) == [], log.read_text()[-3000:]
    assert "stopped; the same command skips what has published" in log.read_text()
    assert_nothing_was_published(tiny_store)
    assert_a_checkpoint_was_written(tiny_store)


def test_leaving_takes_ones_own_shared_memory_along(monkeypatch):
    """Named as DeepSpeed's kernel does: user, address and port of the run, rank."""
    port = str(ranks.free_port())
    for key, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    folder = Path("/dev/shm")
    mine, other = (folder / f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_{port}_{rank}" for rank in (1, 0))
    try:
        for file in (mine, other):
            file.write_bytes(b"")
        ranks.leave()
        assert not mine.exists() and other.exists()
    finally:
        for file in (mine, other):
            file.unlink(missing_ok=True)

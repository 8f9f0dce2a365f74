"""Starting stages: the command line, the environment, and the end of every process of a stage."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.config.paths import PROJECT
from align.config.schema import LauncherConfig
from align.distributed import preemption
from align.distributed.preemption import Stopped
from align.errors import UserError
from align.run import launchers
from align.run.launchers import (
    check_launcher,
    command,
    environment,
    launch,
    session_alive,
    terminable,
    world_size,
)

TWO = LauncherConfig(kind="deepspeed", num_accelerators=2)


def test_the_command_line_of_a_stage():
    local = command(LauncherConfig(), ["stage=dpo"])
    assert local[0] == sys.executable and local[1].endswith("launch/run.py") and local[2:] == ["stage=dpo"]
    given = LauncherConfig("deepspeed", num_accelerators=8, num_nodes=2, hostfile="hosts", master_port=29501)
    words = command(given, ["stage=dpo"])
    assert words[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"] and words[-1] == "stage=dpo"
    flags = dict(zip(words[3:-2:2], words[4:-2:2], strict=True))
    assert flags.pop("--log_level") == "error"
    assert flags == {"--num_accelerators": "8", "--num_nodes": "2", "--hostfile": "hosts", "--master_port": "29501"}
    words = command(TWO, [])
    assert int(words[words.index("--master_port") + 1]) > 0 and "--hostfile" not in words


def test_the_world_is_nodes_times_accelerators(tmp_path):
    assert world_size(LauncherConfig()) == 1 and world_size(TWO) == 2
    assert world_size(LauncherConfig("deepspeed", num_accelerators=8, num_nodes=2)) == 16
    hosts = tmp_path / "hosts"
    hosts.write_text("one slots=8\n")
    with pytest.raises(UserError, match="needs launcher.num_nodes"):
        check_launcher(LauncherConfig("deepspeed", num_accelerators=8, hostfile=str(hosts)))
    with pytest.raises(UserError, match="is not a file"):
        check_launcher(LauncherConfig("deepspeed", num_accelerators=8, num_nodes=1, hostfile="gone"))
    check_launcher(LauncherConfig("deepspeed", num_accelerators=8, num_nodes=1, hostfile=str(hosts)))


def test_the_environment_given_is_not_overruled(monkeypatch):
    monkeypatch.setenv("MINE", "stands")
    env = environment(LauncherConfig(env={"MINE": "no", "OTHER": "taken"}))
    assert env["MINE"] == "stands" and env["OTHER"] == "taken"


def test_output_is_shown_and_kept_and_the_exit_code_told(tmp_path, capsys):
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert launch([sys.executable, "-u", "-c", code], dict(os.environ), tmp_path / "log.txt") == 3
    assert capsys.readouterr().out == "out\nerr\n"
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith(f"$ {sys.executable} -u -c ") and log.endswith("\nout\nerr\n")
    assert launch([sys.executable, "-c", "pass"], dict(os.environ)) == 0


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(str(os.getpid()))
os.kill(os.getppid(), int(sys.argv[2]))
time.sleep(0.2)
print("last words", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_every_process_even_a_stubborn_one(tmp_path, monkeypatch, name):
    monkeypatch.setattr(launchers, "GRACE", 0.5)
    monkeypatch.setattr(launchers, "STOP_GRACE", 0.5)
    began = time.monotonic()
    with pytest.raises(Stopped if name is signal.SIGTERM else KeyboardInterrupt), terminable():
        words = [sys.executable, "-c", STUBBORN, str(tmp_path / "pid"), str(int(name))]
        launch(words, dict(os.environ), tmp_path / "log.txt")
    assert not session_alive(int((tmp_path / "pid").read_text())) and time.monotonic() - began < 30
    assert (tmp_path / "log.txt").read_text().endswith("last words\n")


def test_signals_are_as_before_after_the_block(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # under nohup
        with terminable():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Stopped):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_who_was_asked_to_stop_once_is_not_asked_for_ever():
    with pytest.raises(Stopped), preemption.stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert not preemption.asked()


def slurm(folder: Path, pipeline: str) -> subprocess.Popen:
    """launch/slurm.example as a batch script, with a pipeline and a Slurm that are shell scripts."""
    for name, script in {"python": pipeline, "scontrol": 'echo "$@" > queued'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    return subprocess.Popen(["bash", PROJECT / "launch" / "slurm.example"], cwd=folder, env=env)


def test_a_job_that_slurm_stops_is_queued_again(tmp_path):
    job = slurm(tmp_path, "trap 'exit 75' TERM; touch started; while :; do sleep 0.02; done")
    for _ in range(1000):
        state = Path(f"/proc/{job.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if (tmp_path / "started").exists() and state == "S":  # the script waits for the pipeline
            break
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 0 and (tmp_path / "queued").read_text() == "requeue 7\n"


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_ends_by_itself_is_not(tmp_path, code):
    assert slurm(tmp_path, f"exit {code}").wait(timeout=30) == code
    assert not (tmp_path / "queued").exists()

"""Starting a stage in a process, or under the deepspeed launcher, and ending every process of it.

A pipeline and a multirun start their stages here; `deepspeed launch/run.py`, typed by hand, does without.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.config.paths import PROJECT
from align.config.schema import LauncherConfig
from align.distributed import ranks
from align.distributed.preemption import Stopped
from align.errors import UserError

GRACE = 15.0  # seconds that an interrupted stage has to end by itself ...
STOP_GRACE = 300.0  # ... and one that was asked to stop, to write its checkpoint
# Variables that processes on other nodes take along with launcher.env, where this environment has them.
FORWARDED = ("ALIGN_ARTIFACTS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TORCH_EXTENSIONS_DIR")
FORWARDED += ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
DEEPSPEED_ENV = ".deepspeed_env"  # lines NAME=value that DeepSpeed exports on every node, or what $DS_ENV_FILE names


def check_launcher(launcher: LauncherConfig) -> None:
    """Check the launcher block against this machine: its environment variables, its port, its hostfile.

    Raises:
        UserError: a variable has no value, the port is taken, or the hostfile is missing or does not fit.
    """
    for name, value in launcher.env.items():
        if value is None and name not in os.environ:
            raise UserError(
                f"launcher.env.{name}=null takes the value of the environment variable {name}, which is not set here; "
                f"set it first (export {name}=...), or leave launcher.env.{name} out"
            )
    if launcher.kind == "local":
        return
    port = launcher.master_port
    if port is not None and not ranks.is_free(port):
        raise UserError(f"launcher.master_port={port} is already taken; leave it out, and a free one is found")
    if launcher.hostfile is not None and not Path(launcher.hostfile).is_file():
        raise UserError(f"launcher.hostfile={launcher.hostfile} is not a file; write one like launch/hostfile.example")
    if launcher.hostfile is not None and launcher.num_nodes is None:
        raise UserError(f"launcher.hostfile={launcher.hostfile} needs launcher.num_nodes, to know the world size")
    if has_nodes(launcher):
        if shutil.which("pdsh") is None:
            raise UserError(
                f"launcher.num_nodes={launcher.num_nodes} needs pdsh, with which DeepSpeed reaches the nodes; install "
                "it here (Debian: apt-get install pdsh)"
            )
        node_variables(launcher)


def has_nodes(launcher: LauncherConfig) -> bool:
    """Whether processes are started on other nodes, through pdsh and a shell there."""
    return launcher.kind == "deepspeed" and (launcher.num_nodes or 1) > 1


def world_size(launcher: LauncherConfig) -> int:
    """How many processes the launcher will start.

    Raises:
        UserError: nobody said, and there is no GPU to count.
    """
    if launcher.kind == "local":
        return 1
    per_node = launcher.num_accelerators
    if per_node is None:
        import torch

        per_node = torch.cuda.device_count()
        if per_node == 0:
            raise UserError(
                "launcher=deepspeed finds no GPU here; say how many processes: launcher.num_accelerators=2"
            )
    return per_node * (launcher.num_nodes or 1)


def without_values(launcher: LauncherConfig, overrides: list[str]) -> list[str]:
    """The overrides with the names of `launcher.env` alone; `environment` carries the values.

    A command line is shown, logged, and read by every user of the machine.
    """
    kept = [text for text in overrides if text.lstrip("+~").partition("=")[0].split(".")[:2] != ["launcher", "env"]]
    if len(kept) == len(overrides):
        return kept
    return [*kept, *(f"launcher.env.{name}=null" for name in launcher.env)]


def command(launcher: LauncherConfig, overrides: list[str]) -> list[str]:
    """The command line that starts one stage."""
    script = str(PROJECT / "launch" / "run.py")
    overrides = without_values(launcher, overrides)
    if launcher.kind == "local":
        return [sys.executable, script, *overrides]
    options = {
        "--num_accelerators": launcher.num_accelerators,
        "--num_nodes": launcher.num_nodes,
        "--hostfile": launcher.hostfile,
        "--master_port": launcher.master_port or ranks.free_port(),
        "--log_level": "error",  # below that it tells each process's command line and environment
    }
    flags = [word for flag, value in options.items() if value is not None for word in (flag, str(value))]
    if has_nodes(launcher):
        overrides = [_for_remote_shell(text) for text in overrides]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *flags, script, *overrides]


def _for_remote_shell(text: str) -> str:
    """A word as DeepSpeed's PDSHRunner must have it, so that the shell of a node reads it as it is.

    The runner puts a word with a space in double quotes and escapes those in it (DeepSpeed 0.19.8), and nothing else.
    pdsh fills in %h, %u and %n.
    """
    quoted = _escape(text) if " " in text else shlex.quote(text)
    return re.sub("%(?=[hun%])", "%%", quoted)


def _escape(text: str) -> str:
    """What is special between double quotes, with a backslash in front; the quotes themselves are left."""
    return re.sub(r"([\\$`])", r"\\\1", text)


def environment(launcher: LauncherConfig) -> dict[str, str]:
    """The environment of a stage's process: this one's, and the values of `launcher.env` that this one lacks."""
    env = {**{name: value for name, value in launcher.env.items() if value is not None}, **os.environ}
    if launcher.kind == "deepspeed":
        import torch

        if not torch.accelerator.is_available():
            env.setdefault("DS_ACCELERATOR", "cpu")  # else the launcher's processes warn that it is so
    return env


@contextlib.contextmanager
def forwarded(launcher: LauncherConfig) -> Iterator[dict[str, str]]:
    """The environment of a stage's launcher, which takes `node_variables` along to every node.

    They are in a private file while the launcher runs. DeepSpeed puts them into the command line that it gives to
    the nodes' shells, where others who are logged in there may read it.
    """
    env = environment(launcher)
    if not has_nodes(launcher):
        yield env
        return
    with tempfile.NamedTemporaryFile("w", prefix="align-env-", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in node_variables(launcher).items())
        file.flush()
        yield env | {"DS_ENV_FILE": file.name}


def node_variables(launcher: LauncherConfig) -> dict[str, str]:
    """Name -> value, as DeepSpeed's file has it, of the variables that processes on every node are given.

    Raises:
        UserError: a value that cannot be given to a node.
    """
    env = environment(launcher)
    variables = {name: env[name] for name in (*FORWARDED, *launcher.env) if name in env}
    if "ALIGN_ARTIFACTS" in variables:
        variables["ALIGN_ARTIFACTS"] = str(Path(variables["ALIGN_ARTIFACTS"]).expanduser().absolute())
    for name, value in variables.items():
        if "\n" in value:
            raise UserError(f"the environment variable {name} has a line break, which no node can be given; remove it")
    # the runner puts a value with special characters in double quotes, as it is
    escaped = {name: _escape(value).replace('"', r"\"") for name, value in variables.items()}
    escaped = {name: re.sub("%(?=[hun%])", "%%", value) for name, value in escaped.items()}
    return _deepspeed_variables(env) | escaped


def _deepspeed_variables(env: dict[str, str]) -> dict[str, str]:
    """What the user's own file for DeepSpeed says, which ours stands in for."""
    variables: dict[str, str] = {}
    for folder in (Path.home(), Path.cwd()):
        with contextlib.suppress(OSError):
            lines = (folder / env.get("DS_ENV_FILE", DEEPSPEED_ENV)).read_text("utf-8").splitlines()
            variables |= dict(line.split("=", 1) for line in lines if "=" in line)
    return variables


def launch(words: list[str], env: dict[str, str], log: Path | None = None) -> int:
    """Run a command in a session of its own, its output shown and kept in `log`; its exit code.

    An interrupt, and SIGTERM, goes to the whole session, and what does not end in time is killed: a launcher leaves
    its ranks alive.
    """
    with open(log or os.devnull, "a", encoding="utf-8") as kept:
        kept.write(f"$ {shlex.join(words)}\n")
        child = subprocess.Popen(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            for line in child.stdout:
                kept.write(line)
                kept.flush()
                print(line, end="", flush=True)
            return child.wait()
        except Stopped:
            end_session(child, first=signal.SIGTERM)
            raise
        finally:
            end_session(child)
            os.set_blocking(child.stdout.fileno(), False)
            with contextlib.suppress(TypeError):  # nothing left, and somebody beyond the session keeps it open
                kept.write(child.stdout.read())


def end_session(child: subprocess.Popen, first: signal.Signals = signal.SIGINT) -> None:
    """Signal every process of the child's session, then kill what is left; a second Ctrl-C kills at once.

    SIGTERM is for the ranks alone: DeepSpeed's launch process would kill them 30 seconds later, checkpoint or not.
    """
    patience = STOP_GRACE if first is signal.SIGTERM else GRACE
    for name in (first, signal.SIGKILL):
        if not session_alive(child.pid):
            break
        with contextlib.suppress(ProcessLookupError, KeyboardInterrupt):
            ranks = _ranks(child.pid) if name is signal.SIGTERM else []
            for rank in ranks:
                os.kill(rank, name)
            if not ranks:
                os.killpg(child.pid, name)
            until = time.monotonic() + patience
            while session_alive(child.pid) and time.monotonic() < until:
                child.poll()
                time.sleep(0.1)
    child.poll()


def _ranks(group: int) -> list[int]:
    """The processes of a group that are no launcher of DeepSpeed's."""
    stats = [stat for stat in Path("/proc").glob("[0-9]*/stat") if _runs_in(group, stat)]
    return [int(stat.parent.name) for stat in stats if "deepspeed.launcher" not in _command(stat.parent)]


def _command(process: Path) -> str:
    """The command line of a /proc/<pid> folder, empty if it is gone."""
    try:
        return (process / "cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def session_alive(group: int) -> bool:
    """True while a process of the group runs; one that has ended and that nobody has asked about is not alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    processes = list(Path("/proc").glob("[0-9]*/stat"))
    return not processes or any(_runs_in(group, stat) for stat in processes)


def _runs_in(group: int, stat: Path) -> bool:
    """True if the process of a /proc/<pid>/stat file is in the group and no zombie."""
    try:
        state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(its_group) == group and state != "Z"


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM stops the block, a closed terminal interrupts it, and the stage that runs in it is told the same."""

    def interrupt(number: int, frame: Any) -> None:
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)  # whoever asks twice is not answered sooner
            raise Stopped
        raise KeyboardInterrupt

    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for name, handler in before.items():
            if handler is not signal.SIG_IGN:  # under nohup
                signal.signal(name, interrupt)
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)

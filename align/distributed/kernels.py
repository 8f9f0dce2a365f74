"""DeepSpeed's compiled kernels: one place for them, compiled with a word, and no wait for a process that is gone.

    python -m align.distributed.kernels        # compile what a CPU needs for several processes and offload

DeepSpeed compiles a kernel at its first use, silently, and torch guards the build with a lock file that a killed
process leaves behind. Every later process then waits for it forever (torch 2.13). Here one process per host at a time
has its turn; in it, no lock is waited for whose owner is dead.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from align.distributed import processes
from align.errors import ExitCode, UserError

ALL = ("ShareMemCommBuilder", "CPUAdamBuilder", "AsyncIOBuilder")  # ranks on one CPU; offload to memory; to disk
QUIET = 3.0  # seconds of compiling, or waiting, without a word ...
EVERY = 15.0  # ... and between two words after that; the compiler's record is touched as often
STALE = 120.0  # seconds without a touch after which a compiler on another host counts as dead
NETWORK_DISKS = {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "9p", "afs"}
_NEEDS = "DeepSpeed compiles its kernels with ninja, a C++ compiler and Python's headers"


def folder() -> Path:
    """Where compiled kernels are kept: $TORCH_EXTENSIONS_DIR, else a folder of this environment.

    Kernels are compiled for the CPU at hand against torch's headers where they are now. The folder's name stands for
    these, so that nodes with other CPUs may share an environment.
    """
    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    home = Path(sys.prefix)
    if not os.access(home, os.W_OK):
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "align"
    versions = "-".join(f"{name}{metadata.version(name)}" for name in ("torch", "deepspeed"))
    return home / "torch_extensions" / f"{versions}-{platform.machine()}-{_machine()}"


def use_folder() -> Path:
    """Make `folder` the place where torch looks, and this environment's ninja the one that compiles.

    Where another ninja comes first on the path, as it does if the environment is not activated, the two would take
    turns: neither reads the other's log, and each compiles everything again.
    """
    chosen = folder()
    os.environ["TORCH_EXTENSIONS_DIR"] = str(chosen)
    ninja = Path(sys.executable).with_name("ninja")
    if ninja.is_file() and shutil.which("ninja") != str(ninja):
        os.environ["PATH"] = f"{ninja.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return chosen


def needed(config: dict[str, Any]) -> list[str]:
    """The builders of the kernels that DeepSpeed will load under its `config` on this machine."""
    from deepspeed.accelerator import get_accelerator

    zero = config.get("zero_optimization") or {}
    devices = {block: (zero.get(block) or {}).get("device") for block in ("offload_optimizer", "offload_param")}
    wanted = {
        "ShareMemCommBuilder": get_accelerator().device_name() == "cpu",
        "CPUAdamBuilder": devices["offload_optimizer"] in ("cpu", "nvme"),
        "AsyncIOBuilder": "nvme" in devices.values(),
    }
    return [name for name, wants in wanted.items() if wants]


def prepare(builders: Sequence[str], *, tells: bool = True) -> None:
    """Compile, where need be, and load kernels of DeepSpeed.

    Args:
        builders: names of DeepSpeed's op builders.
        tells: whether this process says that it waits for another; who compiles says so in any case.

    Raises:
        UserError: a kernel cannot be compiled here, or another host's lock stands in the way.
    """
    where = use_folder()
    from deepspeed.accelerator import get_accelerator

    for name in builders:
        builder = get_accelerator().create_op_builder(name)
        with _turn(where, tells):
            for lock in where.glob("*/lock"):
                _settle(lock)
            kernel = f"DeepSpeed's {builder.name}"
            if not builder.is_compatible(verbose=False):
                if name == "ShareMemCommBuilder":
                    continue  # DeepSpeed goes without it
                raise UserError(f"{kernel} cannot be compiled here: {_lacks(name)}")
            record = where / f"{builder.name}.json"
            with _record(record), _words(kernel, where, record):
                try:
                    builder.load(verbose=False)
                except (RuntimeError, OSError, ImportError) as error:
                    raise UserError(f"{kernel} cannot be compiled here: {_first_error(error)}; {_NEEDS}") from error


@contextlib.contextmanager
def _turn(where: Path, tells: bool) -> Iterator[None]:
    """One process of this host at a time. The kernel takes the lock back from a process that dies."""
    try:
        where.mkdir(parents=True, exist_ok=True)
        stream = (where / "turn").open("a")
    except OSError as error:
        raise UserError(
            f"compiled kernels cannot be kept in {where} ({error.strerror}); name another folder: "
            "export TORCH_EXTENSIONS_DIR=<folder>"
        ) from error
    with stream:
        _wait_until(lambda: _take(stream), f"waiting for another process, which compiles kernels in {where}", tells)
        yield


def _take(stream: TextIO) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks: torch's own lock keeps two compilers apart
        return True
    return True


def _settle(lock: Path) -> None:
    """Wait for the owner of torch's lock while it lives; remove the lock of a dead one.

    Raises:
        UserError: the lock is on a disk that several hosts share, and which process of which host left it is unknown.
    """
    record = lock.parent.parent / f"{lock.parent.name}.json"
    owner = _read(record)
    alive = owner and processes.is_alive(owner["tag"])
    users = _others(lock)
    if owner and alive is None:
        name, dead = f"process {owner['pid']} on {owner['host']}", lambda: _silent_for(record) > STALE
    elif owner and alive:
        name, dead = f"process {owner['pid']}", lambda: not processes.is_alive(owner["tag"]) and not _others(lock)
    elif owner is None and not users and _is_on_network(lock):
        raise UserError(
            f"{lock} says that a process compiles a kernel; none on this host does, and other hosts may share it; "
            "delete the file if no process on another host compiles, or name a folder of this host: "
            "export TORCH_EXTENSIONS_DIR=<folder>"
        )
    else:  # what compilers a dead owner has left behind
        name, dead = f"process {users[0] if users else '-'}", lambda: not _others(lock)
    _wait_until(lambda: not lock.exists() or dead(), f"waiting for {name}, which compiles {lock.parent}")
    if lock.exists():
        lock.unlink(missing_ok=True)
        print(f"removed {lock}: the process that compiled {lock.parent.name} is gone", flush=True)


def _others(lock: Path) -> list[int]:
    """Other processes that compile: the owner has torch's lock open, its compilers work in the folder."""
    return [pid for pid in processes.users_of(lock) if pid != os.getpid()]


@contextlib.contextmanager
def _record(file: Path) -> Iterator[None]:
    """Leave word of who compiles, for processes of other hosts and for those that find a lock later."""
    file.write_text(json.dumps({"tag": processes.tag(), "host": os.uname().nodename, "pid": os.getpid()}), "utf-8")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_text("utf-8"))
        return {"tag": str(record["tag"]), "host": record["host"], "pid": record["pid"]}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _silent_for(file: Path) -> float:
    """Seconds since a record was touched; it is gone once its process has compiled."""
    try:
        return time.time() - file.stat().st_mtime
    except FileNotFoundError:
        return STALE + 1


@contextlib.contextmanager
def _words(kernel: str, where: Path, record: Path) -> Iterator[None]:
    """Say, from a thread, what takes long and for how long it has, and touch the record."""
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        if done.wait(QUIET):
            return
        print(f"compiling {kernel} for this machine, once, into {where}", flush=True)
        while not done.wait(EVERY):
            print(f"compiling {kernel}: {time.monotonic() - began:.0f} s so far", flush=True)
            with contextlib.suppress(OSError):
                record.touch()

    thread = threading.Thread(target=tell, name="kernel-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    seconds = time.monotonic() - began
    if seconds > QUIET:
        print(f"compiled {kernel} in {seconds:.0f} s", flush=True)


def _wait_until(ready: Callable[[], bool], sentence: str, tells: bool = True) -> None:
    """Poll, and say after a while what is waited for."""
    began = last = time.monotonic()
    pause = QUIET
    while not ready():
        time.sleep(0.1)
        if tells and time.monotonic() - last > pause:
            last, pause = time.monotonic(), EVERY
            print(f"{sentence}  ({last - began:.0f} s)", flush=True)


def _is_on_network(path: Path) -> bool:
    """Whether a file is on a disk that other hosts may see; False where the system does not say."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return False
    kinds = {words[4]: words[words.index("-") + 1] for words in mounts}
    at = next((str(parent) for parent in [path, *path.absolute().parents] if str(parent) in kinds), "/")
    kind = kinds.get(at, "")
    return kind in NETWORK_DISKS or kind.startswith("fuse.")


def _machine() -> str:
    """Eight hex digits that stand for what this CPU can do, and for the environment's path."""
    abilities = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        abilities = next((line for line in lines if line.startswith(("flags", "Features"))), abilities)
    return hashlib.sha256(f"{abilities} {sys.prefix}".encode()).hexdigest()[:8]


def _lacks(name: str) -> str:
    """What a builder that does not fit this machine may miss."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        return f"there is no C++ compiler; install one (Debian: apt-get install g++). {_NEEDS}"
    if name == "AsyncIOBuilder":
        return (
            "it needs libaio and its headers (Debian: apt-get install libaio-dev); or keep the optimizer in memory: "
            "deepspeed=zero3_offload"
        )
    return f"{_NEEDS}; `ds_report` says which it misses"


def _first_error(error: BaseException) -> str:
    """The compiler's first error, else the first line of the exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line for line in lines if "error: " in line), lines[0])


def main() -> int:
    """Compile every kernel that is not there; the exit code."""
    import torch

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it is so
    try:
        print(f"kernels are kept in {use_folder()}", flush=True)
        for name in ALL:
            prepare([name])
            print(f"{name.removesuffix('Builder')}: ready", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.MISTAKE
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Processes: who am I, what the main one decided, who goes first, and when to stop.

A run is one process, or the ranks a launcher (`deepspeed`, `torchrun`) started. Ranks are described by the
environment variables every launcher sets: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

import contextlib
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from align.distributed import cpu, kernels
from align.errors import UserError

ORPHAN_GRACE = 120.0  # seconds that a rank without a launcher has to write a checkpoint

T = TypeVar("T")
R = TypeVar("R")


def rank() -> int:
    """Index of this process among all of the run's, 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes of the run, 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True on the one process that writes artifacts, metrics and messages."""
    return rank() == 0


def is_first_of_host() -> bool:
    """True on one process of each host."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def node() -> int:
    """Index of this process's node, 0 without a launcher."""
    return int(os.environ.get("CROSS_RANK") or os.environ.get("GROUP_RANK") or "0")  # deepspeed's word, torchrun's


def nodes() -> int:
    """Number of nodes of the run, 1 without a launcher."""
    return int(os.environ.get("CROSS_SIZE") or os.environ.get("GROUP_WORLD_SIZE") or "1")


def is_launched() -> bool:
    """True if a launcher started this process."""
    return "WORLD_SIZE" in os.environ


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_free(port: int) -> bool:
    """True if nobody listens on `port` of the loopback interface."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def end_with_launcher() -> None:
    """End this rank when its launcher is gone.

    `deepspeed` terminated or killed leaves its launch process and the ranks running (DeepSpeed 0.19.8), where they
    hold accelerators and may still publish. A rank therefore stops, as by SIGTERM, when it is an orphan, or when the
    launch process that started it is one; and it is killed if it has not stopped in time, for it may wait for ever
    for a rank that is gone.
    """
    if not is_launched():
        return
    launcher = os.getppid()
    deepspeed = _parent(launcher) if "deepspeed.launcher.launch" in _command(launcher) else 0
    if "deepspeed" not in _command(deepspeed):
        deepspeed = 0  # somebody started the launch process by itself

    def watch() -> None:
        while os.getppid() == launcher and (not deepspeed or _parent(launcher) == deepspeed):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher-watch", daemon=True).start()


def _parent(pid: int) -> int:
    """The parent of a process, 0 where there is none or no /proc to ask."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> str:
    """The command line of a process, empty where there is none or no /proc to ask."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def join(*, deepspeed: dict[str, Any] | None) -> None:
    """Join the process group: gloo on CPU, nccl on GPU.

    A single process needs a group only for DeepSpeed, and then one of its own on a free port.

    Args:
        deepspeed: DeepSpeed's config, None without it. The kernels that it needs are compiled first.

    Raises:
        UserError: the launcher's port is taken by another program, or a kernel cannot be compiled.
    """
    import torch
    import torch.distributed as dist

    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else whoever imports DeepSpeed is warned that it is so
        cpu.keep_memory()
    if deepspeed is not None:
        kernels.use_folder()
        kernels.prepare(kernels.needed(deepspeed), tells=is_first_of_host())
    if not is_launched():
        if deepspeed is None:
            return
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
        )
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        if deepspeed is not None:
            import deepspeed as ds

            with contextlib.redirect_stdout(io.StringIO()):  # it prints on every rank that its CPU kernel is built
                ds.init_distributed(dist_backend=backend, verbose=False)
        elif not dist.is_initialized():
            dist.init_process_group(backend)
    except (dist.DistNetworkError, RuntimeError) as error:
        if "EADDRINUSE" not in str(error) and "address already in use" not in str(error).lower():
            raise
        port = os.environ.get("MASTER_PORT")
        raise UserError(
            f"port {port}, where the ranks of this run would meet, is already taken; choose another: "
            f"`deepspeed --master_port {free_port()} launch/run.py ...`, or launcher.master_port in a pipeline"
        ) from error


def leave() -> None:
    """Leave the process group, if there is one, and take this rank's shared memory along.

    DeepSpeed's CPU kernel leaves 69 MB a rank in /dev/shm after every run (0.19.8, csrc/cpu/comm/shm.cpp).
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    where = f"{os.environ.get('MASTER_ADDR')}_{os.environ.get('MASTER_PORT')}_{rank()}"
    for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_{os.getuid()}_{where}"):
        buffer.unlink(missing_ok=True)


def share(value: T) -> T:
    """The main process's `value`, on every process."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: T) -> list[T]:
    """The value of each process, in the order of the ranks, on every process."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process is here."""
    gather(None)


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on any process: they all learn the same, and the accelerator is not waited for."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    word = torch.tensor([int(flag)])
    dist.all_reduce(word, op=dist.ReduceOp.MAX, group=_cpu_group())
    return bool(word.item())


@cache
def _cpu_group() -> Any:
    """The ranks' group for words in CPU memory: the default one where that is gloo."""
    import torch.distributed as dist

    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The main process runs the block before all others do: it fills a cache that they read."""
    if not is_main():
        barrier()
    try:
        yield
    finally:
        if is_main():
            barrier()


def map_batches(function: Callable[[list[T]], list[R]], items: list[T], batch_size: int) -> list[R]:
    """`function` over `items` in batches, shared among the ranks; the results, in order, on every rank.

    Every rank makes the same number of calls, the last ones on repeated items, because under ZeRO-3 a forward is a
    collective that all ranks must enter.

    Args:
        function: takes up to `batch_size` items, returns one result an item.
        items: the same list on every rank.
        batch_size: items a call, per rank.
    """
    if not items:
        return []
    ranks = world_size()
    share_size = -(-len(items) // ranks)
    padded = items + [items[-1]] * (share_size * ranks - len(items))
    mine = padded[rank() * share_size : (rank() + 1) * share_size]
    results: list[R] = []
    for start in range(0, len(mine), batch_size):
        results += function(mine[start : start + batch_size])
    return [result for part in gather(results) for result in part][: len(items)]

"""The process on its CPU cores: how many threads it has, how they wait for each other, how it keeps memory.

These are defaults: what the environment says stands. The machine may be busy with other work.
"""

import ctypes
import math
import os
from pathlib import Path

from align.distributed import cgroups

# Idle threads sleep. By default libgomp, which torch's wheel brings along, lets them spin: where another process takes
# a core, the threads that spin keep the one that works from it, at every parallel loop (benchmarks/busy_machine.py).
WAIT_POLICY = {"OMP_WAIT_POLICY": "PASSIVE"}
# glibc's mallopt(3): by default it maps each large block anew at every step, such as a batch of logits, and the kernel
# clears it. Kept, up to a bound, so that a process that needs less later does not hold much more than it uses.
_MALLOPT = {
    -3: 1 << 28,  # M_MMAP_THRESHOLD: larger blocks are mapped and unmapped
    -1: 1 << 30,  # M_TRIM_THRESHOLD: of more free memory than this at the top of the heap, the rest is given back
    -2: 1 << 26,  # M_TOP_PAD: the heap grows by at least this
}
_OWN_ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # variables by which a user chooses


def set_threads() -> None:
    """Give this process its share of the node's cores, and let its idle threads sleep.

    Must come before torch is imported: OpenMP reads the environment when it is loaded. The deepspeed launcher leaves
    every rank all cores, on which they then wait for each other; and a container may have fewer cores than it sees.
    """
    for name, value in WAIT_POLICY.items():
        os.environ.setdefault(name, value)
    ranks = int(os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or "1")  # deepspeed's, torchrun's
    cores = available_cores()
    if ranks > 1 or cores < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))


def available_cores(root: Path = cgroups.ROOT, own: Path = cgroups.OWN) -> int:
    """CPU cores that this process may use: those it may be scheduled on, within its control group's quota.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's control groups.
    """
    cores = len(os.sched_getaffinity(0))
    quotas = [quota for folder in cgroups.own_cgroups("cpu", root, own) if (quota := _quota(folder)) is not None]
    return max(1, min([cores, *map(math.ceil, quotas)]))


def keep_memory() -> None:
    """Keep freed blocks for the next step in place of giving them back to the system (glibc; elsewhere nothing).

    For a process that trains on the CPU: a quarter of the CPU time of a step with large logits is the kernel's, which
    maps and clears the same blocks again and again (benchmarks/busy_machine.py).
    """
    if any(name.startswith(_OWN_ALLOCATOR) for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in _MALLOPT.items():
        mallopt(parameter, value)


def _quota(folder: Path) -> float | None:
    """The cores that a control group's quota amounts to; None where it has none."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / file).read_text() for file in files).split()
            return float(quota) / float(period) if quota not in ("max", "-1") else None
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None

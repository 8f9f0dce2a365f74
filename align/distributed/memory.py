"""How much memory this process may still take: the machine's, within its control groups' limits, and the GPU's."""

from dataclasses import dataclass
from pathlib import Path

from align.distributed import cgroups

_MEMINFO = Path("/proc/meminfo")
_UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 where there is no limit


@dataclass(frozen=True)
class Memory:
    """Memory of one kind.

    Attributes:
        available: bytes that can still be taken.
        bound: what bounds them, for a message: `of the 24.0 GB that the control group allows`.
    """

    available: int
    total: int
    bound: str


def host_memory(meminfo: Path = _MEMINFO, root: Path = cgroups.ROOT, own: Path = cgroups.OWN) -> Memory | None:
    """The host memory that this process may still take; None where the system does not say.

    Pages that hold files and are not in use count as available, because the kernel drops them first.
    """
    found = [_machine(meminfo)] + [_group(folder) for folder in cgroups.own_cgroups("memory", root, own)]
    return min((one for one in found if one is not None), key=lambda memory: memory.available, default=None)


def device_memory() -> Memory | None:
    """The memory of this process's GPU; None without one. Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return None
    available, total = torch.cuda.mem_get_info()
    return Memory(available, total, f"GPU {torch.cuda.current_device()}")


def _machine(meminfo: Path) -> Memory | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        kilobytes = {name: int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable", "SwapFree")}
    except (OSError, KeyError, ValueError, IndexError):
        return None
    available = kilobytes["MemAvailable"] + kilobytes["SwapFree"]
    return Memory(1024 * available, 1024 * kilobytes["MemTotal"], "this machine")


def _group(folder: Path) -> Memory | None:
    """What one control group leaves, None where it sets no limit."""
    for limit_file, usage_file, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            text = (folder / limit_file).read_text().strip()
            limit = _UNLIMITED if text == "max" else int(text)
            if limit >= _UNLIMITED:
                return None
            usage = int((folder / usage_file).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        return Memory(limit - usage + int(stat.get(reclaimable, 0)), limit, "the limit of its control group")
    return None

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
        total: bytes that there are.
        bound: what they belong to, for a message.
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


def device_memory(*, several: bool = False) -> Memory | None:
    """The memory of this process's GPU, or of all GPUs that it sees; None without one. Imports torch."""
    import torch

    if not torch.cuda.is_available():
        return None
    devices = range(torch.cuda.device_count()) if several else [torch.cuda.current_device()]
    available, total = map(sum, zip(*(torch.cuda.mem_get_info(device) for device in devices), strict=True))
    names = f"GPU {devices[0]}" if len(devices) == 1 else f"{len(devices)} GPUs"
    return Memory(available, total, names)


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

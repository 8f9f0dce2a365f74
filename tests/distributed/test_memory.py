"""Host memory as a process may take it: the machine's, within the limits of its control groups."""

from pathlib import Path

import pytest

from align.distributed.memory import Memory, host_memory

GB = 10**9
V2 = {"memory.max": str(8 * GB), "memory.current": str(5 * GB), "memory.stat": f"anon 1\ninactive_file {2 * GB}\n"}
V1 = {
    "memory.limit_in_bytes": str(6 * GB),
    "memory.usage_in_bytes": str(4 * GB),
    "memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}\n",
}
UNLIMITED = {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "1", "memory.stat": ""}


def memory_of(folder: Path, groups: dict[str, dict[str, str]], lines: str) -> Memory | None:
    """What a process sees on a machine of 24 GB, 16 GB of them available, whose control groups are these."""
    for group, files in groups.items():
        for name, text in files.items():
            file = folder / "cgroup" / group / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    (folder / "own").write_text(lines)
    sizes = {"MemTotal": 24 * GB, "MemFree": GB, "MemAvailable": 15 * GB, "SwapTotal": 2 * GB, "SwapFree": GB}
    text = "".join(f"{name}:  {size // 1024} kB\n" for name, size in sizes.items())
    (folder / "meminfo").write_text(text + "HugePages_Total:       0\n")
    return host_memory(folder / "meminfo", folder / "cgroup", folder / "own")


@pytest.mark.parametrize(
    ("groups", "lines", "available", "total"),
    [
        ({}, "0::/\n", 16 * GB, 24 * GB),
        ({"": V2}, "0::/\n", 5 * GB, 8 * GB),
        ({"job": V2, "job/step": {**V2, "memory.max": "max"}}, "0::/job/step\n", 5 * GB, 8 * GB),
        ({"job": {**V2, "memory.max": str(99 * GB)}}, "0::/job\n", 16 * GB, 24 * GB),
        ({"memory/job": V1, "memory": UNLIMITED}, "5:cpu:/x\n4:memory:/job\n0::/\n", 3 * GB, 6 * GB),
        # a container without a cgroup namespace: the path is the host's, and its own group is mounted at the root
        ({"memory": V1}, "4:memory:/docker/0123\n", 3 * GB, 6 * GB),
        ({"": V2, "memory": V1}, "4:memory:/\n0::/\n", 3 * GB, 6 * GB),
    ],
)
def test_the_smallest_limit_counts(tmp_path, groups, lines, available, total):
    memory = memory_of(tmp_path, groups, lines)
    assert memory.available == pytest.approx(available, abs=2048)
    assert memory.total == pytest.approx(total, abs=2048)
    assert ("control group" in memory.bound) == (total != 24 * GB)


def test_a_system_that_does_not_say_is_not_guessed_at(tmp_path):
    assert host_memory(tmp_path / "none", tmp_path, tmp_path / "none") is None


def test_the_gpus_of_a_process(monkeypatch):
    import torch

    from align.distributed.memory import device_memory

    assert device_memory() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GB + device, 80 * GB))
    assert device_memory() == Memory(10 * GB + 1, 80 * GB, "GPU 1")
    assert device_memory(several=True) == Memory(30 * GB + 3, 240 * GB, "3 GPUs")


def test_this_machine_has_some():
    memory = host_memory()
    assert 0 < memory.available <= 2 * memory.total

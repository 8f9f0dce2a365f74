"""Threads and memory of a process on CPU cores."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from align.config.paths import PROJECT
from align.distributed import cpu
from align.run import stage

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_idle_threads_sleep_in_the_openmp_that_torch_loads():
    code = "from align.distributed import cpu; cpu.set_threads(); import torch"
    env = os.environ | {"OMP_DISPLAY_ENV": "TRUE", "PYTHONPATH": str(PROJECT)}
    process = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in process.stderr


def test_a_stage_sets_its_threads_before_it_looks_at_anything(tmp_path):
    assert stage.main(["stage=sft", "inputs.policy=nowhere:v1", f"artifacts.root={tmp_path}"]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_one_process_with_all_cores_leaves_the_number_of_threads_alone(monkeypatch):
    monkeypatch.setattr(cpu, "available_cores", lambda: CORES)
    cpu.set_threads()
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize("variable", ["LOCAL_SIZE", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize(("cores", "ranks", "threads"), [(16, 4, "4"), (16, 5, "3"), (2, 8, "1")])
def test_ranks_share_the_cores_of_their_node(monkeypatch, variable, cores, ranks, threads):
    monkeypatch.setattr(cpu, "available_cores", lambda: cores)
    monkeypatch.setenv(variable, str(ranks))
    cpu.set_threads()
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_what_the_user_sets_stands(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("LOCAL_SIZE", "2")
    cpu.set_threads()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("ACTIVE", "7")


def control_group(folder: Path, files: dict[str, str], lines: str) -> int:
    """The cores that a process sees whose control groups are these."""
    for name, text in files.items():
        file = folder / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "own").write_text(lines)
    return cpu.available_cores(folder / "cgroup", folder / "own")


@pytest.mark.parametrize(
    ("files", "lines", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, "0::/\n", CORES),
        ({"cpu.max": "100000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "max 100000\n", "jobs/cpu.max": "90000 100000\n"}, "0::/jobs/one\n", 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "4:cpu,cpuacct:/\n", CORES),
        (
            {"cpu/docker/cpu.cfs_quota_us": "100000\n", "cpu/docker/cpu.cfs_period_us": "100000\n"},
            "9:memory:/docker\n4:cpu,cpuacct:/docker\n",
            1,
        ),
        ({}, "0::/\n", CORES),
        ({"cpu.max": "nonsense"}, "0::/\n", CORES),
    ],
)
def test_a_container_has_the_cores_of_its_quota(tmp_path, files, lines, cores):
    assert control_group(tmp_path, files, lines) == cores


def test_a_quota_gives_one_process_fewer_threads(monkeypatch):
    monkeypatch.setattr(cpu, "available_cores", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    cpu.set_threads()
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_freed_blocks_are_kept_unless_the_user_tunes_the_allocator():
    """Page faults of blocks of 64 MB: mapped anew each time, or the same memory again."""
    code = (
        "import resource, sys; from align.distributed import cpu; cpu.keep_memory()\n"
        "for _ in range(20): block = bytearray(64 << 20); del block\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    )
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    tuned = {"MALLOC_MMAP_THRESHOLD_": "131072"}
    faults = []
    for extra in ({}, tuned):
        process = subprocess.run([sys.executable, "-c", code], env=env | extra, capture_output=True, text=True)
        faults.append(int(process.stdout))
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults[0] < 3 * pages < 15 * pages < faults[1]

"""Training on a machine that is busy with something else: how OpenMP's threads wait, and how memory is kept.

    python benchmarks/busy_machine.py

Threads: optimizer steps per second of `experiment=tiny_pretrain` on all cores, alone and next to processes that each
keep one core busy, with align's settings (align/distributed/cpu.py), with libgomp's default, and with one thread.
Memory: CPU time, page faults and peak memory of steps with large logits, with align's settings and glibc's default.
Writes benchmarks/busy_machine.json. On a machine with other users, `nice -n -20` (as root) keeps them out of it.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
STEPS = 60
# What libgomp does where nothing is set: https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html
THREADS = {
    "align": {},
    "libgomp's default": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
MEMORY = """
import resource, sys, time
from align.distributed import cpu
if sys.argv[1] == "align":
    cpu.keep_memory()
import torch
torch.set_num_threads(1)
hidden, head = torch.randn(256, 512), torch.randn(512, 50000, requires_grad=True)
targets = torch.zeros(256, dtype=torch.long)
def step():
    torch.nn.functional.cross_entropy(hidden @ head, targets).backward()
    head.grad = None
step()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(12):
    step()
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, after.ru_minflt - before.ru_minflt,
      after.ru_maxrss / 1024)
"""


def steps_per_second(busy: int, env: dict[str, str]) -> float:
    """The speed of a short training next to `busy` processes that do nothing but keep a core busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        with tempfile.TemporaryDirectory() as store:
            words = ["experiment=tiny_pretrain", f"artifacts.root={store}", f"trainer.max_steps={STEPS}"]
            words += ["trainer.save_strategy=no", "data.language_modeling.max_rows=2000"]
            words += ["data.language_modeling.eval=null", "trainer.logging_steps=5"]
            command = [sys.executable, str(PROJECT / "launch" / "run.py"), *words]
            clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
            output = subprocess.run(command, env=clean | env, cwd=PROJECT, capture_output=True, text=True, check=True)
    finally:
        for process in others:
            process.kill()
            process.wait()
    return float(re.findall(r"([0-9.]+) steps/s", output.stdout)[-1])


def memory(setting: str) -> dict[str, float]:
    """CPU seconds, page faults and peak memory of twelve steps with logits of 51 MB."""
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", MEMORY, setting]
    user, system, faults, peak = subprocess.run(words, env=env, capture_output=True, text=True).stdout.split()
    return {
        "user seconds": round(float(user), 2),
        "system seconds": round(float(system), 2),
        "page faults": int(faults),
        "peak MiB": round(float(peak)),
    }


def main() -> None:
    threads = {
        name: {f"{busy} busy processes": steps_per_second(busy, env) for busy in (0, 1, 2)}
        for name, env in THREADS.items()
    }
    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, niceness {os.nice(0)}, "
        f"load {os.getloadavg()[0]:.1f} at the end",
        "steps per second": threads,
        "memory": {name: memory(name) for name in ("align", "glibc's default")},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

"""How long a person waits for an answer that needs no torch: help, a config error, a run that is done.

    python benchmarks/startup.py            # writes benchmarks/startup.json

Whole processes, wall clock, after one warm-up; the median is what to quote.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from align.artifacts.provenance import packages

PROJECT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "align --help": [str(Path(sys.executable).with_name("align")), "--help"],
    "config error (unknown key)": [sys.executable, "launch/run.py", "stage=dpo", "inputs.polcy=sft:v1"],
    "config error (wrong kind)": [sys.executable, "launch/run.py", "stage=dpo", "trainer.beta=high"],
    "missing artifact": [sys.executable, "launch/run.py", "stage=dpo", "inputs.policy=nowhere:v1"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def measure(command: list[str], runs: int = 9) -> dict[str, float]:
    """Seconds of `runs` runs after one that is not counted."""
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, cwd=PROJECT, capture_output=True, check=False)
        seconds.append(time.perf_counter() - start)
    counted = seconds[1:]
    return {"min": min(counted), "median": statistics.median(counted), "max": max(counted)}


def main() -> None:
    results = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "packages": packages(),
        "seconds": {name: measure(command) for name, command in COMMANDS.items()},
    }
    (PROJECT / "benchmarks" / "startup.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    for name, seconds in results["seconds"].items():
        print(f"{name:<28} median {seconds['median']:.2f} s  (min {seconds['min']:.2f}, max {seconds['max']:.2f})")


if __name__ == "__main__":
    main()

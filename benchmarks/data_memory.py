"""What a rank holds in memory of its data: a set of texts is loaded as a training stage loads it, and measured.

    python benchmarks/data_memory.py [--rows 300000]

Anonymous memory is what a process has for itself; pages of mapped files are shared by all ranks and can be dropped.
Peaks are sampled every 20 ms. Written to benchmarks/data_memory.json unless `--print` is given.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
FORMATS = {"language_modeling": 180, "preference": 60}  # words of a text, of each answer


def write_rows(path: Path, format: str, rows: int) -> None:
    """Texts of random words, seeded."""
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randrange(2, 9))) for _ in range(20_000)]

    def text(count: int) -> str:
        return " ".join(chance.choices(words, k=count))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            count = FORMATS[format]
            if format == "preference":
                row = {"prompt": text(20), "chosen": text(count), "rejected": text(count)}
            else:
                row = {"text": text(count)}
            file.write(json.dumps(row) + "\n")


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


class Peak(threading.Thread):
    """The highest anonymous and whole resident memory while it runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.anonymous = self.resident = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.02):
            self.anonymous = max(self.anonymous, status("RssAnon"))
            self.resident = max(self.resident, status("VmRSS"))


def measure(path: Path, format: str) -> None:
    """Load the set in this process and print what it took."""
    import datasets

    from align.config.schema import DataConfig, DatasetConfig
    from align.data.loading.examples import load_examples, load_split

    datasets.disable_progress_bars()
    data = DataConfig()
    setattr(data, format, DatasetConfig(train=str(path)))
    import pyarrow  # noqa: F401

    before = status("RssAnon")
    peak = Peak()
    peak.start()
    began = time.perf_counter()
    load_split(data, None, format, "train")  # preflight's
    load_split(data, None, format, "eval")
    examples = load_examples(data, None, format, tokenizer=None)
    seconds = time.perf_counter() - began
    held = status("RssAnon")
    peak.ended.set()
    peak.join()
    rows = len(examples.train) + len(examples.eval)
    numbers = {
        "rows": rows,
        "seconds": round(seconds, 1),
        "peak_anonymous_mb": round((peak.anonymous - before) / 1e6, 1),
        "held_anonymous_mb": round((held - before) / 1e6, 1),
        "peak_resident_mb": round(peak.resident / 1e6, 1),
    }
    print(json.dumps(numbers))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--print", action="store_true", help="print the numbers and write no file")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "FORMAT"), help="one measurement, in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(Path(arguments.measure[0]), arguments.measure[1])
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"HF_DATASETS_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        for format in FORMATS:
            path = Path(folder) / f"{format}.jsonl"
            write_rows(path, format, arguments.rows)
            for which in ("first", "again"):  # again: from what datasets' cache holds
                words = [sys.executable, str(HERE), "--measure", str(path), format]
                done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
                results[f"{format}, {which}"] = json.loads(done.stdout.splitlines()[-1])
                results[f"{format}, {which}"]["file_mb"] = round(path.stat().st_size / 1e6, 1)
    body = {"machine": platform.platform(), "python": platform.python_version(), **results}
    if not arguments.print:
        HERE.with_suffix(".json").write_text(json.dumps(body, indent=2) + "\n", "utf-8")
    print(json.dumps(body, indent=2))


if __name__ == "__main__":
    main()

"""`align data check` and `import` of many pairs beside `datasets`' own load and a map of the same tokenisation.

    python benchmarks/data_report.py --pairs 200000

Prints one JSON object: seconds and peak memory of each, rows a second, and the machine. The pairs are made up, of
about the lengths of hh-rlhf (300 characters of prompt, 150 a side), with words drawn from a large vocabulary.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEASURE = """
import resource, sys, time
start = time.perf_counter()
{body}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("MEASURED", time.perf_counter() - start, peak / 1024, file=sys.stderr)
"""
CHECK = """
from align.cli import main
assert main(["data", "check", {file!r}]) == 0
"""
IMPORT = """
from align.cli import main
assert main(["data", "import", {file!r}, "--name", "pairs", "--artifacts", {store!r}, "--refuse", "never"]) == 0
"""
PEER = """
import datasets
from transformers import PreTrainedTokenizerFast
datasets.disable_progress_bars()
tokenizer = PreTrainedTokenizerFast(tokenizer_file={tokenizer!r})
def tokenize(rows):
    return {{side: tokenizer([m[0]["content"] for m in rows[side]])["input_ids"] for side in {sides!r}}}
rows = datasets.load_dataset("json", data_files={file!r}, split="train", cache_dir={cache!r})
rows.map(tokenize, batched=True, num_proc=None, cache_file_name={cache!r} + "/mapped.arrow")
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=200_000)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, tokenizer, tenth = folder / "pairs.jsonl", folder / "tokenizer.json", folder / "tenth.jsonl"
        write_pairs(file, pairs)
        write_pairs(tenth, pairs // 10)
        train_tokenizer(file, tokenizer)
        sides = ["prompt", "chosen", "rejected"]
        peer = PEER.format(tokenizer=str(tokenizer), file=str(file), cache=str(folder / "cache"), sides=sides)
        found = {
            "check": measure(CHECK.format(file=str(file))),
            "check of a tenth": measure(CHECK.format(file=str(tenth))),
            "import": measure(IMPORT.format(file=str(file), store=str(folder / "store"))),
            "datasets load and tokenize": measure(peer),
        }
    for name, told in found.items():
        told["rows_a_second"] = round((pairs // 10 if "tenth" in name else pairs) / told["seconds"])
    grown = found["check"]["peak_mib"] - found["check of a tenth"]["peak_mib"]
    found["check"]["bytes_a_row"] = round(grown * 2**20 / (pairs - pairs // 10))
    peer_seconds = found["datasets load and tokenize"]["seconds"]
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    ratio = {name: round(found[name]["seconds"] / peer_seconds, 2) for name in ("check", "import")}
    print(json.dumps({"pairs": pairs, **found, "times the peer's": ratio, "machine": machine}, indent=2))


def measure(body: str) -> dict[str, float]:
    """Seconds and peak MiB of a fresh process."""
    start = time.perf_counter()
    outcome = subprocess.run(
        [sys.executable, "-c", MEASURE.format(body=body)], capture_output=True, text=True, check=False
    )
    if outcome.returncode:
        raise RuntimeError(outcome.stderr[-2000:])
    words = next(line for line in outcome.stderr.splitlines() if line.startswith("MEASURED")).split()
    return {"seconds": round(time.perf_counter() - start, 1), "peak_mib": round(float(words[2]))}


def write_pairs(file: Path, count: int) -> None:
    draw = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(20_000)]
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            texts = [" ".join(draw.choices(words, k=max(3, int(draw.expovariate(1 / n))))) for n in (45, 23, 23)]
            roles = ("user", "assistant", "assistant")
            sides = ("prompt", "chosen", "rejected")
            row = {
                side: [{"role": role, "content": text}] for side, role, text in zip(sides, roles, texts, strict=True)
            }
            stream.write(json.dumps(row) + "\n")


def train_tokenizer(file: Path, to: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with file.open(encoding="utf-8") as stream:
        texts = [json.loads(stream.readline())["prompt"][0]["content"] for _ in range(500)]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    tokenizer.save(str(to))


if __name__ == "__main__":
    main()

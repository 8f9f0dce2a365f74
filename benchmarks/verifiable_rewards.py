"""Does GRPO on verifiable answers raise the share of right answers to held-out questions? Five seeds.

Runs examples/arithmetic for each seed: SFT on solutions with mistakes, GRPO with `align.rewards.math_answer`, and
answers, sampled and greedy, to questions that neither has seen. The demo's pretrained model is made once. The settings
in the example were chosen on its validation questions (`--split validation`); the numbers in its README are of
the test questions.

    nice -n 19 python benchmarks/verifiable_rewards.py --store STORE
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from align.artifacts.store import Store  # noqa: E402

OUT = Path(__file__).with_suffix(".json")
CONF = PROJECT / "examples" / "arithmetic" / "conf"
PACKAGES = ("align", "torch", "transformers", "trl", "math-verify")


def align_run(store: Path, *overrides: str) -> float:
    """Run one stage in a process of its own; seconds taken."""
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "align.cli",
        "run",
        "--config-dir",
        str(CONF),
        f"artifacts.root={store}",
        *overrides,
    ]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    subprocess.run(command, check=True, cwd=PROJECT, env=environment)
    return time.monotonic() - began


def measure(store: Path, seed: int, split: str, changes: list[str]) -> dict:
    """Accuracy of SFT and of GRPO behind it, and the gain with its interval over questions."""
    tag = f"s{seed}" + ("" if not changes else f"-{abs(hash(tuple(changes))) % 10**6}")
    align_run(
        store, "experiment=arithmetic_sft", f"name=sft-s{seed}", "inputs.policy=pretrain", f"trainer.seed={seed}"
    )
    seconds = align_run(
        store,
        "experiment=arithmetic_grpo",
        f"name=grpo-{tag}",
        f"inputs.policy=sft-s{seed}",
        f"trainer.seed={seed}",
        *changes,
    )
    row: dict = {"seed": seed, "grpo_seconds": round(seconds, 1)}
    for decoding, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        name = f"evaluate-{tag}-{split}-{decoding}"
        align_run(
            store,
            "experiment=arithmetic_evaluate",
            f"name={name}",
            f"inputs.policy=grpo-{tag}",
            f"inputs.baseline=sft-s{seed}",
            f"data.prompt_only.eval=examples/arithmetic/data/{split}.jsonl",
            f"evaluate.temperature={temperature}",
        )
        sft, grpo = json.loads((Store(store).resolve(name).path / "report.json").read_text("utf-8"))["models"]
        row[decoding] = {"sft": sft["gold"], "grpo": grpo["gold"], "gain": grpo["gold_gain"], "kl": grpo["kl"]}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--store", type=Path, required=True, help="where the artifacts go; a pretrained model is reused"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the GRPO config")
    asked = parser.parse_args()
    if "pretrain" not in Store(asked.store).names():
        align_run(asked.store, "experiment=tiny_pretrain")
    rows = []
    for seed in range(asked.seeds):
        rows.append(measure(asked.store, seed, asked.split, asked.set))
        print(json.dumps(rows[-1]), flush=True)
    summary = {}
    for decoding in ("sampled", "greedy"):
        gains = [row[decoding]["gain"] for row in rows]
        summary[decoding] = {
            "sft": sum(row[decoding]["sft"] for row in rows) / len(rows),
            "grpo": sum(row[decoding]["grpo"] for row in rows) / len(rows),
            "least_gain": min(gain["mean"] for gain in gains),
            "seeds_with_interval_above_zero": sum(gain["low"] > 0 for gain in gains),
        }
    result = {
        "split": asked.split,
        "changes": asked.set,
        **summary,
        "seeds": rows,
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}",
    }
    if asked.split == "test":
        OUT.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()

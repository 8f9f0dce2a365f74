"""Kill runs of every stage at many moments, start each again, and compare it with the run that was never killed.

    make soak                                           # writes benchmarks/soak.json
    python benchmarks/soak.py --stages sample score     # those of one process alone, in place of their rows there

It also runs gc without a grace period beside publications and starting runs (tests/artifacts/churn.py).

Each kill is SIGKILL, of the one process, of one rank of two, or of their launcher, at a named moment or any. A run
counts as identical if its weights are the same bytes and its metrics and samples the same numbers but for the clock's.
"""

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.artifacts.provenance import packages
from align.artifacts.store import Store
from align.stages.spec import STAGES
from tests.artifacts.churn import HARM, churn
from tests.run.kills import KILLED, Kill, Zygote, differences, moments, overrides, publish_pairs

DROPOUT = {f"model.new.architecture.{name}_pdrop": "0.1" for name in ("resid", "embd", "attn")}
STEP = "transformers.trainer:Trainer.training_step"
# DeepSpeed kinds of a run of two processes, with the stage that shows each.
TWO_PROCESSES = [
    ("dpo", "none"),
    ("sft", "zero2"),
    ("dpo", "zero3"),
    ("reward", "zero2_offload"),
    ("kto", "zero3_offload"),
    ("ppo", "zero2"),
    ("ppo", "zero3"),
]


class Soak:
    """Runs in one store, each compared with its straight one."""

    def __init__(self, zygote: Zygote, root: Path, log: Path):
        self.zygote, self.store, self.log = zygote, Store(root), log
        self.results: list[dict[str, Any]] = []
        self._straight: dict[tuple, tuple[str, float]] = {}

    def run(self, stage: str, *more: str, ranks: int = 1, kill: Kill | None = None) -> list[int]:
        """The exit codes; a run that is not to be killed has to end well."""
        codes = self.zygote.run(overrides(stage, self.store.root, *more), self.log, ranks=ranks, kill=kill)
        if kill is None and codes != [0] * ranks:
            raise SystemExit(f"{stage} {more} ended with {codes}:\n{self.log.read_text()[-3000:]}")
        return codes

    def straight(self, stage: str, ranks: int, kind: str) -> tuple[str, float]:
        """The name of the run that was never killed, and its seconds."""
        key = (stage, ranks, kind)
        if key not in self._straight:
            began = time.monotonic()
            name = f"straight-{stage}-{ranks}-{kind}"
            self.run(stage, f"name={name}", *_kind(kind), ranks=ranks)
            self._straight[key] = (name, time.monotonic() - began)
        return self._straight[key]

    def kill(self, stage: str, kill: Kill, *, ranks: int = 1, kind: str = "none") -> None:
        """Kill a run, go on with it, compare."""
        straight, _ = self.straight(stage, ranks, kind)
        name = f"killed-{len(self.results):03d}"
        began = time.monotonic()
        codes = self.run(stage, f"name={name}", *_kind(kind), ranks=ranks, kill=kill)
        self.run(stage, f"name={name}", *_kind(kind), ranks=ranks)
        differ = differences(self.store.resolve(straight), self.store.resolve(name))
        self.results.append(
            {
                "stage": stage,
                "processes": ranks,
                "deepspeed": kind,
                "moment": str(kill),
                "exit_codes": codes,
                "killed": KILLED in codes or (kill.where == "launcher" and codes != [0] * ranks),
                "identical": not differ,
                "differs": differ,
                "seconds": round(time.monotonic() - began, 1),
            }
        )
        told = "identical" if not differ else f"DIFFERS: {differ}"
        print(f"{len(self.results):3} {stage:<9} {ranks} x {kind:<13} {kill}: {codes} {told}", flush=True)


def _kind(kind: str) -> list[str]:
    return [] if kind == "none" else [f"deepspeed={kind}"]


def here() -> dict[str, Any]:
    """What the results depend on beside the code."""
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    return {"machine": machine, "packages": packages()}


def others(out: Path, stages: list[str]) -> list[dict[str, Any]]:
    """The rows in `out` that a run of `stages` leaves as they are; it must have been made with the same packages."""
    before = json.loads(out.read_text("utf-8"))
    if changed := [key for key, value in here().items() if before[key] != value]:
        raise SystemExit(f"{out} was made with another {' and '.join(changed)}: run all stages again")
    return [row for row in before["results"] if row["stage"] not in stages]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments that are anywhere")
    parser.add_argument("--publications", type=int, default=1000, help="of each publisher beside gc (default: 1000)")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, metavar="STAGE", help="replace only their rows in --out"
    )
    asked = parser.parse_args()
    kept = others(asked.out, asked.stages) if asked.stages else []
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Zygote() as zygote:
        soak = Soak(zygote, Path(folder) / "artifacts", Path(folder) / "log.txt")
        given = [f"{key}={value}" for key, value in DROPOUT.items()]
        soak.run("pretrain", *given)
        soak.run("sft", "model.chat_template=conf/model/chat.jinja")
        soak.run("reward")
        publish_pairs(soak.store.root)
        chosen = asked.stages or list(STAGES)
        for number, stage in enumerate(STAGES):
            if stage not in chosen:
                continue
            for moment in moments(stage)[number % 2 :: 2]:
                soak.kill(stage, moment)
            _, seconds = soak.straight(stage, 1, "none")
            soak.kill(stage, Kill("time", draw.randint(300, int(seconds * 1000))))
        for stage, kind in [pair for pair in TWO_PROCESSES if pair[0] in chosen]:
            _, seconds = soak.straight(stage, 2, kind)
            soak.kill(stage, Kill("align.artifacts.checkpoints:commit", 2), ranks=2, kind=kind)
            soak.kill(stage, Kill(STEP, 7, rank=1), ranks=2, kind=kind)
            soak.kill(stage, Kill("launcher", draw.randint(2000, int(seconds * 1000))), ranks=2, kind=kind)
        beside_gc = churn(Path(folder) / "churn", asked.publications)
    results = kept + soak.results
    killed = [result for result in results if result["killed"]]
    identical = [result for result in results if result["identical"]]
    report = {
        "kills": len(killed),
        "identical": len([result for result in killed if result["identical"]]),
        "ended_before_the_moment": len(results) - len(killed),
        "seconds": round(sum(result["seconds"] for result in results)),  # without the straight runs
        "gc": beside_gc,
        **here(),
        "results": results,
    }
    asked.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"{report['identical']} of {report['kills']} killed runs ended identical; {asked.out}")
    print(f"gc beside publications and starting runs: {beside_gc}")
    harm = sum(beside_gc.get(name, 0) for name in HARM)
    return 0 if len(identical) == len(results) and not harm else 1


if __name__ == "__main__":
    sys.exit(main())

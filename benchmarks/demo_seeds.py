"""How much the demo's numbers differ from run to run, and how its settings were chosen.

    nice -n 19 python benchmarks/demo_seeds.py choose     # candidates, on a world of their own
    nice -n 19 python benchmarks/demo_seeds.py report     # the demo with five seeds, on its held-out prompts

Settings are chosen on another draw of the demo world (`data/demo/generate.py --seed 1`): other rows to train on, and
held-out prompts without any that the demo reports on. What is reported is the demo itself, from random weights, with
other seeds. Both write into benchmarks/demo_seeds.json, and continue where they were stopped: runs are found again in
the store. One process with one thread, so that the numbers do not depend on what else the machine does.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "data" / "demo")]
os.chdir(PROJECT)

import generate  # noqa: E402

from align.artifacts.provenance import packages  # noqa: E402
from align.artifacts.store import Store  # noqa: E402
from align.config.compose import compose  # noqa: E402
from align.run import stage  # noqa: E402
from align.run.plan import make_plan  # noqa: E402

RESULTS = Path(__file__).with_suffix(".json")
FILES = {
    "language_modeling": "corpus",
    "prompt_completion": "demonstrations",
    "preference": "preferences",
    "unpaired_preference": "unpaired",
    "prompt_only": "prompts",
}
SPLITS = ("train", "eval")
METHODS = ("dpo", "kto", "ppo")
KEPT = ("gold", "gold_gain", "win_rate", "accuracy", "kl", "length")
SEEDS = (42, 1, 2, 3, 4)
OTHER_WORLD, OTHER_SEED = 1, 1
PLAIN = "trainer.loss_type=[sigmoid] ~trainer.loss_weights"
WITH_SFT = "trainer.loss_type=[sigmoid,sft] trainer.learning_rate=4e-4"
# method -> settings; the first are those of 0.1.0
CANDIDATES = {
    "dpo": {
        "lr 2e-4": f"{PLAIN} trainer.learning_rate=2e-4",
        "lr 1e-4, 2 epochs": f"{PLAIN} trainer.learning_rate=1e-4 trainer.num_train_epochs=2",
        "lr 4e-4": f"{PLAIN} trainer.learning_rate=4e-4",
        "lr 4e-4, beta 0.3": f"{PLAIN} trainer.learning_rate=4e-4 trainer.beta=0.3",
        "lr 4e-4, beta 1": f"{PLAIN} trainer.learning_rate=4e-4 trainer.beta=1.0",
        "lr 4e-4, robust": "trainer.learning_rate=4e-4 trainer.loss_type=robust trainer.label_smoothing=0.1 "
        "~trainer.loss_weights",
        "lr 4e-4, sft 1": f"{WITH_SFT} trainer.loss_weights=[1.0,1.0]",
        "lr 4e-4, sft 0.3": f"{WITH_SFT} trainer.loss_weights=[1.0,0.3]",
        "lr 4e-4, sft 1, beta 0.3": f"{WITH_SFT} trainer.loss_weights=[1.0,1.0] trainer.beta=0.3",
        "lr 4e-4, sft 1, 2 epochs": f"{WITH_SFT} trainer.loss_weights=[1.0,1.0] trainer.num_train_epochs=2",
        "lr 1e-3, sft 1": f"{WITH_SFT} trainer.loss_weights=[1.0,1.0] trainer.learning_rate=1e-3",
    },
    "kto": {
        "lr 6e-4": "trainer.learning_rate=6e-4 trainer.beta=0.1",
        "lr 6e-4, apo": "trainer.learning_rate=6e-4 trainer.beta=0.1 trainer.loss_type=apo_zero_unpaired",
        "lr 1e-3": "trainer.learning_rate=1e-3 trainer.beta=0.1",
        "lr 1e-3, 2 epochs": "trainer.learning_rate=1e-3 trainer.beta=0.1 trainer.num_train_epochs=2",
        "lr 1e-3, beta 0.3": "trainer.learning_rate=1e-3 trainer.beta=0.3",
        "lr 1e-3, beta 0.3, batch 16": "trainer.learning_rate=1e-3 trainer.beta=0.3 "
        "trainer.per_device_train_batch_size=16",
        "lr 1e-3, beta 0.3, 2 epochs": "trainer.learning_rate=1e-3 trainer.beta=0.3 trainer.num_train_epochs=2",
        "lr 1e-3, beta 1": "trainer.learning_rate=1e-3 trainer.beta=1.0",
        "lr 2e-3, beta 0.3": "trainer.learning_rate=2e-3 trainer.beta=0.3",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["choose", "report"])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "align-demo-seeds")
    arguments = parser.parse_args()
    if arguments.what == "choose":
        save({"choice": choose(arguments.folder)})
        return
    seeds = read().get("seeds", {})
    for seed in arguments.seeds:
        seeds[str(seed)] = demo(arguments.folder / "demo", seed)
        save({"seeds": seeds, "spread": spread(seeds)})


def choose(folder: Path) -> dict:
    """The gain over sft of every candidate on the other world's held-out prompts."""
    files = write_other_world(folder / "other-world")
    data = [
        f"data.{format}.{split}={files}/{name}.{split}.jsonl" for format, name in FILES.items() for split in SPLITS
    ]
    store, common = folder / "choose", [*data, f"trainer.seed={OTHER_SEED}", "tracking.sample_prompts=0"]
    sft = base(store, [*data, f"trainer.seed={OTHER_SEED}"])
    policies = {}
    for method, settings in CANDIDATES.items():
        for number, (name, overrides) in enumerate(settings.items()):
            own = [f"name={method}{number}", f"inputs.policy={sft}", *overrides.split()]
            policies[f"{method}: {name}"] = run(store, method, [*common, *own])
    evaluated = [*data, "evaluate.seed=1", "evaluate.max_prompts=null", f"inputs.baseline={sft}"]
    rows = evaluate(store, [*evaluated, f"inputs.policy=[{','.join(policies.values())}]"])
    return {
        "world": f"generate.py --seed {OTHER_WORLD}",
        "seed": OTHER_SEED,
        "prompts": sum(1 for _ in (files / "prompts.eval.jsonl").open()),
        "candidates": {name: rows[ref] for name, ref in policies.items()},
    }


def demo(store: Path, seed: int) -> dict:
    """What the demo reports with `seed`."""
    common = [f"trainer.seed={seed}"]
    pretrain = run(store, "pretrain", [*common, f"name=pretrain{seed}"])
    sft = run(store, "sft", [*common, f"name=sft{seed}", f"inputs.policy={pretrain}"])
    reward = run(store, "reward", [*common, f"name=reward{seed}", f"inputs.policy={sft}"])
    policies = {}
    for method in METHODS:
        judged_by = [f"inputs.reward_model={reward}"] if method == "ppo" else []
        own = [*common, f"name={method}{seed}", f"inputs.policy={sft}", *judged_by]
        policies[method] = run(store, method, own)
    refs = f"[{','.join(policies.values())}]"
    inputs = [f"inputs.policy={refs}", f"inputs.baseline={sft}", f"inputs.reward_model={reward}"]
    rows = evaluate(store, [f"name=evaluate{seed}", *inputs])
    return {"sft": rows[sft], "reward": rows[reward], **{method: rows[ref] for method, ref in policies.items()}}


def base(store: Path, overrides: list[str]) -> str:
    """A new model, pretrained and fine-tuned; the ref of the second."""
    return run(store, "sft", [*overrides, f"inputs.policy={run(store, 'pretrain', overrides)}"])


def run(store: Path, stage_name: str, overrides: list[str]) -> str:
    """Run one stage of the demo in this process, unless it is done; the ref of what it published."""
    given = [f"experiment=tiny_{stage_name}", f"artifacts.root={store}", *overrides]
    if stage.main(given) != 0:
        sys.exit(f"stopped at: {' '.join(given)}")
    return make_plan(compose(given), Store(store), world_size=1).published[-1].ref


def evaluate(store: Path, overrides: list[str]) -> dict[str, dict]:
    """Ref -> what the report says of that model, rounded."""
    version = Store(store).resolve(run(store, "evaluate", overrides))
    rows = json.loads((version.path / "report.json").read_text("utf-8"))["models"]
    return {row["model"]: {key: rounded(value) for key, value in row.items() if key in KEPT} for row in rows}


def spread(seeds: dict[str, dict]) -> dict:
    """Method -> the gain over sft: mean, standard deviation and range over the seeds, and the least lower bound."""
    found = {}
    for method in METHODS:
        gains = [seeds[seed][method]["gold_gain"] for seed in seeds]
        means = [gain["mean"] for gain in gains]
        found[method] = {
            "mean": rounded(statistics.mean(means)),
            "standard deviation": rounded(statistics.stdev(means)) if len(means) > 1 else None,
            "least": min(means),
            "most": max(means),
            "least lower bound": min(gain["low"] for gain in gains),
        }
    return found


def write_other_world(folder: Path) -> Path:
    """The demo's files from another seed; held out are all its prompts that the demo does not report on."""
    folder.mkdir(parents=True, exist_ok=True)
    generate.ROWS = generate.ROWS | {"prompts": (generate.ROWS["prompts"][0], 2000)}
    files = generate.build(OTHER_WORLD)
    reported = set()
    for name in FILES.values():
        for line in (PROJECT / f"data/demo/{name}.eval.jsonl").read_text("utf-8").splitlines():
            reported |= {message["content"] for message in json.loads(line).get("prompt", [])}
    held_out = files["prompts.eval.jsonl"]
    files["prompts.eval.jsonl"] = [row for row in held_out if row["prompt"][0]["content"] not in reported]
    for name, rows in files.items():
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        (folder / name).write_bytes(text.encode())
    return folder


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def read() -> dict:
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}


def save(part: dict) -> None:
    machine = f"{platform.machine()}, {os.environ['OMP_NUM_THREADS']} thread, {cpu_name()}"
    results = read() | part | {"machine": machine, "packages": packages()}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()

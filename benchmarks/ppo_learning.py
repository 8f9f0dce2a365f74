"""What PPO learns on the demo world, step by step: the reward model's opinion beside the gold judge's.

    python benchmarks/ppo_learning.py [--artifacts artifacts]    # after `make demo`; needs matplotlib for the picture

Three runs from the demo's sft and reward models, on the same held-out prompts: the demo's own settings; no KL penalty
and many more steps, where the policy learns to please the reward model more than the judge; the same again with a KL
budget. Writes benchmarks/ppo_learning.json and benchmarks/ppo_learning.png.

The gold score at its peak is compared with the last on the same prompts. The peak is chosen on one half of the prompts
and compared on the other, both ways, so that luck in choosing it does not count.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch
from datasets import Dataset
from transformers import TrainerCallback

from align.artifacts.provenance import packages
from align.artifacts.store import Store
from align.config.compose import compose
from align.config.paths import PROJECT
from align.evaluation.judges import Answer, load_judge
from align.evaluation.statistics import paired_bootstrap
from align.models.generation import generate
from align.models.load import load_policy, load_reward_model, load_tokenizer
from align.models.scoring import token_logps
from align.ppo import PPOConfig, PPOTrainer
from align.rewards.functions import RewardModelFunction
from align.run.library_logging import hush

RUNS = {
    "demo": {},
    "no KL penalty": {"beta": 0.0, "learning_rate": 3e-4, "value_learning_rate": 6e-4, "factor": 2},
    "KL budget": {"beta": 0.0, "learning_rate": 3e-4, "value_learning_rate": 6e-4, "factor": 2, "kl_budget": 2.0},
}
ANSWERS = 2  # a prompt at each look, so that a mean moves less by luck
OWNED = ("output_dir", "save_steps", "save_strategy", "logging_steps")


class Look(TrainerCallback):
    """Answers the held-out prompts every `every` steps and keeps each prompt's scores."""

    def __init__(self, trainer, prompts, judge, reward, every):
        self.trainer, self.prompts, self.judge, self.reward, self.every = trainer, prompts, judge, reward, every
        self.points = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.look(0)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            self.look(state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        if self.points[-1]["step"] != state.global_step or self.trainer.stopped_at_kl is not None:
            self.look(state.global_step)

    def look(self, step):
        trainer, gold, reward, kl = self.trainer, [], [], []
        policy = trainer.policy.eval()
        for answer in range(ANSWERS):
            completions = generate(
                policy,
                trainer.processing_class,
                self.prompts,
                max_new_tokens=trainer.max_completion_length,
                batch_size=120,
                seed=1000 + answer,
            )
            answers = [Answer(p, c.text, c.messages) for p, c in zip(self.prompts, completions, strict=True)]
            gold.append(self.judge.score(answers))
            reward.append(self.reward(self.prompts, [c.messages for c in completions]))
            pairs = [(c.prompt_ids, c.completion_ids) for c in completions]
            pad = trainer.processing_class.pad_token_id
            for start in range(0, len(pairs), 120):
                ours, theirs = (
                    token_logps(model, pad, pairs[start : start + 120]) for model in (policy, trainer.ref_model)
                )
                kl += [(one - other).sum().item() for one, other in zip(ours, theirs, strict=True)]
        policy.train()
        count = len(self.prompts)
        self.points.append(
            {
                "step": step,
                "gold": [round(sum(one[i] for one in gold) / ANSWERS, 4) for i in range(count)],
                "reward": round(sum(map(sum, reward)) / (ANSWERS * count), 4),
                "kl": round(sum(kl) / len(kl), 4),
            }
        )
        mean = sum(self.points[-1]["gold"]) / count
        print(
            f"  step {step}: gold {mean:.3f}, reward {self.points[-1]['reward']:.2f}, KL {self.points[-1]['kl']:.2f}",
            flush=True,
        )


def run(store, changes, looks):
    cfg = compose(["experiment=tiny_ppo"])
    changes = dict(changes)
    fields = {key: value for key, value in cfg.trainer.items() if key not in OWNED}
    fields["max_steps"] *= changes.pop("factor", 1)
    sft, judge = store.resolve("sft").model_dir, store.resolve("reward").model_dir
    tokenizer = load_tokenizer(sft)
    rows = [json.loads(line) for line in (PROJECT / "data/demo/prompts.train.jsonl").read_text("utf-8").splitlines()]
    held = [json.loads(line) for line in (PROJECT / "data/demo/prompts.eval.jsonl").read_text("utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            folder,
            **fields | changes,
            save_strategy="no",
            logging_steps=1000,
            bf16=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        reward = RewardModelFunction("reward", load_reward_model(judge).eval(), load_tokenizer(judge))
        trainer = PPOTrainer(
            load_policy(sft),
            reward,
            args,
            Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
            processing_class=tokenizer,
            value_model=load_reward_model(judge),
        )
        every = max(args.steps_per_rollout, args.max_steps // looks // args.steps_per_rollout * args.steps_per_rollout)
        look = Look(trainer, [row["prompt"] for row in held], load_judge("data/demo/world.py:judge"), reward, every)
        trainer.add_callback(look)
        began = time.monotonic()
        trainer.train()
        return {
            "settings": changes | {"max_steps": args.max_steps, "seed": args.seed},
            "minutes, the looks counted": round((time.monotonic() - began) / 60, 2),
            "stopped at KL": trainer.stopped_at_kl,
            "points": look.points,
        }


def fall(points):
    """Gold at its peak less gold at the end, with the peak chosen on the other half of the prompts."""
    count = len(points[0]["gold"])
    halves = [range(0, count, 2), range(1, count, 2)]
    differences = []
    for chosen, compared in (halves, halves[::-1]):
        peak = max(points, key=lambda point: sum(point["gold"][i] for i in chosen))
        differences += [peak["gold"][i] - points[-1]["gold"][i] for i in compared]
    return paired_bootstrap(differences)


def gain(points):
    return paired_bootstrap([b - a for a, b in zip(points[0]["gold"], points[-1]["gold"], strict=True)])


def draw(found, file):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    for name, told in found.items():
        steps = [point["step"] for point in told["points"]]
        for axis, values in zip(
            axes,
            (
                [sum(point["gold"]) / len(point["gold"]) for point in told["points"]],
                [point["reward"] for point in told["points"]],
                [point["kl"] for point in told["points"]],
            ),
            strict=True,
        ):
            axis.plot(steps, values, label=name, linewidth=1.6)
    for axis, title in zip(axes, ("gold score (held out)", "reward model's score", "KL to sft, nats"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("optimizer steps", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifacts", default=None)
    parser.add_argument("--looks", type=int, default=16)
    asked = parser.parse_args()
    hush()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    store = Store.open(asked.artifacts)
    found = {}
    for name, changes in RUNS.items():
        print(name, flush=True)
        found[name] = run(store, changes, asked.looks)
        points = found[name]["points"]
        found[name]["gold, last less first [95%]"] = vars(gain(points))
        found[name]["gold, peak less last [95%]"] = vars(fall(points))
        print(f"  gain {gain(points)}\n  fall {fall(points)}", flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {os.environ['OMP_NUM_THREADS']} threads"
    told = {"machine": machine, "python": platform.python_version(), **packages(), "runs": found}
    here = Path(__file__).parent
    (here / "ppo_learning.json").write_text(json.dumps(told) + "\n", "utf-8")
    draw(found, here / "ppo_learning.png")


if __name__ == "__main__":
    main()

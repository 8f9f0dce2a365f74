"""The runs that regression compares: a small seeded world, and one short run a stage in fp32 on full global batches.

Every run takes 20 steps of 8 rows from the same 40, so that epochs end with a whole batch; pretraining cuts its corpus
into more than 160 rows of 32 tokens. Weights are drawn wide enough (0.2) that an untrained model has opinions, and
Adam's epsilon is large enough that gradients which are zero but for rounding stay without effect. The demo and
conf/model/ may change without changing a number here.
"""

import json
import random
from pathlib import Path

from align.artifacts.version import Version

STEPS = 20
GLOBAL_BATCH = 8
STAGES = ("pretrain", "sft", "reward", "dpo", "kto", "ppo")
# Advantages need answers to one prompt that differ, so these two draw them, and every process draws with a seed of
# its own: two processes answer otherwise than one does.
SAMPLED = ("rloo", "grpo")
# Runs that are compared only among launches of as many processes; `kto_kl` for the reason at KTO below.
BY_LAYOUT = ("kto_kl", *SAMPLED)
REFERENCES = Path(__file__).parent / "references"

# run -> `loss_type`: TRL estimates the KL term of `kto` in the device batch, so that only
# `apo_zero_unpaired` gives the same numbers on any number of processes and with any accumulation.
KTO = {"kto": "apo_zero_unpaired", "kto_kl": "kto"}

GROUPS = {
    "inputs.reward_model": "judge:v1",
    "trainer.num_generations": 4,
    "trainer.num_iterations": 2,
    "trainer.max_completion_length": 8,
    "trainer.beta": 0.1,
}

CHAT_TEMPLATE = Path(__file__).parent / "chat.jinja"
ARCHITECTURE = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "n_positions": 64,
    "initializer_range": 0.2,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
SPECIAL_TOKENS = {"pad_token": "<|pad|>", "user": "<|user|>", "assistant": "<|assistant|>", "eos_token": "<|end|>"}
NEW_MODEL = {
    "model.chat_template": CHAT_TEMPLATE,
    **{f"model.new.architecture.{key}": value for key, value in ARCHITECTURE.items()},
    **{f"model.new.tokenizer.special_tokens.{role}": f"'{token}'" for role, token in SPECIAL_TOKENS.items()},
    "model.new.tokenizer.vocab_size": 384,
}
TRAINER = {
    "max_steps": STEPS,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "adam_epsilon": 1e-5,
    "per_device_eval_batch_size": 4,
    "max_length": 64,
    "activation_checkpointing": "false",
    "logging_steps": 1,
    "eval_strategy": "'no'",
    "save_strategy": "'no'",
}
OWN = {
    "pretrain": {**NEW_MODEL, "trainer.max_length": 32},
    "sft": {},
    "reward": {"trainer.center_rewards_coefficient": 0.01},
    "dpo": {"trainer.beta": 0.5},
    "kto": {"trainer.beta": 0.5},
    # Completions are the likeliest ones, so that every layout of processes answers alike; the two halves of a rollout
    # are two minibatches, gone through twice.
    "ppo": {
        "inputs.reward_model": "judge:v1",
        "trainer.generation_kwargs": "{do_sample: false}",
        "trainer.generation_batch_size": 2 * GLOBAL_BATCH,
        "trainer.num_iterations": 2,
        "trainer.max_completion_length": 8,
        "trainer.beta": 0.1,
    },
    "rloo": GROUPS,
    "grpo": GROUPS,
}
FORMATS = {
    "pretrain": "language_modeling",
    "sft": "prompt_completion",
    "reward": "preference",
    "dpo": "preference",
    "kto": "unpaired_preference",
    "ppo": "prompt_only",
    "rloo": "prompt_only",
    "grpo": "prompt_only",
}


def write_data(folder: Path, seed: int = 0) -> None:
    """Write `<format>.train.jsonl` and `<format>.eval.jsonl` for every format: words to be said backwards."""
    chance = random.Random(seed)
    words = ["axe", "bee", "cow", "dog", "elk", "fig", "gum", "hat", "ink", "jar", "kit", "log", "map", "nut", "owl"]

    def turn(role: str, said: list[str]) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(said)}]

    def rows(format: str, count: int) -> list[dict]:
        made = []
        for number in range(count):
            asked = chance.sample(words, chance.randrange(2, 5))
            right, wrong = asked[::-1], asked[: chance.randrange(1, len(asked) + 1)]
            prompt = turn("user", ["say", *asked])
            made.append(
                {
                    "language_modeling": {"text": f"say {' '.join(asked)} and hear {' '.join(right)}"},
                    "prompt_completion": {"prompt": prompt, "completion": turn("assistant", right)},
                    "preference": {
                        "prompt": prompt,
                        "chosen": turn("assistant", right),
                        "rejected": turn("assistant", wrong),
                        "margin": number % 3 / 2,
                    },
                    "unpaired_preference": {
                        "prompt": prompt,
                        "completion": turn("assistant", wrong if number % 2 else right),
                        "label": number % 2 == 0,
                    },
                    "prompt_only": {"prompt": prompt},
                }[format]
            )
        return made

    folder.mkdir(parents=True, exist_ok=True)
    for format in dict.fromkeys(sorted(set(FORMATS.values()) - {"prompt_only"}) + ["prompt_only"]):
        for split, count in (("train", 800 if format == "language_modeling" else 40), ("eval", 16)):
            text = "".join(json.dumps(row) + "\n" for row in rows(format, count))
            (folder / f"{format}.{split}.jsonl").write_text(text, "utf-8")


def overrides(
    root: Path,
    run: str,
    *,
    name: str | None = None,
    processes: int = 1,
    accumulation: int = 1,
    deepspeed: str = "none",
    **more: object,
) -> list[str]:
    """The command line of one run; `run` is a stage, or `kto_kl`, kto with its own loss.

    Args:
        root: of the store; the data are beside it, in `data/`.
        name: of the artifact, by default the run's.
        processes: that share the global batch.
        accumulation: micro-batches a step, in each process.
        deepspeed: a file in conf/deepspeed/.
        more: further keys, dots written as `__`.
    """
    stage = run.partition("_")[0]
    data = root.parent / "data"
    chosen: dict[str, object] = {
        "stage": stage,
        "name": name or run,
        "artifacts.root": root,
        "deepspeed": deepspeed,
        "data": "local",
        "tracking.sample_prompts": 0,
        "trainer.per_device_train_batch_size": GLOBAL_BATCH // (processes * accumulation),
        "trainer.gradient_accumulation_steps": accumulation,
    }
    chosen |= {f"trainer.{key}": value for key, value in TRAINER.items()}
    chosen |= {
        f"data.{FORMATS[stage]}.{split}": data / f"{FORMATS[stage]}.{split}.jsonl" for split in ("train", "eval")
    }
    if stage != "pretrain":
        chosen["inputs.policy"] = "base:v1"
    if stage == "kto":
        chosen["trainer.loss_type"] = KTO[run]
    if FORMATS[stage] == "prompt_only":
        del chosen["trainer.max_length"]
    chosen |= OWN[stage] | {key.replace("__", "."): value for key, value in more.items()}
    return [f"{key}={value}" for key, value in chosen.items()]


def base_overrides(root: Path) -> list[str]:
    """The command line of `base:v1`, what every run but pretraining starts from: seeded weights, not trained."""
    return overrides(root, "pretrain", name="base", trainer__max_steps=1, trainer__learning_rate=0)


def judge_overrides(root: Path) -> list[str]:
    """The command line of `judge:v1`, what scores the online stages: `base:v1` with a seeded, untrained head."""
    return overrides(root, "reward", name="judge", trainer__max_steps=1, trainer__learning_rate=0)


def losses(version: Version) -> list[float]:
    """The training loss of each step."""
    lines = [json.loads(line) for line in (version.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def reference(run: str) -> list[float]:
    """The committed losses of a run; `python -m tests.regression.update` makes them anew."""
    return json.loads((REFERENCES / f"{run}.json").read_text("utf-8"))["loss"]

"""Real preference data through the pipeline, on a tiny GPT-2: that it goes through, not that it is learned well.

    python benchmarks/real_data.py DATA        # writes benchmarks/real_data.json

DATA holds hh-rlhf-harmless/harmless-base.test.jsonl (Anthropic/hh-rlhf), gsm8k/train.jsonl and
gsm8k/example_model_solutions.jsonl (openai/grade-school-math).

hh-rlhf: pretrain on the chosen transcripts, sft on chosen answers, reward, dpo, ppo, evaluate.
gsm8k: pretrain on the worked answers, sft on them, kto on model solutions marked right or wrong, evaluate.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from align.artifacts.provenance import packages
from align.artifacts.store import Store

PROJECT = Path(__file__).resolve().parents[1]
MODEL = ["model=tiny_gpt2", "model.new.architecture.n_positions=256", "model.new.tokenizer.vocab_size=2048"]
TINY = [
    "data=local",
    "data.on_bad_rows=skip",
    "data.overlong=drop",
    "trainer.max_length=256",
    "trainer.activation_checkpointing=false",
    "trainer.per_device_train_batch_size=8",
    "trainer.gradient_accumulation_steps=1",
    "trainer.eval_strategy=no",
    "trainer.save_strategy=no",
]


def steps(data: Path) -> dict[str, list[str]]:
    """Name of the artifact -> overrides of the stage that makes it."""
    hh = data / "hh-rlhf-harmless" / "harmless-base.test.jsonl"
    gsm, solutions = data / "gsm8k" / "train.jsonl", data / "gsm8k" / "example_model_solutions.jsonl"
    pairs = [f"data.{f}.{k}={v}" for f in ("preference",) for k, v in (("train", hh), ("layout", "hh_rlhf"))]
    demos = [f"data.prompt_completion.{k}={v}" for k, v in (("train", hh), ("layout", "hh_rlhf"))]
    worked = [
        f"data.prompt_completion.train={gsm}",
        "data.prompt_completion.columns={prompt: question, completion: answer}",
    ]
    marked = [f"data.unpaired_preference.{k}={v}" for k, v in (("train", solutions), ("layout", "gsm8k_solutions"))]
    template = "model.chat_template=conf/model/chat.jinja"
    return {
        "hh-pretrain": [
            "stage=pretrain",
            *MODEL,
            *TINY,
            f"data.language_modeling.train={hh}",
            "data.language_modeling.columns={text: chosen}",
            "trainer.learning_rate=2e-3",
            "trainer.max_steps=200",
        ],
        "hh-sft": [
            "stage=sft",
            *TINY,
            *demos,
            template,
            "inputs.policy=hh-pretrain:latest",
            "trainer.learning_rate=1e-3",
            "trainer.max_steps=60",
        ],
        "hh-reward": [
            "stage=reward",
            *TINY,
            *pairs,
            "inputs.policy=hh-sft:latest",
            "trainer.learning_rate=3e-4",
            "trainer.max_steps=60",
        ],
        "hh-dpo": [
            "stage=dpo",
            *TINY,
            *pairs,
            "inputs.policy=hh-sft:latest",
            "trainer.learning_rate=2e-4",
            "trainer.max_steps=60",
        ],
        "hh-ppo": [
            "stage=ppo",
            *(text for text in TINY if not text.startswith("trainer.max_length")),
            f"data.prompt_only.train={hh}",
            "data.prompt_only.layout=hh_rlhf",
            "inputs.policy=hh-sft:latest",
            "inputs.reward_model=hh-reward:latest",
            "trainer.learning_rate=1e-4",
            "trainer.max_completion_length=64",
            "trainer.generation_batch_size=32",
            "trainer.num_iterations=2",
            "trainer.missing_eos_penalty=1.0",
            "trainer.logging_steps=8",
            "trainer.max_steps=160",
        ],
        "hh-evaluate": [
            "stage=evaluate",
            "data=local",
            "data.on_bad_rows=skip",
            *pairs,
            "inputs.policy=[hh-dpo:latest,hh-ppo:latest]",
            "inputs.baseline=hh-sft:latest",
            "inputs.reward_model=hh-reward:latest",
            "evaluate.max_new_tokens=64",
            f"data.prompt_only.train={hh}",
            "data.prompt_only.layout=hh_rlhf",
            "evaluate.max_prompts=48",
            "evaluate.batch_size=16",
        ],
        "gsm-pretrain": [
            "stage=pretrain",
            *MODEL,
            *TINY,
            f"data.language_modeling.train={gsm}",
            "data.language_modeling.columns={text: answer}",
            "trainer.learning_rate=2e-3",
            "trainer.max_steps=200",
        ],
        "gsm-sft": [
            "stage=sft",
            *TINY,
            *worked,
            "inputs.policy=gsm-pretrain:latest",
            "trainer.learning_rate=1e-3",
            "trainer.max_steps=60",
        ],
        "gsm-kto": [
            "stage=kto",
            *TINY,
            *marked,
            "inputs.policy=gsm-sft:latest",
            "trainer.learning_rate=2e-4",
            "trainer.max_steps=60",
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--artifacts", default="artifacts", help="the store")
    asked = parser.parse_args()
    store = Store.open(asked.artifacts)
    results = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine()},
        "packages": packages(),
        "steps": {},
    }
    for name, overrides in steps(asked.data.resolve()).items():
        start = time.perf_counter()
        words = [
            sys.executable,
            str(PROJECT / "launch" / "run.py"),
            f"name={name}",
            f"artifacts.root={asked.artifacts}",
        ]
        subprocess.run([*words, *overrides], check=True)
        version = store.resolve(f"{name}:latest")
        results["steps"][name] = {
            "seconds": round(time.perf_counter() - start, 1),
            "overrides": [text.replace(str(asked.data.resolve()), "DATA") for text in overrides],
            "metrics": version.manifest.metrics,
        }
    (PROJECT / "benchmarks" / "real_data.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

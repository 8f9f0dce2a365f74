"""PPO in a script of your own: teach a chat model to answer in capitals, with a function as the reward.

make demo                                              # or any chat model of yours
python examples/ppo.py artifacts/sft/v0001/model
"""

import json
import sys
from pathlib import Path

from datasets import Dataset

from align.ppo import PPOConfig, PPOTrainer

PROMPTS = Path(__file__).parents[1] / "data" / "demo" / "prompts.train.jsonl"


def capitals(prompts: list, completions: list, **columns: list) -> list[float]:
    """The share of capitals among each answer's letters, of which ten at least are asked for."""
    answers = [completion[0]["content"] for completion in completions]
    letters = [[letter for letter in answer if letter.isalpha()] for answer in answers]
    return [sum(map(str.isupper, answer)) / max(len(answer), 10) for answer in letters]


def main(model: str, output: str = "ppo-capitals", steps: int = 100, seed: int = 0) -> list[float]:
    """Train `model` and save it in `output`; the mean reward of every second step."""
    args = PPOConfig(
        output,
        seed=seed,
        max_steps=steps,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=32,
        gradient_accumulation_steps=1,
        num_iterations=2,
        max_completion_length=48,
        beta=0.02,
        bf16=False,
        activation_checkpointing=False,
        logging_steps=2,
        save_strategy="no",
        report_to=[],
    )
    rows = [json.loads(line) for line in PROMPTS.open(encoding="utf-8")]
    trainer = PPOTrainer(model=model, reward_funcs=capitals, args=args, train_dataset=Dataset.from_list(rows))
    trainer.train()
    trainer.save_model(output)
    return [line["objective/scores"] for line in trainer.state.log_history if "objective/scores" in line]


if __name__ == "__main__":
    rewards = main(sys.argv[1])
    print(f"mean reward: {rewards[0]:.2f} at first, {sum(rewards[-5:]) / 5:.2f} at the end")

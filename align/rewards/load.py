"""What the stages that train on the policy's own answers share: who scores them, room for a prompt, metrics' names."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.model_files import context_length
from align.config.schema import Config
from align.distributed.device import own_device
from align.errors import UserError
from align.models.load import load_reward_model, load_tokenizer
from align.models.reward_probe import check_probe
from align.rewards.functions import RewardFunction, RewardModelFunction, checked
from align.rewards.user_functions import REWARD_KEY, load_function
from align.training.trainer import resolve_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

# What TRL's RLOO and GRPO log, and what PPO calls the same: a completion's score, nats a token, a share of tokens.
# Their `kl` is nats a token and PPO's `objective/kl` nats a completion: that has no line.
SAME = {
    "reward": "objective/scores",
    "entropy": "policy/entropy_avg",
    "clip_ratio/region_mean": "policy/clipfrac_avg",
}


class CommonMetrics(TrainerCallback):
    """Adds to what RLOO and GRPO log PPO's names for the same, so that their curves lie in one plot."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **kwargs
    ):
        for theirs, ours in SAME.items():
            for prefix in ("", "eval_"):
                if logs and f"{prefix}{theirs}" in logs:
                    logs[f"{prefix}{ours}"] = logs[f"{prefix}{theirs}"]


def load_rewards(cfg: Config, inputs: dict[str, Any], *, base: str | None = None) -> list[RewardFunction]:
    """The reward models in `inputs`, each read through its own tokenizer and template, then the config's functions.

    Args:
        base: digest of the frozen base that the policy's adapter is on. A reward adapter on the same base is not
            loaded: `place_rewards` puts it there.
    """
    block = cfg.online
    dtype = resolve_dtype(cfg.model.dtype, cfg.precision, frozen=True)
    rewards: list[RewardFunction] = []
    models = inputs.get("reward_model", [])
    names = [_name(given) for given in models]
    for given, name in zip(models, names, strict=True):
        model = None
        tokenizer = load_tokenizer(given.path, **cfg.model.tokenizer_options())
        if base is None or base_digest(given) != base:
            model = load_reward_model(given.path, dtype=dtype, **cfg.model.load_options())
            model = model.eval().requires_grad_(False).to(own_device())
            check_probe(model, tokenizer, given.path)
        rewards.append(
            RewardModelFunction(
                name if names.count(name) == 1 else given.ref.replace(":", "_"),
                model,
                tokenizer,
                batch_size=block.reward_batch_size,
                max_length=block.reward_max_length or context_length(given.path),
            )
        )
    rewards += [load_function(spec, REWARD_KEY) for spec in block.reward_functions]
    return name_apart([checked(reward) for reward in rewards])


def name_apart(rewards: list[RewardFunction]) -> list[RewardFunction]:
    """The functions with names that differ, so that each has metrics of its own: `score`, `score_2`, ..."""
    met: Counter[str] = Counter()
    for reward in rewards:
        met[reward.__name__] += 1
        if met[reward.__name__] > 1:
            reward.__name__ = f"{reward.__name__}_{met[reward.__name__]}"
    return rewards


def place_rewards(rewards: list[RewardFunction], inputs: dict[str, Any], trainer: "Trainer") -> None:
    """Put reward adapters that were not loaded on the policy's base; under ZeRO-3, split the others over the ranks."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    for number, given in enumerate(inputs.get("reward_model", [])):
        reward = rewards[number].checked
        if reward.model is None:
            from align.models.shared_base import add_reward_adapter

            pad = reward.tokenizer.pad_token_id
            reward.model = add_reward_adapter(trainer.policy, f"reward{number}", given.path, pad_token_id=pad)
        elif is_deepspeed_zero3_enabled():
            reward.shard(trainer.accelerator)


def base_digest(given: Input) -> str | None:
    """The digest of the base that an adapter is on; None for whole weights."""
    return resolve_base(given.path).digest if is_adapter(given.path) else None


def load_value_model(cfg: Config, inputs: dict[str, Any], *, dtype: str) -> "PreTrainedModel | None":
    """What the value model begins from: `inputs.value_model`, else the first reward model; None if there is neither.

    That it begins as the reward model is how Stiennon et al. 2020 (arXiv:2009.01325) and Huang et al. 2024
    (arXiv:2403.17031) have it.

    Raises:
        UserError: it reads other tokens than the policy.
    """
    source = next(iter(value_sources(inputs)), None)
    if source is None:
        return None
    ours, theirs = (
        load_tokenizer(one.path, **cfg.model.tokenizer_options()).get_vocab() for one in (inputs["policy"], source)
    )
    if ours != theirs:
        if "value_model" in inputs:
            raise UserError(
                f"the value model {source.ref} reads other tokens than the policy {inputs['policy'].ref}: name one of "
                "its family, or leave inputs.value_model away"
            )
        return None
    value_model = load_reward_model(source.path, dtype=dtype, **cfg.model.load_options())
    return value_model.requires_grad_(True)


def value_sources(inputs: dict[str, Any]) -> list[Input]:
    """What a value model may begin from: `inputs.value_model` alone where it is given, else each reward model."""
    return [inputs["value_model"]] if "value_model" in inputs else inputs.get("reward_model", [])


def default_completion_length(context: int | None) -> int:
    """Tokens of a completion where the config names no number: half the policy's context, at most 256."""
    return 256 if context is None else min(context // 2, 256)


def room_for_prompts(context: int | None, max_completion_length: int) -> tuple[int | None, str]:
    """Tokens that a prompt must stay below, None for no limit, and what to do about longer ones."""
    room = None if context is None else context - max_completion_length + 1
    return room, "lower trainer.max_completion_length"


def _name(given: Input) -> str:
    """A reward model's name in metrics: its artifact's, or its folder's."""
    return given.ref.partition(":")[0] if given.kind == "artifact" else Path(given.path).name

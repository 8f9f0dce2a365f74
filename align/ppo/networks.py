"""The networks beside the policy, where a caller gives none: reward models by path, a reference, a value model."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.trainer.utils import create_model_from_path, get_config_model_id

from align.ppo.config import PPOConfig


def load_reward_model(path: str, args: PPOConfig) -> PreTrainedModel:
    """A sequence classifier with one label."""
    options = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **options)


def copy_policy(policy: PreTrainedModel, args: PPOConfig) -> PreTrainedModel:
    """The policy as it is now; under ZeRO-3, whose weights are in pieces, read again from where it came from."""
    if not is_deepspeed_zero3_enabled():
        return copy.deepcopy(policy)
    options = {"dtype": policy.dtype, "attn_implementation": policy.config._attn_implementation}
    options["trust_remote_code"] = args.trust_remote_code
    return create_model_from_path(get_config_model_id(policy.config), **options)


def first_value_model(policy: PreTrainedModel, reward_funcs: list[Any], args: PPOConfig) -> PreTrainedModel:
    """A value model from the first reward model, or from the policy with a head of zeros."""
    first = next((one for one in reward_funcs if isinstance(one, PreTrainedModel)), None)
    if first is not None and not is_deepspeed_zero3_enabled():
        return copy.deepcopy(first).requires_grad_(True)
    source = first if first is not None else policy
    value_model = AutoModelForSequenceClassification.from_pretrained(
        get_config_model_id(source.config),
        num_labels=1,
        dtype=policy.dtype,
        trust_remote_code=args.trust_remote_code,
    )
    if first is None:
        nn.init.zeros_(value_model.score.weight)
    return value_model


def fuse_gelu(model: nn.Module) -> None:
    """Compute GELU's tanh form in torch's one operation where transformers spells it out in eight (GPT-2 and others).

    It is the same function but for rounding, without seven tensors kept for the backward pass.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, GELUTanh())


def set_learning_rate(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rate: float) -> None:
    """Give some of an optimizer's parameters a learning rate of their own, in groups of their own."""
    chosen = {id(parameter) for parameter in parameters}
    groups = []
    for group in optimizer.param_groups:
        shared = {key: value for key, value in group.items() if key != "params"}
        for member, its_rate in ((False, group["lr"]), (True, rate)):
            mine = [one for one in group["params"] if (id(one) in chosen) is member]
            if mine:
                groups.append(shared | {"params": mine, "lr": its_rate})
    optimizer.param_groups.clear()
    for group in groups:
        optimizer.add_param_group(group)

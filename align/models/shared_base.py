"""Several adapters on one frozen base: the policy's, its reference, the value's and a reward model's.

So PPO needs the memory of one base, as SFT does. Which adapter a forward runs under is switched by `adapter`.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from align.models.adapters import ADAPTER_WEIGHTS
from align.models.load import read_score_center

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POLICY_ADAPTER = "default"
REF_ADAPTER = "ref"
VALUE_ADAPTER = "value"
SCORE = "base_model.model.score.weight"


@contextlib.contextmanager
def adapter(model: PeftModel, name: str | None) -> Iterator[None]:
    """Forward under another adapter of `model`, None for its bare base, and leave what is trainable as it is.

    PEFT's `set_adapter` and `disable_adapter` also change `requires_grad`: between two forwards of one loss they
    silently take the first adapter's gradient away (PEFT 0.21).
    """
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = name is None
            if name is not None:
                has = name in getattr(layer, "modules_to_save", (name,))
                layer._active_adapter = [name] if has else []
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


def active_adapter(model: PeftModel) -> str | None:
    """The adapter that a forward of `model` runs under now, None for its bare base."""
    layer = next(layer for layer in model.modules() if isinstance(layer, BaseTunerLayer))
    return None if layer.disable_adapters else layer.active_adapters[0]


def checkpoint_under_adapter(
    model: PeftModel, checkpoint: Callable[..., Any], function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """`checkpoint(function, ...)`, torch's activation checkpointing, under one adapter now and when computed again."""
    name = active_adapter(model)

    def compute(*args: Any, **kwargs: Any) -> Any:
        with adapter(model, name):
            return function(*args, **kwargs)

    return checkpoint(compute, *args, **kwargs)


def add_value_adapter(policy: PeftModel, source: Path | None) -> nn.Linear:
    """Give the policy's base an adapter for the value; the map from a state to its value is returned.

    Args:
        source: folder of a reward adapter of the same base, which the value begins as. None begins with an adapter of
            the policy's shape that does nothing and a map of zeros.
    """
    config = copy.deepcopy(policy.peft_config[POLICY_ADAPTER])
    head = torch.zeros(1, policy.config.get_text_config().hidden_size)
    if source is not None:
        head = _load_adapter(policy, VALUE_ADAPTER, source)
    else:
        config.modules_to_save, config.inference_mode = None, False
        policy.add_adapter(VALUE_ADAPTER, config)
    for name, parameter in policy.named_parameters():
        if f".{VALUE_ADAPTER}." in name or name.endswith(f".{VALUE_ADAPTER}"):
            parameter.requires_grad_(True)
    return linear(head)


def add_reward_adapter(policy: PeftModel, name: str, source: Path, *, pad_token_id: int) -> "AdapterClassifier":
    """Put a reward adapter, frozen, on the policy's base, in place of a second network.

    Args:
        source: the adapter's folder.
        pad_token_id: of the reward model's tokenizer.
    """
    head = linear(_load_adapter(policy, name, source)).requires_grad_(False)
    return AdapterClassifier(policy, name, head, pad_token_id, read_score_center(source))


def _load_adapter(policy: PeftModel, name: str, source: Path) -> Tensor:
    """Load a reward adapter as the policy's adapter `name`, frozen; its head's weights."""
    config = PeftConfig.from_pretrained(str(source))
    config.task_type = policy.peft_config[POLICY_ADAPTER].task_type
    config.modules_to_save, config.inference_mode = None, True
    weights = load_file(source / ADAPTER_WEIGHTS)
    head = weights.pop(SCORE)
    trainable = {id(parameter) for parameter in policy.parameters() if parameter.requires_grad}
    policy.add_adapter(name, config)
    set_peft_model_state_dict(policy, weights, adapter_name=name)
    for parameter in policy.parameters():
        parameter.requires_grad_(id(parameter) in trainable)
    return head


def linear(weight: Tensor) -> nn.Linear:
    """A linear map without bias, in fp32."""
    head = nn.Linear(weight.size(1), weight.size(0), bias=False, dtype=torch.float32)
    head.weight.data.copy_(weight)
    return head


def save_value_adapter(policy: PeftModel, head: nn.Linear, folder: Path, state: dict[str, Tensor] | None) -> None:
    """Save the value as an adapter for sequence classification with one label, as a reward adapter is saved.

    Args:
        state: the policy's whole weights, where those at hand are in pieces.
    """
    weights = get_peft_model_state_dict(policy, state_dict=state, adapter_name=VALUE_ADAPTER)
    config = copy.deepcopy(policy.peft_config[VALUE_ADAPTER])
    config.task_type, config.modules_to_save, config.inference_mode = "SEQ_CLS", ["score"], True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    weights = {name: weight.detach().contiguous().cpu() for name, weight in weights.items()}
    save_file(weights | {SCORE: head.weight.detach().contiguous().cpu()}, folder / ADAPTER_WEIGHTS, {"format": "pt"})


class AdapterClassifier(nn.Module):
    """A reward model that is an adapter on the policy's base: a sequence classifier with one label, to be called.

    Args:
        pad_token_id: of the reward model's tokenizer.
        center: what is taken off each score.
    """

    def __init__(self, policy: "PreTrainedModel", name: str, head: nn.Linear, pad_token_id: int, center: float = 0.0):
        super().__init__()
        self.pad_token_id = pad_token_id
        self.policy = policy
        self.name = name
        self.head = head.to(policy.device)
        self.config = SimpleNamespace(score_center=center)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """The scores, `.logits` of shape [texts, 1], read where transformers' sequence classifiers read them.

        That is the last token whose id is not the pad token's: the one before EOS where EOS is also the pad token.
        """
        whole = self.policy.get_base_model()
        with adapter(self.policy, self.name):
            backbone = getattr(whole, whole.base_model_prefix)
            states = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        positions = torch.arange(input_ids.size(1), device=input_ids.device)
        last = states[torch.arange(len(states)), (positions * (input_ids != self.pad_token_id)).argmax(-1)]
        return SimpleNamespace(logits=self.head(last.to(self.head.weight.dtype)))

"""Models that are only read, by the stages that train nothing: loaded as they were trained, where there is room.

Each rank holds a whole copy on its device, unless DeepSpeed's ZeRO-3 divides the weights among the ranks, or a single
process maps a model that is too large for one GPU over all of them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts.bases import adapter_kind, is_adapter, resolve_base
from align.artifacts.model_files import count_weights
from align.distributed import ranks
from align.distributed.device import own_device
from align.models.adapters import build_quantization
from align.models.load import load_policy, load_reward_model, unpartitioned

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What is copied from a DeepSpeed config: how weights are divided. The rest is about training.
_ZERO_FIELDS = ("stage", "offload_param", "stage3_param_persistence_threshold", "stage3_max_live_parameters")

ROOM = 1.2  # of the size of a model's weights that a GPU must have, with a little for activations

_zero3: Any = None  # transformers asks for it while a model is loaded and while it generates, and holds no reference


def open_policy(path: Path, *, deepspeed: dict[str, Any] | None = None, **options: Any) -> "PreTrainedModel":
    """A policy, a baseline or a reference: no gradients, no dropout.

    An adapter that was trained on a base in 4 bits is read on that base in 4 bits; any other is merged.

    Args:
        deepspeed: DeepSpeed's JSON; its ZeRO stage 3 divides the weights among the ranks.
        options: of `load.load_whole`; `dtype` is what weights are read in.

    Raises:
        UserError: what `load.load_policy` refuses, or bitsandbytes is missing for a base in 4 bits.
    """
    return _open(load_policy, path, deepspeed, options)


def open_reward_model(path: Path, *, deepspeed: dict[str, Any] | None = None, **options: Any) -> "PreTrainedModel":
    """A reward model, as `open_policy` opens a policy."""
    return _open(load_reward_model, path, deepspeed, options)


def _open(
    load: "Callable[..., PreTrainedModel]", path: Path, deepspeed: dict[str, Any] | None, options: dict[str, Any]
) -> "PreTrainedModel":
    if is_adapter(path) and adapter_kind(path) == "qlora":
        quantization = build_quantization({"kind": "qlora"}, dtype=options["dtype"])
        with unpartitioned():
            model = load(
                path, merged=False, quantization_config=quantization, **_on_device(path, options["dtype"]), **options
            )
    elif _divides(deepspeed):
        config = _zero3_config(deepspeed, options["dtype"])
        model = _divided(load(path, **options), config)
    else:
        model = load(path, **_on_device(path, options["dtype"]), **options)
    return model.eval().requires_grad_(False)


def _divides(deepspeed: dict[str, Any] | None) -> bool:
    return deepspeed is not None and deepspeed.get("zero_optimization", {}).get("stage") == 3


def _zero3_config(deepspeed: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config of ZeRO-3 for reading, under which transformers divides weights as it loads them."""
    from transformers.integrations import HfDeepSpeedConfig

    global _zero3
    zero = deepspeed["zero_optimization"]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {name: zero[name] for name in _ZERO_FIELDS if zero.get(name) not in (None, "auto")},
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
    }
    _zero3 = HfDeepSpeedConfig(config)
    return config


def _divided(model: "PreTrainedModel", config: dict[str, Any]) -> "PreTrainedModel":
    """The model with each rank's part of the weights, which are gathered layer by layer in a forward."""
    import deepspeed

    return deepspeed.initialize(model=model, config=config)[0].module


def _on_device(path: Path, dtype: str) -> dict[str, Any]:
    """Where weights are loaded to: this rank's GPU, or all GPUs of a single process if they are too large for one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    if not ranks.is_launched() and torch.cuda.device_count() > 1:
        folder = resolve_base(path).path if is_adapter(path) else path
        weights, packed = count_weights(folder)
        size = weights * getattr(torch, dtype).itemsize + packed
        if size * ROOM > torch.cuda.mem_get_info()[0]:
            return {"device_map": "auto"}
    return {"device_map": {"": own_device()}}

"""Models that are only read, by the stages that train nothing: loaded as they were trained, where there is room.

Each rank holds a whole copy on its device; a single process maps a model that is too large for one GPU over all.
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

ROOM = 1.2  # of the size of a model's weights that a GPU must have, with a little for activations


def open_policy(path: Path, **options: Any) -> "PreTrainedModel":
    """A policy, a baseline or a reference: no gradients, no dropout.

    An adapter that was trained on a base in 4 bits is read on that base in 4 bits; any other is merged.

    Args:
        options: of `load.load_whole`; `dtype` is what weights are read in.

    Raises:
        UserError: what `load.load_policy` refuses, or bitsandbytes is missing for a base in 4 bits.
    """
    return _open(load_policy, path, options)


def open_reward_model(path: Path, **options: Any) -> "PreTrainedModel":
    """A reward model, as `open_policy` opens a policy."""
    return _open(load_reward_model, path, options)


def _open(load: "Callable[..., PreTrainedModel]", path: Path, options: dict[str, Any]) -> "PreTrainedModel":
    if is_adapter(path) and adapter_kind(path) == "qlora":
        quantization = build_quantization({"kind": "qlora"}, dtype=options["dtype"])
        with unpartitioned():
            model = load(
                path, merged=False, quantization_config=quantization, **_on_device(path, options["dtype"]), **options
            )
    else:
        model = load(path, **_on_device(path, options["dtype"]), **options)
    return model.eval().requires_grad_(False)


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

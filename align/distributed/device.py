"""Where tensors live."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_of(model: "torch.nn.Module") -> "torch.device":
    """Where inputs for `model` belong."""
    return next(model.parameters()).device


def own_device() -> "torch.device":
    """The accelerator of this rank, or the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

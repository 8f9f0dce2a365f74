"""PPO's losses a token, and their gradients by autograd: pure functions of tensors of one shape.

A caller sums them over its tokens and divides by the number of tokens in the global minibatch, so that neither ranks
nor accumulation steps change the gradient.
"""

import torch
from torch import Tensor


def policy_loss(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate objective, negated.

    Schulman et al. 2017 (arXiv:1707.06347), eq. 7; with epsilon_high > epsilon_low: Yu et al. 2025 (arXiv:2503.14476).

    Returns:
        the loss, and True where the clip cut the gradient off.
    """
    ratio = torch.exp(logps - old_logps)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return torch.maximum(plain, clipped), clipped > plain


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """Half the squared error of the critic, the larger of plain and clipped to `old_values` +- `clip`.

    The clip is that of the reference implementation (openai/baselines ppo2), not of the paper; None leaves it out.

    Returns:
        the loss, and True where the clip cut the gradient off.
    """
    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * plain, torch.zeros_like(plain, dtype=torch.bool)
    clipped = (values.clamp(old_values - clip, old_values + clip) - returns) ** 2
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def approximate_kl(logps: Tensor, old_logps: Tensor) -> Tensor:
    """Half the squared log-ratio of new to old policy: Schulman 2020's k2, what PPO users know as `approxkl`."""
    return 0.5 * (logps - old_logps) ** 2

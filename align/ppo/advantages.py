"""From scores to advantages: pure functions of tensors, the same for any way of padding.

Everything is [episodes, tokens] with a mask that is True on an episode's completion tokens. They are contiguous in a
row, and the padding beside them, on either side, holds any finite number. An episode may have no token at all.
"""

import torch
from torch import Tensor


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values` where `mask`."""
    return torch.where(mask, values, 0.0).sum()


def kl_k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """The estimator log(p/q) of KL(p || q) for tokens drawn from p; unbiased, of either sign.

    Schulman 2020, "Approximating KL divergence" (joschu.net/blog/kl-approx.html), k1.
    """
    return logps - ref_logps


def kl_k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """The estimator q/p - 1 - log(q/p) of KL(p || q) for tokens drawn from p; unbiased and never negative.

    Schulman 2020, k3.
    """
    log_ratio = ref_logps - logps
    return torch.expm1(log_ratio) - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards a token: -beta KL at each, and the episode's score at its last.

    Ouyang et al. 2022 (arXiv:2203.02155), eq. 2, as a reward for each action.

    Args:
        scores: [episodes].
        kl: [episodes, tokens], an estimate of the divergence from the reference at each token, in nats.

    Returns:
        [episodes, tokens], 0 outside the mask. An episode without a token gets no reward.
    """
    rewards = torch.where(mask, -beta * kl, 0.0)
    return rewards + torch.where(last_token(mask), scores[:, None].to(rewards.dtype), 0.0)


def last_token(mask: Tensor) -> Tensor:
    """True on the last token of each episode."""
    after = torch.zeros_like(mask)
    after[:, :-1] = mask[:, 1:]
    return mask & ~after


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation; what comes after the last token is worth nothing.

    Schulman et al. 2016 (arXiv:1506.02438), eq. 16: A_t = sum_l (gamma lam)^l delta_{t+l}, with
    delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    Args:
        rewards, values: [episodes, tokens]; `values[i, t]` belongs to the state in which token t was chosen.

    Returns:
        advantages and returns (advantages + values), [episodes, tokens], 0 outside the mask.
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    following = next_value = values.new_zeros(values.size(0))
    for token in reversed(range(values.size(1))):
        delta = rewards[:, token] + gamma * next_value - values[:, token]
        following = torch.where(mask[:, token], delta + gamma * lam * following, 0.0)
        next_value = values[:, token]
        advantages[:, token] = following
    return advantages, torch.where(mask, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """`values` with variance 1 and, if `shift_mean`, mean 0 over the masked tokens; 0 outside the mask.

    The variance has Bessel's correction; fewer than two tokens have none and are only shifted. Over several ranks,
    call it on all their episodes.
    """
    count = mask.sum()
    mean = masked_sum(values, mask) / count.clamp(min=1)
    variance = masked_sum((values - mean) ** 2, mask) / (count - 1).clamp(min=1)
    scale = torch.where(count > 1, torch.rsqrt(variance + eps), 1.0)
    whitened = (values - mean) * scale
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the masked tokens: 1 is a perfect critic, 0 a constant one.

    NaN where the returns do not vary.
    """
    spread = returns[mask].var(correction=0)
    return torch.where(spread > 0, 1 - (returns - values)[mask].var(correction=0) / spread, torch.nan)

"""From a rollout's rewards to what its update learns from, and the numbers that a person watches meanwhile."""

import math

import torch
from torch import Tensor

from align.errors import UserError
from align.ppo.advantages import (
    explained_variance,
    generalized_advantages,
    kl_k1,
    masked_sum,
    token_rewards,
    whiten,
)
from align.ppo.config import PPOConfig
from align.ppo.control import RunningMoments
from align.ppo.rollout import Rollout


def shape_scores(
    rollout: Rollout, args: PPOConfig, weights: Tensor, moments: RunningMoments, *, learn: bool
) -> Tensor:
    """One score an episode: weighted sum, normalised, clipped, less the penalties, in this order.

    Args:
        weights: [reward functions]; one that does not apply to an episode (NaN) adds nothing.
        moments: of all scores so far; `learn` takes these in.
    """
    scores = (rollout.rewards * weights).nansum(dim=1)
    if args.normalize_scores:
        if learn:
            moments.update(scores.tolist())
        scores = (scores - moments.mean) / moments.std
    if args.reward_clip_range:
        scores = scores.clamp(*args.reward_clip_range)
    if args.missing_eos_penalty is not None:
        scores = torch.where(rollout.ended, scores, scores - args.missing_eos_penalty)
    return scores - args.length_penalty * rollout.lengths


def shape(rollout: Rollout, scores: Tensor, args: PPOConfig, beta: float) -> dict[str, float]:
    """Fill in a rollout's scores, mask, advantages and returns, and give its metrics, under the names PPO users know.

    Args:
        beta: the KL coefficient now.

    Raises:
        UserError: the KL is no number.
    """
    mask = torch.arange(rollout.logps.size(1)) < rollout.lengths[:, None]
    kl = torch.where(mask, kl_k1(rollout.logps, rollout.ref_logps), 0.0)
    mean_kl = kl.sum(1).mean().item()
    if not math.isfinite(mean_kl):
        raise UserError(
            f"the KL to the reference is {mean_kl}: the policy's log-probabilities are no numbers any more. The last "
            "checkpoint is good; look at trainer.learning_rate, trainer.max_grad_norm and objective/scores before it"
        )
    in_reward = beta if args.kl_estimator == "k1" else 0.0
    rewards = token_rewards(scores, kl, mask, in_reward)
    learnt = mask & rollout.ended[:, None] if args.mask_truncated_completions else mask
    if args.whiten_rewards:
        rewards = whiten(rewards, learnt, shift_mean=False)
    advantages, returns = generalized_advantages(rewards, rollout.values, mask, args.gamma, args.lam)
    rollout.scores, rollout.mask, rollout.returns = scores, learnt, returns
    rollout.advantages = whiten(advantages, learnt) if args.normalize_advantages else advantages
    non_score = (-in_reward * kl).sum(1)
    return {
        "objective/kl": mean_kl,
        "objective/entropy": masked_sum(-rollout.logps, mask).item() / len(rollout),
        "objective/non_score_reward": non_score.mean().item(),
        "objective/rlhf_reward": (non_score + scores).mean().item(),
        "objective/scores": scores.mean().item(),
        "val/explained_variance": explained_variance(rollout.values, returns, mask).item(),
        "kl_coef": beta,
    }

"""Proximal policy optimization, on TRL's online trainer: `from align.ppo import PPOConfig, PPOTrainer`."""

from align.ppo.config import PPOConfig
from align.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]

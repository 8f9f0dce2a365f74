"""Who scores a policy's own completions: reward models, and functions that the config names.

Reward functions that a config can name as they are: `online.reward_functions=[align.rewards.math_answer]`.
"""

from align.rewards.answers import exact_answer, math_answer
from align.rewards.shapes import format, overlong, repetition

__all__ = ["exact_answer", "format", "math_answer", "overlong", "repetition"]

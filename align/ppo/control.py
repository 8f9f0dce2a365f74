"""Numbers that follow a run: the KL coefficient and the running moments of scores; both travel in a checkpoint."""

import math
from dataclasses import asdict, dataclass


@dataclass
class KLController:
    """The KL coefficient, fixed, or moved towards a target.

    Ziegler et al. 2019 (arXiv:1909.08593), section 2.2: e = clip((KL - target) / target, -0.2, 0.2) and
    beta <- beta (1 + K e), with K = episodes / horizon as in their code (openai/lm-human-preferences,
    `AdaptiveKLController`).

    Attributes:
        beta: the coefficient now.
        target: KL of a whole completion in nats; None keeps beta.
        horizon: episodes.
    """

    beta: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, episodes: int) -> None:
        """Take in the mean KL of a rollout of `episodes` completions."""
        if self.target is not None:
            error = min(max((kl - self.target) / self.target, -0.2), 0.2)
            self.beta *= 1 + error * episodes / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"beta": self.beta}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.beta = state["beta"]


@dataclass
class RunningMoments:
    """Mean and standard deviation of every score so far, batch by batch (Chan et al. 1983)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean

    def update(self, scores: list[float]) -> None:
        """Take in a rollout's scores, those of all ranks."""
        count = len(scores)
        if not count:
            return
        mean = math.fsum(scores) / count
        shift, total = mean - self.mean, self.count + count
        self.squares += math.fsum((score - mean) ** 2 for score in scores) + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        """With Bessel's correction; 1 before there are two different scores."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 and self.squares > 0 else 1.0

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]

"""The statistics of an evaluation: intervals, win rates, calibration. Pure functions of numbers."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(differences: list[float], *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean of paired differences (Efron 1979; Koehn 2004 for paired systems).

    Args:
        differences: one number a prompt: this model's score minus the baseline's on the same prompt.
        resamples: bootstrap samples.
        seed: of the resampling.
    """
    import numpy

    if not differences:
        return Interval(math.nan, math.nan, math.nan)
    values = numpy.asarray(differences, dtype=numpy.float64)
    generator = numpy.random.default_rng(seed)
    means = numpy.empty(resamples)
    for start in range(0, resamples, 1000):
        picks = generator.integers(0, len(values), size=(min(1000, resamples - start), len(values)))
        means[start : start + 1000] = values[picks].mean(axis=1)
    low, high = numpy.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def wins(scores: list[float], baseline: list[float]) -> list[float]:
    """For each prompt 1 where it was won against the baseline, a half for a tie, 0 where it was lost."""
    return [
        1.0 if ours > theirs else 0.5 if ours == theirs else 0.0 for ours, theirs in zip(scores, baseline, strict=True)
    ]


def sigmoid(value: float) -> float:
    """Logistic function, without overflow."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def preference_metrics(margins: list[float], *, bins: int = 10) -> dict[str, float]:
    """How well reward margins agree with preferences (Bradley-Terry: P(chosen wins) = sigmoid(margin)).

    Args:
        margins: chosen score minus rejected score, one a pair.
        bins: equal-width bins of confidence for the calibration error.

    Returns:
        accuracy (a zero margin is half right); margin, its mean; nll, the mean negative log-likelihood in nats; ece,
        the expected calibration error of the predicted winner (Guo et al. 2017); brier, the mean squared error of the
        winner's probability.
    """
    if not margins:
        return {}
    count = len(margins)
    accuracy = sum(1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins) / count
    # The predicted winner's probability, and whether it won.
    calls = [(sigmoid(abs(m)), 1.0 if m > 0 else 0.5 if m == 0 else 0.0) for m in margins]
    ece = 0.0
    for index in range(bins):
        low, high = 0.5 + index / (2 * bins), 0.5 + (index + 1) / (2 * bins)
        inside = [(p, won) for p, won in calls if low <= p < high or (index == bins - 1 and p == 1.0)]
        ece += abs(sum(p - won for p, won in inside)) / count
    return {
        "accuracy": accuracy,
        "margin": sum(margins) / count,
        "nll": sum(math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins) / count,
        "ece": ece,
        "brier": sum((p - won) ** 2 for p, won in calls) / count,
    }

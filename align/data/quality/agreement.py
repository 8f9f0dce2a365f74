"""How far annotators agree, and how well length alone tells chosen from rejected."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def krippendorff_alpha(votes: Iterable[Sequence[int]]) -> float | None:
    """Krippendorff's alpha for nominal values, units with one vote left out: 1 is perfect, 0 is chance.

    None where no two votes can be compared, or all votes are one value. Krippendorff, Content Analysis (2004), ch. 11.
    """
    coincidences: Counter[tuple[int, int]] = Counter()
    for unit in votes:
        count = len(unit)
        if count < 2:
            continue
        values = Counter(unit)
        for one, times in values.items():
            for other, others in values.items():
                coincidences[one, other] += times * (others - (one == other)) / (count - 1)
    totals: Counter[int] = Counter()
    for (one, _), weight in coincidences.items():
        totals[one] += weight
    n = sum(totals.values())
    expected = sum(totals[a] * totals[b] for a in totals for b in totals if a != b) / (n - 1) if n > 1 else 0
    if not expected:
        return None
    observed = sum(weight for (one, other), weight in coincidences.items() if one != other)
    return 1 - observed / expected


def pairwise_agreement(votes: Iterable[Sequence[int]]) -> float | None:
    """The share of pairs of votes on one unit that are equal."""
    equal = pairs = 0
    for unit in votes:
        count = len(unit)
        pairs += count * (count - 1) // 2
        equal += sum(times * (times - 1) // 2 for times in Counter(unit).values())
    return equal / pairs if pairs else None


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that a positive is larger than a negative, ties half (the area under the ROC curve)."""
    both = np.concatenate([positive, negative]).astype(np.float64)
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m)) if n and m else 0.5


def wilson(count: float, of: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share (Wilson's)."""
    if not of:
        return 0.0, 1.0
    share, rest = count / of, z * z / of
    middle = (share + rest / 2) / (1 + rest)
    spread = z * ((share * (1 - share) + rest / 4) / of) ** 0.5 / (1 + rest)
    return middle - spread, middle + spread

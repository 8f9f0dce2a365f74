"""Findings about what a dataset teaches by accident: label balance, length, position, disagreement."""

from typing import TYPE_CHECKING, Any

import numpy as np

from align.data.quality.agreement import auc, krippendorff_alpha, pairwise_agreement, wilson
from align.data.quality.findings import Finding
from align.data.quality.inspection import Inspection

if TYPE_CHECKING:
    pass


def judgement_findings(seen: Inspection, findings: list[Finding], statistics: dict[str, Any]) -> None:
    shown = seen.positions[1] + seen.positions[2]
    if shown:
        low, high = wilson(seen.positions[1], shown)
        share = seen.positions[1] / shown
        statistics["first answer is better"] = f"{share:.1%} of {shown} verdicts [{low:.1%}, {high:.1%}]"
        if shown >= 30 and not low <= 0.5 <= high and abs(share - 0.5) > 0.05:
            findings.append(
                Finding(
                    "position_bias",
                    "warning",
                    max(seen.positions[1], seen.positions[2]),
                    shown,
                    f"verdicts prefer the {'first' if share > 0.5 else 'second'} answer: were the answers shown in "
                    "random order?",
                    "show annotators both orders; the pairs themselves have no order",
                )
            )
    if seen.votes:
        alpha, agreed = krippendorff_alpha(seen.votes), pairwise_agreement(seen.votes)
        unanimous = sum(len(set(unit)) == 1 for unit in seen.votes) / len(seen.votes)
        statistics["annotators"] = {
            "rows": len(seen.votes),
            "two agree": f"{agreed:.1%}",
            "all agree": f"{unanimous:.1%}",
            "Krippendorff's alpha": "undefined" if alpha is None else alpha,
        }
        if alpha is not None and alpha < 0.4:
            count = sum(len(set(unit)) > 1 for unit in seen.votes)
            message = f"rows on which annotators disagree; alpha is {alpha:.2f}, below 0.4 labels are mostly taste"
            findings.append(Finding("agreement", "warning", count, len(seen.votes), message))
    if seen.labels:
        good, bad = seen.labels[True], seen.labels[False]
        statistics["labels"] = {"good": good, "bad": bad, **kto_weights(good, bad)}
        total = good + bad
        if min(good, bad) * 4 < max(good, bad):
            weights = kto_weights(good, bad)
            remedy = " ".join(f"trainer.{name}={value:.3g}" for name, value in weights.items())
            message = "of one label: the other one is so rare that it is hardly learned"
            findings.append(Finding("label_balance", "warning", max(good, bad), total, message, f"stage=kto {remedy}"))
    if seen.margins:
        statistics["margins"] = f"{seen.margins} of {len(seen.row)} pairs: stage reward trains for that difference"


def score_findings(
    seen: Inspection, findings: list[Finding], statistics: dict[str, Any], histograms: dict[str, dict[str, Any]]
) -> None:
    """What a reward model's scores say of the labels: how far they agree, and where they disagree most."""
    scores = {side: np.frombuffer(values) for side, values in seen.scores.items()}
    if not scores:
        return
    for side, values in scores.items():
        statistics[f"{side} scores"] = {
            "mean": float(values.mean()),
            "spread": float(values.std()),
            "lowest": float(values.min()),
            "highest": float(values.max()),
        }
    histograms["Scores per side"] = histogram_of(
        scores, low=min(float(np.percentile(one, 1)) for one in scores.values())
    )
    if "good" in scores and "bad" in scores:
        statistics["scores tell good from bad"] = f"AUC {auc(scores['good'], scores['bad']):.3f}"
    if "chosen" not in scores:
        return
    margins = scores["chosen"] - scores["rejected"]
    against = int((margins < 0).sum())
    low, high = wilson(int((margins > 0).sum()), len(margins))
    statistics["scores agree with the pairs"] = f"{(margins > 0).mean():.1%} of {len(margins)} [{low:.1%}, {high:.1%}]"
    if against:
        findings.append(
            Finding(
                "score_disagrees",
                "info",
                against,
                len(margins),
                "pairs whose rejected answer has the higher reward score, largest difference first: a wrong label, "
                "or something the reward model has not learned",
                "read the first ones; align data make --min-margin 0 leaves all of them out",
                tuple(place for _, place, _ in seen.disagreements),
                tuple((place, text) for _, place, text in seen.disagreements[:5]),
            )
        )


def kto_weights(good: int, bad: int) -> dict[str, float]:
    """Weights that bring good x weight : bad x weight to 1:1 (KTO wants it from 1:1 to 4:3), the larger label's 1."""
    if not good or not bad:
        return {}
    return {"desirable_weight": max(1.0, bad / good), "undesirable_weight": max(1.0, good / bad)}


def length_findings(
    seen: Inspection, findings: list[Finding], statistics: dict[str, Any], histograms: dict[str, dict[str, Any]]
) -> None:
    sides = {side: seen.lengths(side) for side in seen.side_lengths}
    for side, lengths in sides.items():
        low, middle, high = (float(np.percentile(lengths, part)) for part in (5, 50, 95))
        told = {"median": round(middle), "5% below": round(low), "95% below": round(high), "longest": lengths.max()}
        statistics[f"{side} characters"] = {name: int(value) for name, value in told.items()}
    if sides:
        histograms["Characters per side"] = histogram_of(sides)
    chosen, rejected = sides.get("chosen"), sides.get("rejected")
    if chosen is None or rejected is None:
        return
    longer, equal, pairs = int((chosen > rejected).sum()), int((chosen == rejected).sum()), len(chosen)
    accuracy = (longer + equal / 2) / pairs
    low, high = wilson(longer + equal / 2, pairs)
    difference = chosen.astype(np.int64) - rejected.astype(np.int64)
    statistics["chosen is longer"] = f"{longer / pairs:.1%} of {pairs} pairs, equal {equal}"
    told, interval = (accuracy, (low, high)) if accuracy >= 0.5 else (1 - accuracy, (1 - high, 1 - low))
    statistics["length alone tells"] = (
        f"{told:.1%} of pairs [{interval[0]:.1%}, {interval[1]:.1%}], AUC {auc(chosen, rejected):.3f}"
    )
    edge = max(10, int(np.percentile(np.abs(difference), 98)))
    clipped = np.clip(difference, -edge, edge)
    counts, edges = np.histogram(clipped, bins=np.linspace(-edge, edge, 41))
    histograms["Chosen minus rejected, characters"] = {
        "edges": [round(float(one)) for one in edges],
        "series": {"pairs": counts.tolist()},
    }
    if pairs >= 50 and abs(accuracy - 0.5) >= 0.1 and not low <= 0.5 <= high:
        side = "longer" if accuracy > 0.5 else "shorter"
        findings.append(
            Finding(
                "length_bias",
                "warning",
                round(max(accuracy, 1 - accuracy) * pairs),
                pairs,
                f"pairs in which the {side} answer is chosen: a reward model may learn length instead of quality",
                "compare a reward model's accuracy with this share; balance lengths, or use a length penalty",
            )
        )


def histogram_of(sides: dict[str, np.ndarray], low: float = 0.0) -> dict[str, Any]:
    """Counts over edges that the sides share; what is beyond `low` and the 99th percentile is in the outer bins."""
    top = max(float(np.percentile(values, 99)) for values in sides.values())
    whole = all(values.dtype.kind in "iu" for values in sides.values())
    top = max(10.0, top) if whole else max(top, low + 1e-6)
    bins = int(np.clip(2 * max(map(len, sides.values())) ** 0.5, 8, 40))  # few records make no fine picture
    edges = np.linspace(low, top, bins + 1)
    series = {side: np.histogram(np.clip(values, low, top), bins=edges)[0].tolist() for side, values in sides.items()}
    return {"edges": [round(float(one)) if whole else round(float(one), 3) for one in edges], "series": series}

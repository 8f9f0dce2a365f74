"""Which numbers speak for a version or a run: what its stage declares, or what their names tell; and conditions.

A headline names metrics, the most telling first, each with the direction in which it is better. `*` stands for a part
that differs from run to run: `*/gold` of an evaluation is the gold score of the best model in it.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from align.artifacts.text import short_number
from align.errors import UserError
from align.stages.spec import STAGES

MAX, MIN = "max", "min"


@dataclass(frozen=True)
class Metric:
    """A metric, or several by a pattern with `*`, and the direction in which it is better."""

    name: str
    better: str  # MAX or MIN

    def best(self, metrics: Mapping[str, float]) -> str | None:
        """The name of the best of the metrics that this one means; None if there is none."""
        names = [name for name in metrics if fnmatchcase(name, self.name)]
        if not names:
            return None
        return (max if self.better == MAX else min)(names, key=lambda name: metrics[name])

    def sort_key(self, metrics: Mapping[str, float]) -> tuple[bool, float]:
        """Sorts the best first, and what lacks the metric, or has NaN for it, last."""
        name = self.best(metrics)
        value = metrics[name] if name is not None else float("nan")
        return (value != value, -value if self.better == MAX else value)


# stage -> the metrics that speak for it, as the stages declare them
HEADLINES: dict[str, tuple[Metric, ...]] = {
    name: tuple(Metric(headline.metric, MAX if headline.higher else MIN) for headline in spec.headlines)
    for name, spec in STAGES.items()
    if spec.headlines
}
# What speaks for a stage that declares nothing, by what names contain, the most telling first ...
_TELLING = ("gold", "win_rate", "accurac", "eval_loss", "loss", "reward", "perplexity", "records")
# ... and what never does: clocks, counters, and the spread of a metric in place of its value.
_CLOCKWORK = ("runtime", "per_second", "epoch", "step", "flos", "num_tokens", "time", "overlong", "refused", "_rows")
_SPREAD = re.compile(r"(^|[/_])(std|min|max)([/_]|$)")
_LOWER_IS_BETTER = re.compile(r"loss|perplexity|nll|ece|brier|error|(^|[/_])kl([/_]|$)")


def flat(metrics: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested metrics as one level, names joined with "/"."""
    found: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{key}/")
        else:
            found[f"{above}{key}"] = value
    return found


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among nested metrics, one level; also those that JSON has to write as text, such as "nan"."""
    found = {}
    for name, value in flat(metrics).items():
        if isinstance(value, str) and value in ("nan", "inf", "-inf"):
            value = float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


def headline(stage: str | None, metrics: Mapping[str, float], count: int = 2) -> list[str]:
    """The names of the metrics that speak for a run of `stage`, the most telling first.

    Args:
        metrics: as `numbers` gives them.
    """
    declared = [metric.best(metrics) for metric in HEADLINES.get(stage or "", ())]
    chosen = list(dict.fromkeys(name for name in declared if name is not None))
    if not chosen and stage not in HEADLINES:
        chosen = sorted((name for name in metrics if _speaks(name)), key=lambda name: (_place(name), len(name)))
    return chosen[:count]


def key_metrics(stage: str | None, metrics: Mapping[str, float], count: int = 2, first: Sequence[str] = ()) -> str:
    """A headline as `name=value name=value`; the metrics named in `first` come before it."""
    names = dict.fromkeys([*(name for name in first if name in metrics), *headline(stage, metrics, count)])
    return " ".join(f"{name}={short_number(metrics[name])}" for name in names)


def named_metric(text: str, stage: str | None = None) -> Metric:
    """The metric that a user names, `eval_loss` or `eval_loss:min`; without a direction, the usual one of its name.

    Raises:
        UserError: the direction is neither min nor max.
    """
    name, colon, better = text.rpartition(":")
    if colon and better in (MAX, MIN) and name:
        return Metric(name, better)
    if colon and "/" not in better and "*" not in better and not re.fullmatch(r"v\d+", better):
        raise UserError(f"metric {text!r} ends in neither :min nor :max; write {name}:max if more is better")
    declared = [metric for metric in HEADLINES.get(stage or "", ()) if metric.name == text]
    declared += [metric for each in HEADLINES.values() for metric in each if metric.name == text]
    if declared:
        return declared[0]
    return Metric(text, MIN if _LOWER_IS_BETTER.search(text) else MAX)


_COMPARISONS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}
_CONDITION = re.compile(r"\s*(?P<name>[^<>=!\s]+)\s*(?P<sign><=|>=|!=|==|<|>|=)\s*(?P<value>\S+)\s*")


@dataclass(frozen=True)
class Condition:
    """A condition on a metric, such as `eval_loss<0.5`; the pattern `*/gold>0.5` holds if it holds for any of them."""

    name: str
    sign: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """The condition that a user writes; UserError if it is none."""
        match = _CONDITION.fullmatch(text)
        try:
            return cls(match["name"], match["sign"], float(match["value"]))
        except (TypeError, ValueError):
            raise UserError(
                f"{text!r} is not a condition; write a metric, a comparison and a number, such as 'eval_loss<0.5'"
            ) from None

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether a metric of that name fulfils it; False where there is none."""
        compare = _COMPARISONS[self.sign]
        return any(compare(metrics[name], self.value) for name in metrics if fnmatchcase(name, self.name))


def _speaks(name: str) -> bool:
    lowered = name.lower()
    return not _SPREAD.search(lowered) and not any(word in lowered for word in _CLOCKWORK)


def _place(name: str) -> int:
    return next((place for place, word in enumerate(_TELLING) if word in name.lower()), len(_TELLING))

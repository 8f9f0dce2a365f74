"""What a list shows of a version, small enough to be kept for ten thousand of them."""

from dataclasses import dataclass
from typing import Any

from align.artifacts.manifest import Manifest
from align.artifacts.text import short_number

# The metrics that a table has room for, by what their names contain, most telling first.
_TELLING = ("gold", "win_rate", "accurac", "eval_loss", "loss", "reward", "perplexity")
_CLOCKWORK = ("runtime", "per_second", "epoch", "step", "flos", "num_tokens", "time")


@dataclass(slots=True)
class Summary:
    """One version in a list."""

    number: int
    kind: str  # `model`, or `dataset/preference` where there is a format
    size: int  # bytes
    ended: str | None  # ISO 8601, UTC
    identity: str | None
    metrics: str  # the few most telling, as `name=value`
    parents: list[str]  # refs, each once

    @classmethod
    def of(cls, manifest: Manifest) -> "Summary":
        parents = list(dict.fromkeys(record["ref"] for _, record in manifest.each_input()))
        return cls(
            manifest.version,
            kind(manifest),
            manifest.size,
            manifest.ended,
            manifest.identity,
            key_metrics(manifest.metrics),
            parents,
        )


def kind(manifest: Manifest) -> str:
    """`model`, or `dataset/preference` where there is a format."""
    return f"{manifest.type}/{manifest.format}" if manifest.format else manifest.type


def flat(metrics: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested metrics as one level, names joined with "/"."""
    found: dict[str, Any] = {}
    for key, value in metrics.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{key}/")
        else:
            found[f"{above}{key}"] = value
    return found


def key_metrics(metrics: dict[str, Any], count: int = 2) -> str:
    """The few most telling numbers, as `name=value`."""

    def place(name: str) -> int:
        return next((at for at, word in enumerate(_TELLING) if word in name.lower()), len(_TELLING))

    numbers = {
        name: value
        for name, value in flat(metrics).items()
        if isinstance(value, int | float) and not any(word in name.lower() for word in _CLOCKWORK)
    }
    chosen = sorted(numbers, key=lambda name: (place(name), len(name)))[:count]
    return " ".join(f"{name}={short_number(numbers[name])}" for name in chosen)

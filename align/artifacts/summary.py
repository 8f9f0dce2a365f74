"""What a list shows of a version, small enough to be kept for ten thousand of them."""

from dataclasses import dataclass

from align.artifacts.manifest import Manifest
from align.artifacts.metrics import key_metrics, numbers


@dataclass(slots=True)
class Summary:
    """One version in a list."""

    number: int
    kind: str  # `model`, or `dataset/preference` where there is a format
    size: int  # bytes
    ended: str | None  # ISO 8601, UTC
    identity: str | None
    stage: str | None  # what made it
    headline: str  # the metrics that speak for it, as `name=value name=value`
    parents: list[str]  # refs, each once
    metrics: dict[str, float] | None = None  # all that are numbers, one level; None where nobody asked for them

    @classmethod
    def of(cls, manifest: Manifest) -> "Summary":
        parents = list(dict.fromkeys(record["ref"] for _, record in manifest.each_input()))
        stage = stage_of(manifest)
        metrics = numbers(manifest.metrics)
        return cls(
            manifest.version,
            kind(manifest),
            manifest.size,
            manifest.ended,
            manifest.identity,
            stage,
            key_metrics(stage, metrics),
            parents,
            metrics,
        )


def kind(manifest: Manifest) -> str:
    """`model`, or `dataset/preference` where there is a format."""
    return f"{manifest.type}/{manifest.format}" if manifest.format else manifest.type


def stage_of(manifest: Manifest) -> str | None:
    """The stage that made a version, or the command, such as `import`; None where the manifest does not say."""
    stage = manifest.notes.get("stage")
    return stage if isinstance(stage, str) else None

"""A published version, and what it was made from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align.artifacts.manifest import MODEL_TYPES, Manifest


@dataclass(frozen=True)
class Version:
    """One published version."""

    name: str
    number: int
    path: Path
    manifest: Manifest

    @property
    def ref(self) -> str:
        """`sft:v2`, what to hand on: it never means anything else later."""
        return f"{self.name}:v{self.number}"

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def model_dir(self) -> Path:
        """Where a model's weights and tokenizer are."""
        return self.path / "model"

    @property
    def content_dir(self) -> Path:
        """What a stage opens: `model_dir` for models, the version's own folder for the other types."""
        return self.model_dir if self.manifest.type in MODEL_TYPES else self.path


@dataclass(frozen=True)
class Parent:
    """One input of a version: what its manifest recorded, and the version itself where this store still has it."""

    role: str
    record: dict[str, Any]
    version: Version | None

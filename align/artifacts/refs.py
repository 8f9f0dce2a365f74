"""How an artifact is named: `sft:v2`, `sft:latest`, or `sft`, which means `sft:latest`."""

import re
from dataclasses import dataclass

from align.errors import UserError

HUB_PREFIX = "hf:"
LATEST = "latest"
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}", re.ASCII)
_VERSION = re.compile(r"v0*([1-9][0-9]{0,8})", re.ASCII)
_VERSION_LIKE = re.compile(r"v?[0-9]+", re.ASCII)


def is_ref(text: str) -> bool:
    """Whether `text` names an artifact; the others are hub repositories (`hf:org/model@revision`) and paths.

    A path has a "/" in it or starts with ".": a file here is `./rows.jsonl`.
    """
    return not (text.startswith((HUB_PREFIX, ".")) or "/" in text)


def check_word(word: str, what: str) -> str:
    """The word itself if it may name an artifact or an alias (`what` says which), else UserError.

    Words become folder names, so only ASCII that means the same on every file system passes.
    """
    if not _WORD.fullmatch(word) or ".." in word:
        raise UserError(
            f"{what} {word!r} is not allowed: use a-z, 0-9, '.', '_' and '-', starting with a letter or a digit, "
            "without '..', at most 128 characters"
        )
    return word


def check_name(name: str) -> str:
    """The name itself if an artifact may be called so, else UserError."""
    if name == HUB_PREFIX.rstrip(":"):
        raise UserError(f"artifact name {name!r} is not allowed: {HUB_PREFIX} marks a Hugging Face repository")
    return check_word(name, "artifact name")


def check_alias(alias: str) -> str:
    """The alias itself if it can be told from a version, else UserError."""
    if _VERSION_LIKE.fullmatch(alias):
        raise UserError(f"alias {alias!r} reads like a version: versions are v1, v2, ..., an alias is a word")
    return check_word(alias, "alias")


@dataclass(frozen=True)
class Ref:
    """A parsed reference: exactly one of `version` (counted from 1) and `alias` is set."""

    name: str
    version: int | None
    alias: str | None

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """`sft:v2`, `sft:latest` or `sft`; anything else is a UserError that says what a ref looks like."""
        name, colon, selector = text.partition(":")
        try:
            check_name(name)
            if not colon:
                return cls(name, None, LATEST)
            if version := _VERSION.fullmatch(selector):
                return cls(name, int(version[1]), None)
            return cls(name, None, check_alias(selector))
        except UserError as error:
            raise UserError(f"{text!r} is not an artifact reference such as sft:v2 or sft:latest: {error}") from None

    def __str__(self) -> str:
        return f"{self.name}:{self.alias if self.version is None else f'v{self.version}'}"


def ranges(numbers: list[int]) -> list[str]:
    """[1, 2, 3, 7] as v1-v3, v7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ["-".join(f"v{end}" for end in part) for part in parts]

"""What a tokenizer reads and writes, from its files alone: its vocabulary, its special tokens, its chat template.

Two models whose tokenizers have drifted apart are not compared, and a run is not handed a template other than the one
that its model was trained with, unless the config accepts it: `model.accept_drift=[chat_template]`.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from align.artifacts.disk import read_regular, unreadable
from align.artifacts.manifest import json_digest
from align.artifacts.model_json import read_json
from align.errors import UserError

LARGEST_TEMPLATE = 1_000_000  # bytes
ASPECTS = ("vocabulary", "special_tokens", "chat_template")
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


def fingerprint(folder: Path) -> dict[str, Any]:
    """What the manifest of a model keeps of its tokenizer: digests of vocabulary and template, and special tokens."""
    template = chat_template(folder)
    return {
        "tokens": len(vocabulary(folder)),
        "vocabulary": json_digest([sorted(vocabulary(folder).items()), merges(folder)]),
        "special_tokens": {role: [token, number] for role, (token, number) in special_tokens(folder).items()},
        "chat_template": None if template is None else hashlib.sha256(template.strip().encode()).hexdigest(),
    }


def drift(ours: Path, theirs: Path) -> dict[str, str]:
    """Aspect -> how two tokenizers differ in it, in words; what one of them does not have is no difference."""
    found = {}
    if words := _vocabulary_drift(vocabulary(ours), vocabulary(theirs)):
        found["vocabulary"] = words
    elif merges(ours) != merges(theirs):
        found["vocabulary"] = "the tokens are the same and the merges that make them are not"
    one, two = special_tokens(ours), special_tokens(theirs)
    if differ := [role for role in _ROLES if role in one and role in two and one[role] != two[role]]:
        found["special_tokens"] = "; ".join(f"{role} {_token(one[role])} / {_token(two[role])}" for role in differ)
    if words := template_drift(chat_template(ours), chat_template(theirs)):
        found["chat_template"] = words
    return found


def template_drift(ours: str | None, theirs: str | None) -> str | None:
    """Where two chat templates first differ, None where they do not or one is missing."""
    if ours is None or theirs is None or ours.strip() == theirs.strip():
        return None
    pairs = itertools.zip_longest(ours.strip().splitlines(), theirs.strip().splitlines(), fillvalue="")
    line, (one, two) = next((at, pair) for at, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
    begin = max(next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), 0) - 20, 0)
    return f"line {line} of the template has {_cut(one, begin)} / {_cut(two, begin)}"


def vocabulary(folder: Path) -> dict[str, int]:
    """Token -> id, added tokens among them; empty for a tokenizer without tokenizer.json."""
    body = _tokenizer(folder)
    given = body.get("model", {}).get("vocab") or {}
    # Unigram models keep a list of (token, score)
    tokens = dict(given) if isinstance(given, dict) else {one[0]: number for number, one in enumerate(given)}
    return tokens | {one["content"]: one["id"] for one in body.get("added_tokens", [])}


def merges(folder: Path) -> list[list[str]]:
    """The merges of a BPE model, in order."""
    given = _tokenizer(folder).get("model", {}).get("merges") or []
    return [one.split(" ") if isinstance(one, str) else list(one) for one in given]


def special_tokens(folder: Path) -> dict[str, tuple[str, int | None]]:
    """Role -> the token and its id, of the roles that the files name."""
    named = {**read_json(folder / "special_tokens_map.json"), **read_json(folder / "tokenizer_config.json")}
    tokens = vocabulary(folder)
    found = {}
    for role in _ROLES:
        token = named.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            found[role] = (token, tokens.get(token))
    return found


def chat_template(folder: Path) -> str | None:
    """The text of a tokenizer's chat template; of several named ones, the default."""
    file = folder / "chat_template.jinja"
    if os.path.lexists(file):
        return _read_template(file)
    for name in ("chat_template.json", "tokenizer_config.json"):
        given = read_json(folder / name).get("chat_template")
        if isinstance(given, list):
            given = next((one["template"] for one in given if one.get("name") == "default"), None)
        if given is not None:
            return given
    return None


def chat_templates(folder: Path) -> list[str]:
    """Every chat template that transformers may render of a tokenizer: with tools it may take another one."""
    found = [template] if (template := chat_template(folder)) is not None else []
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found.append(_read_template(file))
    for name in ("chat_template.json", "tokenizer_config.json"):
        given = read_json(folder / name).get("chat_template")
        found += [one["template"] for one in given] if isinstance(given, list) else [given] if given else []
    return list(dict.fromkeys(found))


def _read_template(file: Path) -> str:
    try:
        return read_regular(file, LARGEST_TEMPLATE).decode("utf-8")
    except OSError as error:
        raise unreadable(file, error) from None
    except ValueError as error:
        raise UserError(f"{file} is not a chat template ({error}); fetch the model again") from None


def _tokenizer(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer.json"
    return _read_tokenizer(file, file.stat().st_mtime_ns) if file.is_file() else {}


@cache
def _read_tokenizer(file: Path, changed: int) -> dict[str, Any]:
    """A tokenizer.json, some megabytes of it, read once."""
    return read_json(file)


def _vocabulary_drift(ours: dict[str, int], theirs: dict[str, int]) -> str | None:
    if not ours or not theirs or ours == theirs:
        return None
    words = [f"{len(ours)} / {len(theirs)} tokens"] if len(ours) != len(theirs) else []
    for name, extra in (("only the first has", ours.keys() - theirs), ("only the second has", theirs.keys() - ours)):
        if extra:
            words.append(f"{name} {_some(extra)}")
    moved = sorted(token for token in ours.keys() & theirs if ours[token] != theirs[token])
    if moved:
        words.append(f"{len(moved)} have other ids, as {moved[0]!r} {ours[moved[0]]} / {theirs[moved[0]]}")
    return "; ".join(words)


def _some(tokens: Iterable[str]) -> str:
    chosen = sorted(tokens)
    more = f" and {len(chosen) - 3} more" if len(chosen) > 3 else ""
    return ", ".join(map(repr, chosen[:3])) + more


def _token(found: tuple[str, int | None]) -> str:
    return f"{found[0]} ({found[1]})"


def _cut(line: str, begin: int) -> str:
    return repr(("..." if begin else "") + line[begin : begin + 60] + ("..." if len(line) > begin + 60 else ""))

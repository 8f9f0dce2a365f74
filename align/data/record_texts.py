"""The texts of a record side by side, and what makes two records the same."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from align.records import Content, Record, Text, prompt_key


def sides_of(record: Record) -> dict[str, Content]:
    """prompt, chosen, ... or text -> what is there."""
    if isinstance(record, Text):
        return {"text": record.content}
    names = ("prompt", "completion", "chosen", "rejected")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


def flat(content: Content) -> str:
    """The words of a side, messages one after the other."""
    if isinstance(content, str):
        return content
    return "\n".join(message.get("content") or "" for message in content)


def spoken(content: Content) -> str:
    """A side as a person reads it: who says what, where it is more than one message."""
    if isinstance(content, str) or len(content) == 1:
        return flat(content)
    return "\n\n".join(f"{message['role']}: {message.get('content') or ''}" for message in content)


def role_problem(turns: list[dict[str, Any]]) -> str | None:
    """What is wrong with the order of roles: system first and once, then user and assistant in turn."""
    roles = [message["role"] for message in turns]
    if "system" in roles[1:]:
        return f"system at turn {roles.index('system', 1)}"
    roles = roles[1:] if roles and roles[0] in ("system", "developer") else roles
    if roles and roles[0] != "user":
        return f"starts with {roles[0]}"
    for position, (one, following) in enumerate(zip(roles, roles[1:], strict=False)):
        fits = {"user": ("assistant",), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}
        if following not in fits.get(one, ()):
            return f"{following} after {one} at turn {position + 1}"
    return None


def strings_in(value: Any, depth: int = 0) -> Iterable[str]:
    """Every string in a row of any layout."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list) and depth < 20:
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings_in(one, depth + 1)


def text_hash(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def record_hash(record: Record) -> int:
    """The same for records that say the same, within a process."""
    return hash(json.dumps(record.to_row(), sort_keys=True))


def pair_hash(record: Record) -> int:
    """The same for a pair and the pair turned round, and for an answer with either label; within a process."""
    row = record.to_row()
    answers = sorted(json.dumps(row[side]) for side in ("completion", "chosen", "rejected") if side in row)
    return hash((prompt_key(record), *answers))


def fraction(record: Record) -> float:
    """A number in [0, 1) that depends on nothing but the prompt: those below `eval_fraction` are held out."""
    hashed = hashlib.sha256(prompt_key(record).encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64

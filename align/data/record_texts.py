"""The texts of a record side by side, and what makes two records the same."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from align.records import LATER_TURNS, Content, Message, Record, Text, UnpairedPreference, columns_of, prompt_key

_REASONING = ("reasoning_content", "reasoning", "thinking")  # the keys under which data sets keep it


def sides_of(record: Record) -> dict[str, Content]:
    """prompt, chosen, ... or text -> what is there."""
    if isinstance(record, Text):
        return {"text": record.content}
    names = ("prompt", "completion", "chosen", "rejected")
    return {name: getattr(record, name) for name in names if hasattr(record, name)}


def column_texts(record: Record) -> dict[str, str]:
    """Column -> its text, of the columns that hold some."""
    texts = {}
    for name, value in columns_of(record).items():
        if isinstance(value, str):
            texts[name] = value
        elif isinstance(value, list) and value and isinstance(value[0], str):
            texts[name] = "\n".join(value)
    return texts


_NOT_TEXT = ("role", "content", "name", "tool_call_id", "weight")


def flat(content: Content) -> str:
    """Everything a side says, messages one after the other: reasoning and tool calls go before a message's words."""
    if isinstance(content, str):
        return content
    return "\n".join(text for message in content for text in (*_extras(message), message.get("content") or ""))


def _extras(message: Message) -> Iterator[str]:
    """What a message says beside its content: its reasoning as it is, anything else as JSON."""
    for key, value in message.items():
        if key not in _NOT_TEXT and value not in (None, "", [], {}):
            yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def spoken(content: Content) -> str:
    """A side as a person reads it: who says what, where it is more than one message or more than words."""
    if isinstance(content, str) or (len(content) == 1 and not [*_extras(content[0])]):
        return flat(content)
    return "\n\n".join(_spoken(message) for message in content)


def _spoken(message: Message) -> str:
    parts = [f"{message['role']}: {message.get('content') or ''}".rstrip()]
    if reasoning := next((message[key] for key in _REASONING if isinstance(message.get(key), str)), ""):
        parts.insert(0, f"{message['role']} (reasoning): {reasoning}")
    for call in message.get("tool_calls") or []:
        function = call.get("function", call) if isinstance(call, Mapping) else call
        named = isinstance(function, Mapping) and isinstance(function.get("name"), str)
        arguments = function.get("arguments") if named else function
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        parts.append(f"{message['role']} calls {function['name'] if named else 'a tool'}: {arguments}")
    return "\n\n".join(parts)


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


def record_hashes(record: Record) -> tuple[int, int, int]:
    """Of a record's prompt, of the whole record, and of its answers whichever of them is the better one.

    The first is the same for prompts of the same words; the second for records that say the same in words, reasoning,
    tool calls and offered tools; the third also for a pair and the pair turned round, and for an answer with either
    label.
    """
    prompt = text_hash(prompt_key(record))
    asked = f"{prompt} {_beside_words(record)}"
    sides = sides_of(record).items()
    answers = [str(text_hash(_exact(content))) for side, content in sides if side != "prompt"]
    label = record.label if isinstance(record, UnpairedPreference) else None
    return prompt, text_hash(f"{asked} {answers} {label}"), text_hash(f"{asked} {sorted(answers)}")


def record_hash(record: Record) -> int:
    """The same for records that say the same."""
    return record_hashes(record)[1]


def pair_hash(record: Record) -> int:
    """The same for a pair and the pair turned round, and for an answer with either label."""
    return record_hashes(record)[2]


def _beside_words(record: Record) -> str:
    """What a record asks beside the words of its prompt; empty where there is nothing else."""
    content = record.content if isinstance(record, Text) else record.prompt
    extras = [[*_extras(message)] for message in content] if isinstance(content, list) else []
    later = getattr(record, LATER_TURNS, ())
    return _json([extras, record.tools, later]) if any(extras) or record.tools or later else ""


def _exact(content: Content) -> str:
    """An answer as it is; one message of words alone is the same as its words."""
    if isinstance(content, str):
        return content
    if len(content) == 1 and content[0]["role"] == "assistant" and content[0].keys() <= {"role", "content", "weight"}:
        return content[0].get("content") or ""
    return _json([{key: value for key, value in message.items() if key != "weight"} for message in content])


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def fraction(record: Record) -> float:
    """A number in [0, 1) that depends on nothing but the prompt: those below `eval_fraction` are held out."""
    hashed = hashlib.sha256(prompt_key(record).encode()).digest()
    return int.from_bytes(hashed[:8], "big") / 2**64

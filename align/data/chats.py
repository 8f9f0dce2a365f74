"""Records as the chat template of a model takes them: plain text as messages, a system message in the user's turn."""

from dataclasses import dataclass, replace
from typing import Any

from align.records import Content, Message, Record, Text

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True)
class Chats:
    """What becomes of records when they are loaded; the fields are those of the `data:` block.

    Attributes:
        as_chat: a plain prompt is a message of the user, a plain answer one of the assistant. Plain texts to be
            modelled as they are stay texts.
        fold_system: a system message at the start of a conversation goes into the user's first message, for chat
            templates that take no system message (Gemma 2, older Mistral models).
    """

    as_chat: bool = False
    fold_system: bool = False

    @classmethod
    def of(cls, block: Any) -> "Chats":
        """As a `data:` block, or a parsed command line, says."""
        return cls(bool(block.as_chat), bool(block.fold_system))

    def apply(self, record: Record) -> Record:
        """The record as it is to be rendered."""
        if self.as_chat:
            record = to_chat(record)
        return fold_system(record) if self.fold_system else record


def to_chat(record: Record) -> Record:
    """A plain record as a conversation; a conversation, and a plain text, as it is."""
    if isinstance(record, Text) or not isinstance(record.prompt, str):
        return record
    answers = {
        side: [{"role": "assistant", "content": getattr(record, side)}]
        for side in ("completion", "chosen", "rejected")
        if hasattr(record, side)
    }
    return replace(record, prompt=[{"role": "user", "content": record.prompt}], **answers)


def fold_system(record: Record) -> Record:
    """The record with the system message of its conversation in the user's first message."""
    field = "content" if isinstance(record, Text) else "prompt"
    content: Content = getattr(record, field)
    return record if isinstance(content, str) else replace(record, **{field: folded(content)})


def folded(messages: list[Message]) -> list[Message]:
    """A conversation without a system message at its start: the user's first message begins with its words."""
    count = 0
    while count < len(messages) and messages[count]["role"] in SYSTEM_ROLES:
        count += 1
    if not count:
        return messages
    words = [message.get("content") or "" for message in messages[:count]]
    rest = messages[count:]
    if rest and rest[0]["role"] == "user":
        first = {**rest[0], "content": "\n\n".join(text for text in (*words, rest[0].get("content") or "") if text)}
        return [first, *rest[1:]]
    return [{"role": "user", "content": "\n\n".join(text for text in words if text)}, *rest]

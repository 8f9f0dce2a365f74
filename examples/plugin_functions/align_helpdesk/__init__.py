"""For the tickets of a helpdesk: a layout of their data, a reward function and a judge."""

import re
from collections.abc import Mapping
from typing import Any

from align.data.layouts.plugins import Layout
from align.records import Preference, Record, RecordError

POLITE = re.compile(r"\b(please|thank|sorry|gladly|sure|of course)\b", re.IGNORECASE)


def read_ticket(row: Mapping[str, Any], wanted: str) -> list[Record]:
    """A question and two replies, of which `resolved_by` names the one that helped: `first` or `second`."""
    replies = {"first": row.get("reply_1"), "second": row.get("reply_2")}
    helped = row.get("resolved_by")
    if helped not in replies:
        raise RecordError("resolved_by", f"is {helped!r}, neither 'first' nor 'second'")
    chosen, rejected = (replies[side] for side in (helped, "second" if helped == "first" else "first"))
    conversation = {
        "prompt": [{"role": "user", "content": row.get("customer")}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    return [Preference.from_row(conversation)]


TICKET = Layout(
    records=read_ticket,
    columns="customer, reply_1, reply_2, resolved_by",
    looks=lambda row: {"customer", "reply_1", "reply_2", "resolved_by"} <= row.keys(),
    sign="a ticket with two replies",
)


def polite(prompts: list, completions: list, weight: float = 1.0, **columns: list) -> list[float]:
    """`weight` for each completion with a polite word in it, else 0."""
    texts = [completion if isinstance(completion, str) else completion[0]["content"] for completion in completions]
    return [weight * bool(POLITE.search(text)) for text in texts]


def brief(prompt: str | list[dict], completion: str) -> float:
    """1 for at most ten words."""
    return float(len(completion.split()) <= 10)

"""Open-Assistant's message trees: replies to one message are ranked against each other, the best is rank 0."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import Any

from align.data.layouts.prompts import ROLES
from align.records import Demonstration, Message, Preference, Prompt, Record, RecordError, shown

Row = Mapping[str, Any]
GATHERED = "messages gathered"  # the field in which a gathered tree says of how many rows it is made
MAX_DEPTH = 200  # messages from the root; a longer thread is cut there


def message_tree(row: Row, wanted: str) -> list[Record]:
    """A tree: every pair of ranked sibling answers; for prompt_completion the best answer at each place.

    An answer without a rank is in no pair. `prompt_only` gives the first message.
    """
    root = row.get("prompt")
    if "why" in row and "message" in row:
        raise RecordError("parent_message_id", str(row["why"]))
    if not isinstance(root, Mapping):
        raise RecordError("prompt", f"is {shown(root)}, not a message with replies")
    if wanted == "prompt_only":
        return [Prompt.from_row({"prompt": [_message(root)]})]
    make = _demonstrations if wanted == "prompt_completion" else _pairs
    records = [record for path, answers in _places(root) for record in make(path, answers)]
    if not records:
        what = "answers" if wanted == "prompt_completion" else "two ranked answers to one message"
        raise RecordError("replies", f"hold no {what}")
    return records


def gather(rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Trees from a flat list of messages that name their parents; each stands at its first message's number.

    What is no message, or whose parent is nowhere, comes out as it came in.
    """
    nodes: dict[str, dict[str, Any]] = {}
    roots: list[tuple[int, Any]] = []
    children: list[tuple[int, dict[str, Any], Any]] = []
    for number, row in rows:
        name = identity(row) if isinstance(row, Mapping) else None
        if name is None or name in nodes:
            roots.append((number, row))
            continue
        node = nodes[name] = {**row, "replies": []}
        parent = row.get("parent_message_id", row.get("parent_id"))
        if parent is None:
            roots.append((number, {"prompt": node}))
        else:
            children.append((number, node, parent))
    for number, node, parent in children:
        if isinstance(parent, str) and parent in nodes and nodes[parent] is not node:
            nodes[parent]["replies"].append(node)
        else:
            roots.append(
                (number, {"message": node, "why": f"names {shown(parent)}, and no message {shown(parent)} is there"})
            )
    seen: set[int] = set()
    gathered = [(number, _count(row, seen)) for number, row in roots]
    for number, node, _ in children:
        if id(node) not in seen:  # it answers itself, by way of others
            alone = {**node, "replies": []}
            gathered.append((number, {"message": alone, "why": "leads back to the message itself", GATHERED: 1}))
    yield from sorted(gathered, key=lambda root: root[0])


def _count(row: Any, seen: set[int]) -> Any:
    """`row` with the number of messages that it gathers."""
    top = row.get("prompt", row.get("message")) if isinstance(row, Mapping) else None
    if not isinstance(top, Mapping) or "replies" not in top:
        return row
    stack, size = [top], 0
    while stack:
        node = stack.pop()
        seen.add(id(node))
        size += 1
        stack += node["replies"]
    return {**row, GATHERED: size}


def identity(row: Row) -> str | None:
    """The id by which other messages name this one as their parent."""
    name = row.get("user_message_id", row.get("message_id"))
    return name if isinstance(name, str) else None


def is_flat(row: Row) -> bool:
    """A message of a flat list rather than a tree."""
    return identity(row) is not None and {"text", "role"} <= row.keys() and "replies" not in row


def answers_at(row: Row) -> Iterator[list[Row]]:
    """The assistant's answers to each message of a tree that has any."""
    return (answers for _, answers in _places(row["prompt"]))


def has_ranks(row: Row) -> bool:
    """Whether a tree, or a message of a flat list, ranks answers."""
    stack = [row.get("prompt", row)]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            if type(node.get("rank")) is int:
                return True
            replies = node.get("replies")
            stack += replies if isinstance(replies, list) else []
    return False


def _places(root: Row) -> Iterator[tuple[list[Message], list[Row]]]:
    """(conversation so far, the assistant's answers to it) for each message that has answers."""
    stack: list[tuple[list[Message], Row]] = [([], root)]
    while stack:
        before, node = stack.pop()
        path = [*before, _message(node)]
        replies = node.get("replies")
        replies = [one for one in replies if _counts(one)] if isinstance(replies, list) else []
        if path[-1]["role"] == "user":
            answers = [one for one in replies if _message(one)["role"] == "assistant"]
            if answers:
                yield path, answers
        if len(path) < MAX_DEPTH:
            stack += [(path, one) for one in reversed(replies)]


def _counts(node: Any) -> bool:
    return isinstance(node, Mapping) and not node.get("deleted") and node.get("review_result") is not False


def _pairs(path: list[Message], answers: list[Row]) -> Iterator[Record]:
    ranked = [one for one in answers if type(one.get("rank")) is int]
    for one, other in combinations(sorted(ranked, key=lambda node: node["rank"]), 2):
        sides = {"chosen": [_message(one)], "rejected": [_message(other)]}
        # equal ranks and equal words say nothing; _message has shown that both have text
        if one["rank"] != other["rank"] and sides["chosen"] != sides["rejected"]:
            yield Preference.from_row({"prompt": path, **sides})


def _demonstrations(path: list[Message], answers: list[Row]) -> Iterator[Record]:
    ranked = [one for one in answers if type(one.get("rank")) is int]
    best = min(ranked, key=lambda node: node["rank"]) if ranked else answers[0]
    yield Demonstration.from_row({"prompt": path, "completion": [_message(best)]})


def _message(node: Row) -> Message:
    role = node.get("role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RecordError("role", f"is {shown(role)}, neither prompter nor assistant")
    text = node.get("text")
    if not isinstance(text, str) or not text.strip():
        raise RecordError("text", f"is {shown(text)}, not a message")
    return {"role": ROLES[role.lower()], "content": text}

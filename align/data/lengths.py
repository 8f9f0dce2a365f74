"""How long records are in tokens, so that a stage counts what `max_length` would cut instead of cutting it silently.

Lengths are those of TRL's trainers: the chat template renders prompt and prompt + completion (strings are joined and
get the EOS token), and the prompt ends where the two part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from align.errors import UserError
from align.records import Content, Preference, Prompt, Record, Text

POLICIES = ("refuse", "drop", "truncate")
_BATCH = 256


class Tokenizer(Protocol):
    """What is used of a `transformers.PreTrainedTokenizerBase`."""

    eos_token: str | None

    def __call__(self, text: list[str]) -> Any: ...

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class LengthReport:
    """Counts against a `max_length`, in tokens; the tuples hold indices of records."""

    rows: int
    longest: int
    max_length: int
    over: tuple[int, ...]  # longer than max_length, prompt and longest completion together
    no_room: tuple[int, ...]  # the prompt alone fills max_length: nothing of a completion is left to learn from

    def summary(self) -> str:
        if not self.over and not self.no_room:
            return f"{self.rows} records, the longest {self.longest} tokens, all within max_length {self.max_length}"
        return (
            f"{len(self.over)} of {self.rows} records are over max_length {self.max_length} (records "
            f"{_some(self.over)}; the longest has {self.longest} tokens), and {len(self.no_room)} have a prompt that "
            "leaves no room for a completion"
        )


def token_lengths(records: Sequence[Record], tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Per record the tokens of its prompt and of the longest whole: prompt + completion, the prompt, or the text."""
    lengths: list[tuple[int, int]] = []
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        prompts = _ids(tokenizer, [_prompt(record) for record in batch], generation=True)
        sides = [_sides(record, tokenizer.eos_token or "") for record in batch]
        wholes = _ids(tokenizer, [side for found in sides for side in found], generation=False)
        for prompt, found in zip(prompts, sides, strict=True):
            ids = [next(wholes) for _ in found]
            shared = min((_shared(prompt, whole) for whole in ids), default=len(prompt))
            lengths.append((shared, max(map(len, ids), default=len(prompt))))
    return lengths


def length_report(records: Sequence[Record], lengths: Sequence[tuple[int, int]], max_length: int) -> LengthReport:
    """What `max_length` means for the records; `lengths` are those of `token_lengths`."""
    pairs = list(enumerate(zip(records, lengths, strict=True)))
    return LengthReport(
        rows=len(pairs),
        longest=max((total for _, (_, (_, total)) in pairs), default=0),
        max_length=max_length,
        over=tuple(i for i, (_, (_, total)) in pairs if total > max_length),
        no_room=tuple(
            i for i, (record, (prompt, _)) in pairs if not isinstance(record, Text) and prompt >= max_length
        ),
    )


def drop_overlong(
    records: Sequence[Record], lengths: Sequence[tuple[int, int]], max_length: int
) -> tuple[list[Record], list[Record]]:
    """The records that fit and those that do not: too long as a whole, or with no room for a completion."""
    report = length_report(records, lengths, max_length)
    out = {*report.over, *report.no_room}
    return _split(records, out)


def apply_policy(
    records: Sequence[Record], tokenizer: Tokenizer, max_length: int | None, policy: str, what: str = "data"
) -> tuple[list[Record], LengthReport | None]:
    """The records to train on under `data.overlong`, and the report to show; (all, None) without a max_length.

    `refuse`: a UserError where one is over; `drop`: leave out those over; `truncate`: leave out only those whose
    prompt alone fills `max_length` (cut, both sides of a pair would be equal) and let the trainer cut the rest.
    """
    if policy not in POLICIES:
        raise UserError(f"data.overlong is {policy!r}: write one of {', '.join(POLICIES)}")
    if max_length is None:
        return list(records), None
    lengths = token_lengths(records, tokenizer)
    report = length_report(records, lengths, max_length)
    out = {*report.no_room} if policy == "truncate" else {*report.over, *report.no_room}
    if policy == "refuse" and out:
        raise UserError(
            f"{what}: {report.summary()}; raise trainer.max_length, or set data.overlong=drop to leave them out "
            "or data.overlong=truncate to cut them"
        )
    kept, _ = _split(records, out)
    if not kept:
        raise UserError(f"{what}: {report.summary()}: no record is left, raise trainer.max_length")
    return kept, report


def _split(records: Sequence[Record], out: set[int]) -> tuple[list[Record], list[Record]]:
    kept = [record for i, record in enumerate(records) if i not in out]
    return kept, [record for i, record in enumerate(records) if i in out]


def _some(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")


def _prompt(record: Record) -> Content | None:
    return None if isinstance(record, Text) else record.prompt


def _sides(record: Record, eos: str) -> list[Content]:
    """Each whole that a trainer would tokenize."""
    if isinstance(record, Prompt):
        return []
    if isinstance(record, Text):
        wholes = [record.content]
    elif isinstance(record, Preference):
        wholes = [record.prompt + record.chosen, record.prompt + record.rejected]
    else:
        wholes = [record.prompt + record.completion]
    return [_ended(whole, eos) if isinstance(whole, str) else whole for whole in wholes]


def _ended(text: str, eos: str) -> str:
    return text if text.endswith(eos) else text + eos


def _ids(tokenizer: Tokenizer, contents: Sequence[Content | None], generation: bool) -> Iterator[list[int]]:
    """Token ids of strings and conversations (kinds may mix), no ids for None, in order."""
    texts = [content for content in contents if isinstance(content, str)]
    chats = [content for content in contents if isinstance(content, list)]
    options = {"tokenize": True, "return_dict": False, "add_generation_prompt": generation}
    text_ids = iter(tokenizer(texts)["input_ids"] if texts else [])
    chat_ids = iter(tokenizer.apply_chat_template(chats, **options) if chats else [])
    for content in contents:
        yield [] if content is None else next(text_ids if isinstance(content, str) else chat_ids)


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

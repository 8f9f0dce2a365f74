"""How long records are in tokens, so that a stage counts what `max_length` would cut instead of cutting it silently.

Prompts and completions are rendered as in `rendering`; a whole text gets the EOS token, as TRL's SFTTrainer gives it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from align.artifacts.manifest import json_digest
from align.artifacts.model_files import context_length
from align.data.loading.record_file import choose
from align.data.tokens.cache import cached_lengths
from align.data.tokens.chat_template import render, render_prompt, render_text
from align.data.tokens.loss_mask import ON_COMPLETION, Loss, learnt
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, Record, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1  # of what is counted
POLICIES = ("refuse", "drop", "truncate")


@dataclass(frozen=True)
class LengthReport:
    """Counts against a `max_length`, in tokens; the tuples hold indices of records."""

    rows: int
    longest: int
    max_length: int
    over: tuple[int, ...]  # longer than max_length, prompt and longest completion together
    no_room: tuple[int, ...]  # what comes before the first token to learn fills max_length: nothing is left

    def summary(self) -> str:
        if not self.over and not self.no_room:
            return f"{self.rows} records, the longest {self.longest} tokens, all within max_length {self.max_length}"
        return (
            f"{len(self.over)} of {self.rows} records are over max_length {self.max_length} (records "
            f"{_some(self.over)}; the longest has {self.longest} tokens), and {len(self.no_room)} have a prompt that "
            "leaves no room for a completion"
        )


def token_lengths(
    records: Sequence[Record], tokenizer: "PreTrainedTokenizerBase", loss: Loss = ON_COMPLETION
) -> list[tuple[int, int]]:
    """Per record the tokens before the first that carries the loss, and of the longest whole.

    The first is the length of the prompt, unless `loss` says otherwise of demonstrations; the second that of prompt
    and completion, of the prompt alone, or of the text.
    """
    return [*iterate_lengths(records, tokenizer, loss)]


def iterate_lengths(
    records: Iterable[Record], tokenizer: "PreTrainedTokenizerBase", loss: Loss = ON_COMPLETION
) -> Iterator[tuple[int, int]]:
    """As `token_lengths`, one record after the other."""
    return (_lengths(record, tokenizer, loss) for record in records)


def fingerprint(tokenizer: "PreTrainedTokenizerBase", loss: Loss) -> str | None:
    """What stands for everything but the records that token counts depend on; None for a tokenizer in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    # a call that pads or truncates leaves its mark there, and counts need neither
    state = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    named = [type(tokenizer).__name__, tokenizer.eos_token, tokenizer.chat_template]
    return json_digest([VERSION, state, named, vars(loss)])


def length_report(
    records: Sequence[Record], lengths: "Sequence[tuple[int, int]] | np.ndarray", max_length: int
) -> LengthReport:
    """What `max_length` means for the records; `lengths`, a pair for each, are those of `token_lengths`."""
    pairs = np.asarray(lengths, np.int64).reshape(len(records), 2)
    full = np.flatnonzero(pairs[:, 0] >= max_length).tolist()
    return LengthReport(
        rows=len(pairs),
        longest=int(pairs[:, 1].max(initial=0)),
        max_length=max_length,
        over=tuple(np.flatnonzero(pairs[:, 1] > max_length).tolist()),
        no_room=tuple(index for index in full if not isinstance(records[index], Text)),
    )


def drop_overlong(
    records: Sequence[Record], lengths: Sequence[tuple[int, int]], max_length: int
) -> tuple[Sequence[Record], Sequence[Record]]:
    """The records that fit and those that do not: too long as a whole, or with no room for a completion."""
    report = length_report(records, lengths, max_length)
    out = {*report.over, *report.no_room}
    return _split(records, out)


def apply_policy(
    records: Sequence[Record],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
    policy: str,
    what: str = "data",
    loss: Loss = ON_COMPLETION,
    remedy: str | None = None,
) -> tuple[Sequence[Record], LengthReport | None]:
    """The records to train on under `data.overlong`, and the report to show; (all, None) without a max_length.

    `refuse`: a UserError where one is over; `drop`: leave out those over; `truncate`: leave out only those whose
    prompt alone fills `max_length` (cut, both sides of a pair would be equal; nothing of a demonstration would be
    learnt) and let the trainer cut the rest.

    Args:
        remedy: what else to do about overlong records; None tells it from the model's context.
    """
    if policy not in POLICIES:
        raise UserError(f"data.overlong is {policy!r}: write one of {', '.join(POLICIES)}")
    if max_length is None:
        return records, None
    key = fingerprint(tokenizer, loss)
    lengths = cached_lengths(records, key, lambda each: iterate_lengths(each, tokenizer, loss))
    report = length_report(records, lengths, max_length)
    remedy = remedy or length_remedy(tokenizer, max_length)
    out = left_out(report, policy, what, remedy)
    kept, _ = _split(records, out)
    if not kept:
        raise UserError(f"{what}: {report.summary()}: no record is left, {remedy}")
    return kept, report


def length_remedy(tokenizer: "PreTrainedTokenizerBase", max_length: int, key: str = "trainer.max_length") -> str:
    """What to do about records over `max_length`, beside leaving them out: raise it, where the model's context allows.

    Args:
        tokenizer: loaded from the model's folder.
        key: of the config that sets `max_length`.
    """
    limit = context_length(Path(tokenizer.name_or_path))
    if limit is not None and max_length >= limit:
        return f"shorten them ({max_length} tokens is the model's whole context)"
    return f"raise {key}" + (f" (the model takes up to {limit} tokens)" if limit is not None else "")


def left_out(report: LengthReport, policy: str, what: str, remedy: str) -> set[int]:
    """The indices of the records that `data.overlong` leaves out. Raises UserError under `refuse` where there are."""
    out = {*report.no_room} if policy == "truncate" else {*report.over, *report.no_room}
    if policy == "refuse" and out:
        raise UserError(
            f"{what}: {report.summary()}; {remedy}, or set data.overlong=drop to leave them out "
            "or data.overlong=truncate to cut them"
        )
    return out


def _split(records: Sequence[Record], out: set[int]) -> tuple[Sequence[Record], Sequence[Record]]:
    """The records that stay, and those at the indices `out`."""
    if not out:
        return records, []
    left = np.isin(np.arange(len(records)), np.fromiter(out, np.int64, len(out)))
    return choose(records, np.flatnonzero(~left)), choose(records, np.flatnonzero(left))


def _some(indices: Sequence[int]) -> str:
    return ", ".join(map(str, indices[:5])) + (", ..." if len(indices) > 5 else "")


def _lengths(record: Record, tokenizer: "PreTrainedTokenizerBase", loss: Loss) -> tuple[int, int]:
    if isinstance(record, Text):
        return 0, len(render_text(tokenizer, record.content, record.tools))
    if isinstance(record, Demonstration) and loss != ON_COMPLETION:
        ids, carries = learnt(tokenizer, record.prompt, record.completion, loss, record.tools)
        return carries.index(True) if True in carries else len(ids), len(ids)
    if isinstance(record, Prompt):
        prompt = len(render_prompt(tokenizer, record.prompt, record.tools))
        return prompt, prompt
    completions = [record.chosen, record.rejected] if isinstance(record, Preference) else [record.completion]
    rendered = [render(tokenizer, record.prompt, completion, record.tools) for completion in completions]
    return min(len(prompt) for prompt, _ in rendered), max(len(prompt) + len(rest) for prompt, rest in rendered)

"""A record as a stage's model sees it: every token of the rendered template, and which of them carry the loss.

`dpo` and `kto` learn the completion with its end, and so does `sft` unless its `trainer:` block says otherwise;
`pretrain` learns every token; `reward` scores each whole answer at its last token. Tokens beyond `max_length` are cut
from the end, as TRL's trainers do (`truncation_mode: keep_start`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.data.tokens.chat_template import render, render_prompt, render_text
from align.data.tokens.loss_mask import ON_COMPLETION, Loss, learnt, said_by_assistant
from align.records import Prompt, Record, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DIM, _LOSS, _CUT, _OFF, _BOLD = "\x1b[2m", "\x1b[30;42m", "\x1b[9;31m", "\x1b[0m", "\x1b[1m"


@dataclass(frozen=True)
class Shown:
    """One sequence that goes through the model.

    Attributes:
        side: prompt, completion, chosen, rejected or text.
        ids: token ids.
        loss: whether each carries the loss (for reward: the token that is scored).
        kept: tokens before `max_length`.
    """

    side: str
    ids: list[int]
    loss: list[bool]
    kept: int

    @property
    def learnt(self) -> int:
        return sum(self.loss[: self.kept])


def show_record(
    record: Record,
    tokenizer: "PreTrainedTokenizerBase",
    stage: str,
    max_length: int | None = None,
    loss: Loss = ON_COMPLETION,
) -> list[Shown]:
    """The sequences that `stage` makes of a record, each with its loss mask; `loss` is read for sft and pretrain."""
    return [_cut(side, ids, mask, max_length) for side, ids, mask in _sequences(record, tokenizer, stage, loss)]


def _sequences(
    record: Record, tokenizer: "PreTrainedTokenizerBase", stage: str, loss: Loss
) -> Iterator[tuple[str, list[int], list[bool]]]:
    if isinstance(record, Text):
        if loss.assistant_only and isinstance(record.content, list):
            yield "text", *said_by_assistant(tokenizer, record.content, record.tools)
            return
        ids = render_text(tokenizer, record.content, record.tools)
        yield "text", ids, [True] * len(ids)
        return
    if isinstance(record, Prompt):
        ids = render_prompt(tokenizer, record.prompt, record.tools)
        yield "prompt", ids, [False] * len(ids)
        return
    for side in ("completion", "chosen", "rejected"):
        if hasattr(record, side):
            if stage == "sft":
                yield side, *learnt(tokenizer, record.prompt, getattr(record, side), loss, record.tools)
                continue
            prompt, completion = render(tokenizer, record.prompt, getattr(record, side), record.tools)
            ids = prompt + completion
            if stage == "reward":
                yield side, ids, [position == len(ids) - 1 for position in range(len(ids))]
            else:
                yield side, ids, [False] * len(prompt) + [True] * len(completion)


def _cut(side: str, ids: list[int], loss: list[bool], max_length: int | None) -> Shown:
    kept = len(ids) if max_length is None else min(len(ids), max_length)
    if loss and loss[-1] and sum(loss) == 1 and kept < len(ids):
        loss = [position == kept - 1 for position in range(len(ids))]  # the score is read at the last token there is
    return Shown(side, ids, loss, kept)


def to_terminal(shown: Shown, tokenizer: "PreTrainedTokenizerBase", *, color: bool, tokens: bool) -> str:
    """The sequence as text: dim without loss, green with, struck out where cut; brackets where there is no color."""
    head = f"{shown.side}: {len(shown.ids)} tokens, {shown.learnt} with loss"
    head += f", {len(shown.ids) - shown.kept} cut" if shown.kept < len(shown.ids) else ""
    parts = []
    for state, ids in _runs(shown):
        pieces = _pieces(ids, tokenizer) if tokens else [_text(ids, tokenizer)]
        text = "|".join(_printable(piece) for piece in pieces)
        if color:
            parts.append({"plain": _DIM, "loss": _LOSS, "cut": _CUT}[state] + text + _OFF)
        else:
            parts.append({"plain": text, "loss": f"[[{text}]]", "cut": f"~~{text}~~"}[state])
    return (f"{_BOLD}{head}{_OFF}" if color else head) + "\n" + "".join(parts)


def to_json(shown: Shown, tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    return {
        "side": shown.side,
        "tokens": [_text([one], tokenizer) for one in shown.ids],
        "ids": shown.ids,
        "loss": [int(one) for one in shown.loss],
        "kept": shown.kept,
    }


def _runs(shown: Shown) -> Iterator[tuple[str, list[int]]]:
    """Neighbouring tokens of one state."""
    run: list[int] = []
    before = ""
    for position, (token, loss) in enumerate(zip(shown.ids, shown.loss, strict=True)):
        state = "cut" if position >= shown.kept else "loss" if loss else "plain"
        if run and state != before:
            yield before, run
            run = []
        run.append(token)
        before = state
    if run:
        yield before, run


def _pieces(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The text of each token; tokens that are parts of one character are kept together, their number behind it."""
    pieces, held = [], []
    for token in ids:
        held.append(token)
        text = _text(held, tokenizer)
        if not text.endswith("\ufffd") or len(held) == 4:
            pieces.append(text if len(held) == 1 else f"{text}({len(held)})")
            held = []
    return pieces + ([_text(held, tokenizer)] if held else [])


def _text(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _printable(text: str) -> str:
    """Text that can do nothing to a terminal."""
    return "".join(one if one.isprintable() or one == "\n" else f"\\u{ord(one):04x}" for one in text)

"""Findings about records as a tokenizer and its chat template render them: length, truncation, the end of answers."""

from typing import TYPE_CHECKING, Any

import numpy as np

from align.data.quality.balance import histogram_of
from align.data.quality.findings import Finding, Tally, find
from align.data.quality.inspection import Inspection
from align.data.record_texts import sides_of
from align.data.tokens.chat_template import has_system, ignores_system, render, render_prompt, render_text
from align.data.tokens.lengths import length_remedy
from align.data.tools import unrendered
from align.errors import UserError
from align.records import Prompt, Record, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def token_findings(
    seen: Inspection,
    findings: list[Finding],
    statistics: dict[str, Any],
    histograms: dict[str, dict[str, Any]],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int | None,
) -> None:
    """Tokens per side on the sample, what `max_length` would cut, and what the chat template makes of it all."""
    sides: dict[str, list[int]] = {}
    over = no_room = 0
    refused, unseen, endless, without_system = Tally(), 0, 0, 0
    added = tokenizer.added_tokens_decoder
    ends = {tokenizer.eos_token_id, *(token for token in added if added[token].special)}
    for place, record in enumerate(seen.sample):
        if unrendered(record, tokenizer):
            unseen += 1
            continue
        try:
            sequences = side_ids(record, tokenizer)
        except UserError as error:
            refused.add(f"sampled record {place}", str(error)[:300])
            continue
        without_system += _loses_system(record, tokenizer)
        # a template may write a line feed behind the token that ends a turn
        endless += any(ends.isdisjoint(ids[-3:]) for side, ids in sequences.items() if side != "prompt")
        lengths = {side: len(ids) for side, ids in sequences.items()}
        for side, tokens in lengths.items():
            sides.setdefault(side, []).append(tokens)
        answers = [tokens for side, tokens in lengths.items() if side != "prompt"]
        prompt = lengths.get("prompt", 0)
        if max_length is not None:
            over += prompt + max(answers, default=0) > max_length
            no_room += bool(answers) and prompt >= max_length and not isinstance(record, Text)
    if refused.count:
        message = "sampled records that the chat template refuses: a stage stops at the first one"
        findings.append(find(refused, "template", "error", len(seen.sample), message))
    if unseen:
        message = "sampled records with tools or tool calls, which the chat template does not render"
        findings.append(Finding("unseen_tools", "error", unseen, len(seen.sample), message, "choose another template"))
    if without_system:
        message = "sampled records whose system message the chat template leaves out"
        remedy = "set data.fold_system=true (here: --fold-system) to move it into the first user message"
        findings.append(Finding("unseen_system", "error", without_system, len(seen.sample), message, remedy))
    if seen.kind == "standard" and tokenizer.chat_template is not None and "text" not in seen.side_lengths:
        message = (
            "records are plain text, so a stage would not use the chat template of this model: in a chat the model "
            "would see other tokens than in training"
        )
        remedy = "set data.as_chat=true (here: --as-chat) to make chats of them, unless you train a completion model"
        findings.append(Finding("no_chat_template", "warning", len(seen.row), len(seen.row), message, remedy))
    if endless:
        message = (
            "sampled records whose rendered answer has no special token at its end: the model does not learn to stop"
        )
        remedy = "use a chat template that ends assistant turns with one, or a tokenizer with an eos_token"
        findings.append(Finding("missing_end", "error", endless, len(seen.sample), message, remedy))
    arrays = {side: np.array(tokens) for side, tokens in sides.items()}
    for side, tokens in arrays.items():
        statistics[f"{side} tokens (of {len(tokens)})"] = {
            "median": int(np.median(tokens)),
            "95% below": int(np.percentile(tokens, 95)),
            "longest": int(tokens.max()),
        }
    if arrays:
        histograms["Tokens per side"] = histogram_of(arrays)
        if max_length is not None:
            histograms["Tokens per side"]["marks"] = {"max_length": max_length}
    if max_length is not None and over:
        message = f"sampled records are longer than max_length {max_length}; {no_room} leave no room for an answer"
        remedy = f"{length_remedy(tokenizer, max_length)}, or leave them out: data.overlong=drop (truncate cuts them)"
        findings.append(Finding("truncation", "warning", over, len(seen.sample), message, remedy))


def _loses_system(record: Record, tokenizer: "PreTrainedTokenizerBase") -> bool:
    content = record.content if isinstance(record, Text) else record.prompt
    return has_system(content) and ignores_system(tokenizer, content)


def side_ids(record: Record, tokenizer: "PreTrainedTokenizerBase") -> dict[str, list[int]]:
    """Token ids of the prompt and of each answer as a trainer sees them, or of the text."""
    if isinstance(record, Text):
        return {"text": render_text(tokenizer, record.content, record.tools)}
    if isinstance(record, Prompt):
        return {"prompt": render_prompt(tokenizer, record.prompt, record.tools)}
    answers = {side: content for side, content in sides_of(record).items() if side != "prompt"}
    rendered = {side: render(tokenizer, record.prompt, answer, record.tools) for side, answer in answers.items()}
    prompt = max((ids for ids, _ in rendered.values()), key=len)
    return {"prompt": prompt, **{side: ids for side, (_, ids) in rendered.items()}}

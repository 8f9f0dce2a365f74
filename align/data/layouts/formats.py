"""Layouts: how a row of somebody's file becomes records.

A layout is a function of a row and the format that is wanted; it gives records of the format that the row holds, which
may be another one: converting is the caller's. It raises `RecordError` where the row is malformed.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from align.data.conversions import converts
from align.data.layouts.annotations import SCORES
from align.data.layouts.answers import ANSWER_FIELDS, instances, labelled, question_answer, string, turns, verdict
from align.data.layouts.columns import canonical
from align.data.layouts.conversations import (
    CONVERSATION_FIELDS,
    explicit_prompt,
    messages,
    openai_preference,
    sharegpt,
)
from align.data.layouts.judged import JUDGED_FIELDS, annotators, pairwise_votes, responses, two_outputs
from align.data.layouts.plugins import find_layouts
from align.data.layouts.preferences import chosen_rejected, hh_rlhf
from align.data.layouts.projects import bfcl, fastchat_answers, gsm8k_solutions, moss
from align.data.layouts.prompts import HISTORIES, SYSTEMS, history_of, joined, prompt_of, system_of
from align.data.layouts.trees import message_tree
from align.records import (
    FIELDS,
    FORMATS,
    Demonstration,
    Record,
    RecordError,
    as_label,
    shown,
)

Row = Mapping[str, Any]

_TELLING = {
    "language_modeling": {"text", "messages"},
    "prompt_completion": {"completion"},
    "preference": {"chosen", "rejected"},
    "unpaired_preference": {"label"},
    "prompt_only": {"prompt"},
}
"""A format -> the fields that show that a row was meant to be of it."""


def held_format(row: Row, wanted: str | None = None) -> str | None:
    """The format that the row's fields make, `wanted` before others; None where they make none."""
    has = {key for key, value in row.items() if value is not None}
    unpaired = {"prompt", "completion"} <= has and as_label(row.get("label")) is not None
    if wanted == "language_modeling" and has & {"text", "messages"}:
        return wanted
    # answers with verdicts are no demonstrations: half of them are what not to do
    if wanted == "prompt_completion" and {"prompt", "completion"} <= has:
        return "unpaired_preference" if unpaired else wanted
    if wanted == "prompt_only" and "prompt" in has and not isinstance(row.get("chosen"), list):
        return wanted
    if {"chosen", "rejected"} <= has:
        return "preference"
    if {"prompt", "completion"} <= has:
        return "unpaired_preference" if unpaired else "prompt_completion"
    if has & {"text", "messages"}:
        return "language_modeling"
    return "prompt_only" if "prompt" in has else None


def trl(row: Row, wanted: str) -> list[Record]:
    """TRL's own fields as they are; a preference's prompt may also be inside both sides (messages only)."""
    held = held_format(row, wanted)
    verdicts = (held, wanted) == ("unpaired_preference", "prompt_completion")
    if held is None or not converts(held, wanted) and not verdicts and _TELLING[wanted] & row.keys():
        held = wanted  # malformed rather than of another format: from_row says what is wrong
    if held == "preference":
        row = explicit_prompt(row)
    row = _with_earlier_turns(row)
    if held == wanted == "prompt_only" and row.get("completion") is not None and row.get("label") is None:
        with suppress(RecordError):  # a prompt is one whatever its completion is
            return [Demonstration.from_row(row)]
    record = FORMATS[held].from_row(row)
    return [labelled(record, row, wanted) if isinstance(record, Demonstration) else record]


def _with_earlier_turns(row: Row) -> Row:
    """`row` with a `system` and a `history` column put before its prompt: strings become messages then.

    A set has one kind, so a row whose system message is empty becomes messages too.
    """
    if not any(isinstance(row[name], str | list) for name in row if canonical(name) in (*SYSTEMS, *HISTORIES)):
        return row
    before, prompt = [*system_of(row), *history_of(row)], row.get("prompt")
    if isinstance(row.get("messages"), list):
        row = {**row, "messages": joined(before, row["messages"])}
    if isinstance(prompt, list):
        return {**row, "prompt": joined(before, prompt)}
    if not isinstance(prompt, str) or not prompt.strip():
        return row
    chat = {
        name: [{"role": "assistant", "content": row[name]}]
        for name in ("completion", "chosen", "rejected")
        if isinstance(row.get(name), str) and row[name].strip()
    }
    return {**row, "prompt": [*before, {"role": "user", "content": prompt}], **chat}


def alpaca(row: Row, wanted: str) -> list[Record]:
    """Alpaca's instruction, input and output, with the `system` and `history` of some sets, as a conversation."""
    row = {key: value[0] if is_boxed(value) else value for key, value in row.items()}
    for field in ("instruction", "input", "output", "system"):
        if not isinstance(row.get(field) or "", str):
            raise RecordError(field, f"is {shown(row[field])}, not a string")
    for field in ("instruction", "output"):
        if not (row.get(field) or "").strip():
            raise RecordError(field, f"is empty ({shown(row[field])})" if field in row else "is missing")
    completion = [{"role": "assistant", "content": row["output"]}]
    record = Demonstration.from_row({"prompt": prompt_of(row, ("instruction",)), "completion": completion})
    return [labelled(record, row, wanted)]


def is_boxed(value: Any) -> bool:
    """A string alone in a list, as some sets write every field."""
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


LAYOUTS: dict[str, Callable[[Row, str], list[Record]]] = {
    layout.__name__: layout
    for layout in (
        trl,
        messages,
        hh_rlhf,
        alpaca,
        gsm8k_solutions,
        moss,
        fastchat_answers,
        bfcl,
        sharegpt,
        openai_preference,
        chosen_rejected,
        two_outputs,
        annotators,
        responses,
        pairwise_votes,
        verdict,
        message_tree,
        question_answer,
        instances,
        turns,
        string,
    )
}
"""A layout's name in the config -> its function."""

READS: dict[str, str] = {
    "trl": "prompt, completion, label (true: good); prompt, chosen, rejected, margin; text; system, history, tools",
    "messages": "messages; rejected_response or rejected_messages; label or kto_tag; system, tools",
    "hh_rlhf": "chosen and rejected, transcripts of Human and Assistant",
    "alpaca": "instruction, input, output; system, history; label or kto_tag",
    "gsm8k_solutions": "question, and under the name of each model an object with solution and is_correct",
    "moss": "meta_instruction, and chat with turn_1, turn_2, ...",
    "fastchat_answers": "choices, and turns, the questions (--beside)",
    "bfcl": "question, function",
    "sharegpt": "conversations or conversation; chosen, rejected; label or kto_tag; system, tools",
    "openai_preference": "input, preferred_output, non_preferred_output",
    "chosen_rejected": "question, query, instruction, input or prompt; chosen, response_chosen, response or output; "
    "rejected, response_rejected or rejected_response; system, history, context, tools",
    "two_outputs": "prompt, instruction, question or input; two answers such as output_1 and output_2, response_0 and "
    "response_1; label, preference, winner, better_response_id, overall_response, preference_strength, "
    "overall_preference, or score_0 and score_1; system, history, context",
    "annotators": "as two_outputs, with annotator1, annotator2, ... in place of the label",
    "responses": "prompt, instruction or question; responses, completions or answers; scores or ranks, next to them "
    "or inside as score, overall_score, rank",
    "pairwise_votes": "question, passages; prediction 1, prediction 2, ...; preference, a vote on each pair",
    "verdict": "as question_answer, with is_correct, thumbs, thumbs_up, liked, vote, correct, good, label or kto_tag",
    "message_tree": "prompt, a message with replies; or messages with message_id, parent_id, role, text, rank",
    "question_answer": "question, query, instruction, dialogue, document, article or prompt; answer, response, "
    "completion, output, solution, summary; input, context, system, history; score, rating or helpfulness",
    "instances": "instruction, instances",
    "turns": "turns",
    "string": "the string itself",
}
"""A layout's name -> the columns it looks for, as `align data rules` says it."""

PLUGINS = find_layouts(LAYOUTS)
"""A layout's name -> what another package says of it."""

LAYOUTS |= {name: layout.records for name, layout in PLUGINS.items()}
READS |= {name: layout.columns for name, layout in PLUGINS.items()}

COLUMNS = sorted(
    {"messages", "margin", *SCORES, "instruction", "input", "output", "system", "history", "question", "tools"}.union(
        *FIELDS.values(), CONVERSATION_FIELDS, JUDGED_FIELDS, ANSWER_FIELDS
    )
)
"""The fields that `columns` can name: those that some layout reads."""

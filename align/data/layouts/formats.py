"""Layouts: how a row of somebody's file becomes records.

A layout is a function of a row and the format that is wanted; it gives records of the format that the row holds, which
may be another one: converting is the caller's. It raises `RecordError` where the row is malformed.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from align.data.layouts.annotations import SCORES
from align.data.layouts.answers import ANSWER_FIELDS, instances, question_answer, string, turns, verdict
from align.data.layouts.conversations import CONVERSATION_FIELDS, from_turns, openai_preference, sharegpt
from align.data.layouts.judged import JUDGED_FIELDS, annotators, pairwise_votes, responses, two_outputs
from align.data.layouts.trees import message_tree
from align.records import (
    FIELDS,
    FORMATS,
    Demonstration,
    Message,
    Preference,
    Record,
    RecordError,
    UnpairedPreference,
    as_label,
    converts,
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


def rename(row: Row, columns: Mapping[str, str]) -> Row:
    """`row` with the fields that `columns` (our field -> their column) names. Raises RecordError for a missing one."""
    if not columns:
        return row
    for field, column in columns.items():
        if column not in row:
            raise RecordError(
                field, f"should be column {column!r}, which the row lacks (it has {', '.join(map(str, row))})"
            )
    kept = {key: value for key, value in row.items() if key not in columns.values()}
    return kept | {field: row[column] for field, column in columns.items()}


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
    return [FORMATS[held].from_row(row)]


def explicit_prompt(row: Row) -> Row:
    """A preference row whose sides are whole conversations, with what they share taken out as the prompt.

    A row that already has its prompt outside comes back as it is.
    """
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        if prompt is None and isinstance(chosen, str) and isinstance(rejected, str):
            remedy = 'transcripts with "\\n\\nHuman:" turns need layout: hh_rlhf'
            raise RecordError("prompt", f"is missing, and chosen and rejected are strings ({remedy})")
        return row
    if isinstance(prompt, list):
        repeated = prompt and chosen[: len(prompt)] == prompt and rejected[: len(prompt)] == prompt
        return {**row, "chosen": chosen[len(prompt) :], "rejected": rejected[len(prompt) :]} if repeated else row
    length = 0
    while length < min(len(chosen), len(rejected)) and chosen[length] == rejected[length]:
        length += 1
    shared = chosen[:length]
    if length == min(len(chosen), len(rejected)):
        raise RecordError("rejected", f"and chosen are one conversation, or one begins the other ({shown(shared)})")
    if not shared:
        raise RecordError("prompt", "is missing: chosen and rejected share no prompt, their first messages differ")
    said = [message.get("content") for message in shared if isinstance(message, Mapping)]
    if isinstance(prompt, str) and prompt.strip() not in [text.strip() for text in said if isinstance(text, str)]:
        raise RecordError("prompt", f"is not in the conversations of chosen and rejected ({shown(prompt)})")
    return {**row, "prompt": shared, "chosen": chosen[length:], "rejected": rejected[length:]}


def messages(row: Row, wanted: str) -> list[Record]:
    """OpenAI's chat `messages`: the last, the assistant's, is the completion; whole for language_modeling."""
    if row.get("messages") is None:
        raise RecordError("messages", f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    return from_turns(row["messages"], wanted, "messages")


_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def transcript(text: Any, field: str) -> list[Message]:
    """The turns of a "\\n\\nHuman: ...\\n\\nAssistant: ..." transcript, without the white space around them."""
    if not isinstance(text, str):
        raise RecordError(field, f"is {shown(text)}, not a transcript" if text is not None else "is missing")
    before, *parts = _TURN.split(text)
    if not parts or before.strip():
        raise RecordError(field, f'does not start with a "\\n\\nHuman:" turn ({shown(text)})')
    return [
        {"role": _SPEAKERS[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def hh_rlhf(row: Row, wanted: str) -> list[Record]:
    """Anthropic's hh-rlhf: two transcripts that share all but the last Assistant turn."""
    sides = {side: transcript(row.get(side), side) for side in ("chosen", "rejected")}
    for side, said in sides.items():
        if said[-1]["role"] != "assistant":
            raise RecordError(side, f"does not end with an Assistant turn ({shown(said[-1])})")
        if not said[-1]["content"]:
            raise RecordError(side, f"is empty: its last Assistant turn says nothing ({shown(row[side][-40:])})")
    prompt = sides["chosen"][:-1]
    if prompt != sides["rejected"][:-1]:
        at = next(
            (i for i, (a, b) in enumerate(zip(*sides.values(), strict=False)) if a != b),
            min(map(len, sides.values())),
        )
        raise RecordError("rejected", f"shares no prompt with chosen: they part at turn {at}, before the last answer")
    ends = {side: said[-1:] for side, said in sides.items()}
    return [Preference.from_row({"prompt": prompt, **ends, "margin": row.get("margin")})]


def alpaca(row: Row, wanted: str) -> list[Record]:
    """Alpaca's instruction, input and output, with the `system` and `history` of some sets, as a conversation."""
    row = {key: value[0] if is_boxed(value) else value for key, value in row.items()}
    for field in ("instruction", "input", "output", "system"):
        if not isinstance(row.get(field) or "", str):
            raise RecordError(field, f"is {shown(row[field])}, not a string")
    for field in ("instruction", "output"):
        if not (row.get(field) or "").strip():
            raise RecordError(field, f"is empty ({shown(row[field])})" if field in row else "is missing")
    turns = [{"role": "system", "content": row["system"]}] if (row.get("system") or "").strip() else []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise RecordError("history", f"is {shown(history)}, not a list of questions and answers")
    for position, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RecordError(f"history[{position}]", f"is {shown(pair)}, not a question and its answer")
        turns += [{"role": role, "content": said} for role, said in zip(("user", "assistant"), pair, strict=True)]
    question = "\n\n".join(part for part in (row["instruction"], row.get("input") or "") if part.strip())
    turns.append({"role": "user", "content": question})
    return [Demonstration.from_row({"prompt": turns, "completion": [{"role": "assistant", "content": row["output"]}]})]


def is_boxed(value: Any) -> bool:
    """A string alone in a list, as some sets write every field."""
    return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)


def gsm8k_solutions(row: Row, wanted: str) -> list[Record]:
    """GSM8K's example_model_solutions: a question and, for each of several models, a solution and `is_correct`."""
    solutions = {name: value for name, value in row.items() if isinstance(value, Mapping)}
    if not solutions:
        raise RecordError(
            "solution", f"is missing: no field holds a solution and is_correct (fields {', '.join(row)})"
        )
    question = row.get("question")
    if not isinstance(question, str):
        raise RecordError("question", f"is {shown(question)}, not a string" if question is not None else "is missing")
    prompt = [{"role": "user", "content": question}]
    records: list[Record] = []
    for name, value in solutions.items():
        answer = [{"role": "assistant", "content": value.get("solution")}]
        try:
            record = {"prompt": prompt, "completion": answer, "label": value.get("is_correct")}
            records.append(UnpairedPreference.from_row(record))
        except RecordError as error:
            raise RecordError(f"{name}: {error.field}", error.why) from error
    return records


LAYOUTS: dict[str, Callable[[Row, str], list[Record]]] = {
    layout.__name__: layout
    for layout in (
        trl,
        messages,
        hh_rlhf,
        alpaca,
        gsm8k_solutions,
        sharegpt,
        openai_preference,
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

COLUMNS = sorted(
    {"messages", "margin", *SCORES, "instruction", "input", "output", "system", "history", "question"}.union(
        *FIELDS.values(), CONVERSATION_FIELDS, JUDGED_FIELDS, ANSWER_FIELDS
    )
)
"""The fields that `columns` can name: those that some layout reads."""

"""Layouts of a prompt with its better and its worse answer: Anthropic's transcripts, and columns of other names."""

from collections.abc import Mapping
from typing import Any

from align.data.layouts.answers import ANSWERS
from align.data.layouts.columns import canonical, find
from align.data.layouts.conversations import REJECTED, side
from align.data.layouts.prompts import HISTORIES, SYSTEMS, prompt_of, transcript
from align.records import Preference, Record, RecordError, shown

Row = Mapping[str, Any]

CHOSEN = ("chosen", "chosen_response", "response_chosen", "chosen_answer")


def chosen_rejected(row: Row, wanted: str) -> list[Record]:
    """A question under a usual name, perhaps with system, history and input, and a chosen and a rejected answer.

    Orca-DPO, LLaMA-Factory's Alpaca preferences, MedicalGPT, and ms-swift's `response` with `rejected_response`.
    """
    better, chosen = find(row, CHOSEN)
    if better is None:
        better, chosen = find(row, ANSWERS)
    worse, rejected = find(row, REJECTED)
    for field, column in (("chosen", better), ("rejected", worse)):
        if column is None:
            raise RecordError(field, f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    sides = {"chosen": _side(chosen, better), "rejected": _side(rejected, worse)}
    return [Preference.from_row({"prompt": prompt_of(row), **sides, "margin": row.get("margin")})]


def names_a_rejected_answer(row: Row) -> bool:
    """Whether a row has a question and two answers, one of them rejected, that TRL's own fields do not hold."""
    worse, rejected = find(row, REJECTED)
    if worse is None or not isinstance(rejected, str | Mapping):
        return False
    if find(row, CHOSEN)[0] is None and find(row, ANSWERS)[0] is None:
        return False
    if canonical(worse) != "rejected" or row.get("prompt") is None:
        return _has_question(row)
    return any(canonical(column) in (*SYSTEMS, *HISTORIES, "input") for column in row)


def _has_question(row: Row) -> bool:
    try:
        return bool(prompt_of(row))
    except RecordError:
        return False


def _side(value: Any, field: str) -> list[dict[str, Any]]:
    if isinstance(value, str) and not value.strip():
        raise RecordError(field, f"is empty ({shown(value)})")
    return side(value, field)


def hh_rlhf(row: Row, wanted: str) -> list[Record]:
    """Anthropic's hh-rlhf: two transcripts that share all but the last Assistant turn."""
    sides = {name: transcript(row.get(name), name) for name in ("chosen", "rejected")}
    for name, said in sides.items():
        if said[-1]["role"] != "assistant":
            raise RecordError(name, f"does not end with an Assistant turn ({shown(said[-1])})")
        if not said[-1]["content"]:
            raise RecordError(name, f"is empty: its last Assistant turn says nothing ({shown(row[name][-40:])})")
    prompt = sides["chosen"][:-1]
    if prompt != sides["rejected"][:-1]:
        at = next(
            (i for i, (a, b) in enumerate(zip(*sides.values(), strict=False)) if a != b),
            min(map(len, sides.values())),
        )
        raise RecordError("rejected", f"shares no prompt with chosen: they part at turn {at}, before the last answer")
    ends = {name: said[-1:] for name, said in sides.items()}
    return [Preference.from_row({"prompt": prompt, **ends, "margin": row.get("margin")})]

"""Layouts of one answer a prompt, or of prompts alone: questions and answers, thumbs, instances, bare strings."""

from collections.abc import Mapping
from typing import Any

from align.data.layouts.judged import context_of
from align.records import Demonstration, Message, Prompt, Record, RecordError, UnpairedPreference, as_label, shown

Row = Mapping[str, Any]

QUESTIONS = ("question", "QUESTION", "query", "instruction", "dialogue", "Dialogue", "document", "article", "prompt")
ANSWERS = ("answer", "LONG_ANSWER", "response", "section_text", "Reference Summary", "summary", "highlights") + (
    "completion",
    "output",
    "solution",
    "target",
)
VERDICTS = ("is_correct", "thumbs", "thumbs_up", "liked", "feedback", "vote", "rating", "correct", "good", "label")
ANSWER_FIELDS = ("answer", "context", "verdict", "turns", "instances")
_WORDS = {"up": True, "down": False, "thumbs_up": True, "thumbs_down": False, "👍": True, "👎": False}
_WORDS |= {"good": True, "bad": False, "correct": True, "incorrect": False, "yes": True, "no": False}
_WORDS |= {"like": True, "dislike": False, "positive": True, "negative": False, "+1": True, "-1": False}
_WORDS |= {"liked": True, "disliked": False, "right": True, "wrong": False}


def question_answer(row: Row, wanted: str) -> list[Record]:
    """A question, perhaps with a context before it, and its answer, under the usual names (also a text's summary)."""
    prompt = [_user(_question(row))]
    if wanted == "prompt_only":
        return [Prompt.from_row({"prompt": prompt})]
    answer = field_of(row, ANSWERS)
    if answer is None:
        raise RecordError("answer", f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    return [Demonstration.from_row({"prompt": prompt, "completion": [_assistant(row[answer], answer)]})]


def verdict(row: Row, wanted: str) -> list[Record]:
    """A prompt, an answer, and a thumb up or down (also is_correct, liked, good/bad): an unpaired preference."""
    answer, said = field_of(row, ANSWERS), field_of(row, ("verdict", *VERDICTS))
    for field, found in (("answer", answer), ("verdict", said)):
        if found is None:
            raise RecordError(field, f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    label = as_verdict(row[said])
    if label is None:
        raise RecordError(said, f"is {shown(row[said])}, neither up nor down, true nor false")
    completion = [_assistant(row[answer], answer)]
    given = {"prompt": [_user(_question(row))], "completion": completion, "label": label}
    return [UnpairedPreference.from_row(given)]


def as_verdict(value: Any) -> bool | None:
    """True or false for a thumb, a word or a number; None for anything else."""
    label = as_label(value)
    if label is None and isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return {-1: False}.get(value) if label is None and isinstance(value, int) else label


def instances(row: Row, wanted: str) -> list[Record]:
    """Self-Instruct's seed tasks: an instruction and, in `instances`, inputs with their outputs."""
    given = row.get("instances")
    if not isinstance(row.get("instruction"), str):
        raise RecordError("instruction", f"is {shown(row.get('instruction'))}, not a string")
    if not isinstance(given, list) or not given:
        raise RecordError("instances", f"is {shown(given)}, not a list of inputs and outputs")
    records: list[Record] = []
    for position, one in enumerate(given):
        if not isinstance(one, Mapping):
            raise RecordError(f"instances[{position}]", f"is {shown(one)}, not an input and an output")
        parts = [row["instruction"], one.get("input") if isinstance(one.get("input"), str) else ""]
        prompt = [_user("\n\n".join(part for part in parts if part.strip()))]
        completion = [_assistant(one.get("output"), f"instances[{position}].output")]
        records.append(Demonstration.from_row({"prompt": prompt, "completion": completion}))
    return records


def turns(row: Row, wanted: str) -> list[Record]:
    """MT-Bench's `turns`: the first question is a prompt; a later one needs an answer before it and is left out."""
    given = row.get("turns")
    if not isinstance(given, list) or not given or not isinstance(given[0], str):
        raise RecordError("turns", f"is {shown(given)}, not a list of questions")
    return [Prompt.from_row({"prompt": [_user(given[0])]})]


def string(row: Row, wanted: str) -> list[Record]:
    """A file of bare JSON strings, each a prompt (a text for language_modeling)."""
    from align.records import Text

    said = row.get("string")
    if not isinstance(said, str):
        raise RecordError("string", f"is {shown(said)}, not a string" if said is not None else "is missing")
    if wanted == "language_modeling":
        return [Text.from_row({"text": said})]
    return [Prompt.from_row({"prompt": [_user(said)]})]


def field_of(row: Row, names: tuple[str, ...]) -> str | None:
    """The first of the names that the row has a value under."""
    return next((name for name in names if row.get(name) is not None), None)


def _question(row: Row) -> str:
    name = field_of(row, QUESTIONS)
    if name is None:
        raise RecordError("question", f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    if not isinstance(row[name], str) or not row[name].strip():
        raise RecordError(name, f"is {shown(row[name])}, not a question")
    return "\n\n".join(part for part in (context_of(row), row[name]) if part)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(value: Any, field: str) -> Message:
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(value, str):
        raise RecordError(field, f"is {shown(value)}, not a string")
    if not value.strip():
        raise RecordError(field, f"is empty ({shown(value)})")
    return {"role": "assistant", "content": value}

"""Layouts of one answer to a prompt, or of prompts alone: questions and answers, thumbs, instances, bare strings."""

from collections.abc import Mapping
from typing import Any

from align.data.layouts.columns import canonical, columns_named, find
from align.data.layouts.prompts import QUESTIONS, prompt_of
from align.data.layouts.verdicts import Mapped, label_text
from align.records import (
    LATER_TURNS,
    Demonstration,
    Message,
    Prompt,
    Record,
    RecordError,
    Text,
    UnpairedPreference,
    as_label,
    shown,
)

Row = Mapping[str, Any]

ANSWERS = ("answer", "long_answer", "response", "section_text", "reference_summary", "summary", "highlights")
ANSWERS += ("completion", "output", "solution", "target")
VERDICTS = ("is_correct", "thumbs", "thumbs_up", "liked", "feedback", "vote", "rating", "correct", "good", "label")
LABELS = ("verdict", "kto_tag", *VERDICTS)
"""The columns that may say whether an answer is a good one."""
ANSWER_FIELDS = ("answer", "context", "verdict", "turns", "instances")
_WORDS = {"up": True, "down": False, "thumbs_up": True, "thumbs_down": False, "👍": True, "👎": False}
_WORDS |= {"good": True, "bad": False, "correct": True, "incorrect": False, "yes": True, "no": False}
_WORDS |= {"like": True, "dislike": False, "positive": True, "negative": False, "+1": True}
_WORDS |= {"liked": True, "disliked": False, "right": True, "wrong": False, "true": True, "false": False}
# columns whose name says that 1 is good and 0 is not; in any other the numbers mean nothing by themselves
_ONE_IS_GOOD = {"is_correct", "correct", "liked", "good", "thumbs_up", "kto_tag"}
_SIGNED = {"thumbs", "vote", "feedback"}


def question_answer(row: Row, wanted: str) -> list[Record]:
    """A question and its answer under the usual names (also a text's summary), with system, history and context."""
    prompt = prompt_of(row)
    column, value = find(row, ANSWERS)
    if wanted == "prompt_only":
        return [Prompt.from_row({"prompt": prompt})]
    if column is None:
        raise RecordError("answer", f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    return [
        labelled(Demonstration.from_row({"prompt": prompt, "completion": [assistant(value, column)]}), row, wanted)
    ]


def verdict(row: Row, wanted: str) -> list[Record]:
    """A prompt, an answer, and a thumb up or down (also is_correct, liked, good/bad): an unpaired preference."""
    for field, names in (("answer", ANSWERS), ("verdict", LABELS)):
        if find(row, names)[0] is None:
            raise RecordError(field, f"is missing (the row has {', '.join(map(str, row)) or 'nothing'})")
    return question_answer(row, "unpaired_preference")


def labelled(record: Demonstration, row: Row, wanted: str) -> Record:
    """The demonstration of a row that may also say whether its answer is a good one: then an unpaired preference.

    Raises:
        RecordError: unpaired preferences are wanted, and the label says neither.
    """
    column = label_column(row)
    if column is not None:
        label = as_verdict(row[column], column)
        return UnpairedPreference(record.prompt, record.completion, bool(label), record.tools)
    column, value = find(row, LABELS)
    if wanted == "unpaired_preference" and column is not None:
        raise RecordError(column, f"is {shown(label_text(value))}, neither up nor down, true nor false")
    return record


def label_column(row: Row) -> str | None:
    """The first column that says whether an answer is a good one."""
    columns = columns_named(row, LABELS)
    return next((column for column in columns if as_verdict(row[column], column) is not None), None)


def as_verdict(value: Any, column: str = "verdict") -> bool | None:
    """True or false for a thumb or a word; None for anything else.

    A number says it only where its column's name does: 1 is good in `is_correct`, and +1 and -1 are a vote. 0 and 1
    in a column `label` or `rating` could mean anything.
    """
    if isinstance(value, bool):
        return value
    if not isinstance(value, str | int | float):
        return None
    if isinstance(value, Mapped):
        text = str(value).strip().lower()
        return _WORDS.get(text, as_label(text))
    text, name = label_text(value).lower(), canonical(column)
    if text in ("0", "1") and name in _ONE_IS_GOOD:
        return text == "1"
    if text in ("1", "-1") and name in _SIGNED:
        return text == "1"
    return _WORDS.get(text)


def instances(row: Row, wanted: str) -> list[Record]:
    """Self-Instruct's seed tasks: an instruction and, in `instances`, inputs with their outputs."""
    tasks = row.get("instances")
    if not isinstance(row.get("instruction"), str):
        raise RecordError("instruction", f"is {shown(row.get('instruction'))}, not a string")
    if not isinstance(tasks, list) or not tasks:
        raise RecordError("instances", f"is {shown(tasks)}, not a list of inputs and outputs")
    records: list[Record] = []
    for position, task in enumerate(tasks):
        if not isinstance(task, Mapping):
            raise RecordError(f"instances[{position}]", f"is {shown(task)}, not an input and an output")
        parts = [row["instruction"], task.get("input") if isinstance(task.get("input"), str) else ""]
        prompt = [user("\n\n".join(part for part in parts if part.strip()))]
        completion = [assistant(task.get("output"), f"instances[{position}].output")]
        records.append(Demonstration.from_row({"prompt": prompt, "completion": completion}))
    return records


def turns(row: Row, wanted: str) -> list[Record]:
    """MT-Bench's `turns`: the first question is the prompt, the later ones are asked after the model's own answers."""
    questions = row.get("turns")
    if not isinstance(questions, list) or not questions or not isinstance(questions[0], str):
        raise RecordError("turns", f"is {shown(questions)}, not a list of questions")
    return [Prompt.from_row({"prompt": [user(questions[0])], LATER_TURNS: questions[1:]})]


def string(row: Row, wanted: str) -> list[Record]:
    """A file of bare JSON strings, each a prompt (a text for language_modeling)."""
    text = row.get("string")
    if not isinstance(text, str):
        raise RecordError("string", f"is {shown(text)}, not a string" if text is not None else "is missing")
    if wanted == "language_modeling":
        return [Text.from_row({"text": text})]
    return [Prompt.from_row({"prompt": [user(text)]})]


def has_question(row: Row) -> bool:
    """Whether a row holds a question under a usual name."""
    return find(row, QUESTIONS)[0] is not None


def user(text: str) -> Message:
    """A message of the user."""
    return {"role": "user", "content": text}


def assistant(value: Any, field: str) -> Message:
    """An answer, also alone in a list, as the assistant's message. Raises RecordError for what is not text."""
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if not isinstance(value, str):
        raise RecordError(field, f"is {shown(value)}, not a string")
    if not value.strip():
        raise RecordError(field, f"is empty ({shown(value)})")
    return {"role": "assistant", "content": value}

"""What a file is, told from its rows: the layout that reads most of the first ones, and why."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from align.data.layouts.answers import ANSWERS, label_column
from align.data.layouts.columns import answer_pair, column_of, score_pair
from align.data.layouts.formats import LAYOUTS, PLUGINS, held_format
from align.data.layouts.judged import JUDGED, VERDICTS, annotator_fields, prediction_fields, question_fields
from align.data.layouts.labels import undefined, undefined_sentence
from align.data.layouts.preferences import names_a_rejected_answer
from align.data.layouts.projects import is_bfcl, is_fastchat, is_moss
from align.data.layouts.prompts import QUESTIONS
from align.data.layouts.trees import has_ranks, is_flat
from align.data.readers.row import Row, Unreadable
from align.errors import UserError
from align.records import Record, RecordError, shown

SAMPLE = 200  # rows looked at


class UndefinedLabels(UserError):
    """The labels of a file mean nothing by themselves: whoever reads it must say what they mean."""

    def __init__(self, where: str, rows: Iterable[Mapping[str, Any]], layout: str, column: str):
        super().__init__(f"{where}: {undefined_sentence(rows, layout, column)}")
        self.layout, self.column = layout, column


@dataclass(frozen=True)
class Recognised:
    """A layout, the format its rows hold, and the sentence that says how it was told."""

    layout: str
    format: str
    why: str


def _is_list(row: Mapping[str, Any], *names: str) -> bool:
    return any(isinstance(row.get(name), list) and row[name] for name in names)


def _transcripts(row: Mapping[str, Any]) -> bool:
    return all(isinstance(row.get(side), str) and "\n\nHuman:" in row[side] for side in ("chosen", "rejected"))


def _two(row: Mapping[str, Any]) -> bool:
    pair = answer_pair(row)
    if pair is None or (column_of(row, VERDICTS) is None and score_pair(row, pair) is None):
        return False
    return column_of(row, question_fields(row)) is not None or all(isinstance(row[side], list) for side in pair)


def _listed(row: Mapping[str, Any]) -> bool:
    for name in ("responses", "completions", "answers", "outputs", "candidates", "generations"):
        given = row.get(name)
        if isinstance(given, list) and len(given) > 1:
            inside = isinstance(given[0], Mapping)
            where = given[0] if inside else row
            return any(
                where.get(field) is not None
                for field in ("score", "scores", "rating", "ratings", "rank", "ranks", "ranking", "overall_score")
                + ("rewards",)
            )
    return False


def _answered(row: Mapping[str, Any]) -> bool:
    question, answer = column_of(row, QUESTIONS), column_of(row, ANSWERS)
    return None not in (question, answer) and question != answer


SIGNS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], bool]], ...] = (
    *((name, layout.sign, layout.looks) for name, layout in PLUGINS.items() if layout.looks is not None),
    ("message_tree", "prompt is a message with replies", lambda row: isinstance(row.get("prompt"), Mapping)),
    ("moss", "chat holds turns of Human and MOSS", is_moss),
    ("fastchat_answers", "choices hold turns of answers", is_fastchat),
    ("bfcl", "a question and the functions that may be called", is_bfcl),
    ("message_tree", "messages name the message they answer", is_flat),
    ("hh_rlhf", "chosen and rejected are transcripts of Human and Assistant", _transcripts),
    ("sharegpt", "conversations is a list of turns", lambda row: _is_list(row, "conversations", "conversation")),
    (
        "openai_preference",
        "it has preferred_output and non_preferred_output",
        lambda row: {"preferred_output", "non_preferred_output"} <= row.keys(),
    ),
    (
        "annotators",
        "two answers, and a verdict of each annotator",
        lambda row: bool(annotator_fields(row)) and answer_pair(row) is not None,
    ),
    (
        "pairwise_votes",
        "numbered predictions, and a list of verdicts on their pairs",
        lambda row: len(prediction_fields(row)) > 1 and isinstance(row.get("preference"), list),
    ),
    ("two_outputs", "two answers, and a label or their scores", _two),
    ("chosen_rejected", "a question, a chosen and a rejected answer", names_a_rejected_answer),
    ("trl", "TRL's own fields", lambda row: held_format(row) == "preference"),
    ("responses", "a list of answers with scores or ranks", _listed),
    (
        "trl",
        "TRL's own fields",
        lambda row: held_format(row) in ("preference", "unpaired_preference", "prompt_completion"),
    ),
    ("messages", "messages is a list of messages", lambda row: _is_list(row, "messages")),
    ("instances", "an instruction, and instances of it", lambda row: isinstance(row.get("instances"), list)),
    ("turns", "turns is a list of questions", lambda row: isinstance(row.get("turns"), list)),
    (
        "gsm8k_solutions",
        "a question, and solutions with is_correct",
        lambda row: (
            "question" in row and any(isinstance(value, Mapping) and "is_correct" in value for value in row.values())
        ),
    ),
    (
        "alpaca",
        "instruction and output",
        lambda row: row.get("instruction") is not None and "output" in row,
    ),
    (
        "verdict",
        "a prompt, an answer, and a thumb",
        lambda row: _answered(row) and label_column(row) is not None,
    ),
    (
        "question_answer",
        "a question and its answer under usual names",
        _answered,
    ),
    ("trl", "a text", lambda row: isinstance(row.get("text"), str)),
    ("trl", "a prompt alone", lambda row: held_format(row) == "prompt_only"),
    ("string", "bare strings", lambda row: isinstance(row.get("string"), str)),
)
"""(layout, how it is told, whether a row looks so): the first that fits a row is its."""


def recognise(rows: Iterable[Row], where: str, *, wanted: str | None = None, layout: str | None = None) -> Recognised:
    """What the rows are; `wanted` is the format to be made, `layout` one that is given.

    Raises:
        UserError: no layout fits, or most rows of the one that does are malformed in one way.
        UndefinedLabels: nothing says which answer a label prefers.
    """
    sample = [row for row, _ in zip(rows, range(SAMPLE), strict=False)]
    readable = [as_row(row) for row in sample]
    readable = [row for row in readable if not isinstance(row, Unreadable)]
    if not readable:
        why = f"the first: {sample[0].why}" if sample else "it holds no rows"
        raise UserError(f"{where}: no row of it can be read, {why}")
    if layout is not None:
        _check_labels(readable, layout, where)
        return Recognised(layout, _format(readable, layout, wanted, where), "as given")
    votes = Counter(sign for row in readable if (sign := _sign(row, wanted)) is not None)
    if not votes and all(_is_number(value) for row in readable for value in row.values()):
        raise UserError(
            f"{where}: holds numbers alone; where they are scores of another file's rows, name that file and, with "
            "--beside, this one"
        )
    if not votes:
        fields = ", ".join(map(str, readable[0])) or "nothing"
        raise UserError(
            f"{where}: no layout is known that has the fields {shown(fields)[1:-1]}; name one with --layout "
            f"({', '.join(LAYOUTS)}) or say which field is what: --columns prompt=THEIRS,completion=THEIRS"
        )
    (found, why), count = votes.most_common(1)[0]
    _check_labels(readable, found, where)
    return Recognised(
        found, _format(readable, found, wanted, where), f"{why}: {count} of the first {len(readable)} rows"
    )


def _check_labels(rows: list[Mapping[str, Any]], layout: str, where: str) -> None:
    if layout in JUDGED and (column := undefined(rows, layout)) is not None:
        raise UndefinedLabels(where, rows, layout, column)


def as_row(row: Row) -> Row:
    """A bare JSON string as a row of the layout `string`; anything else as it is."""
    return {"string": row.value} if isinstance(row, Unreadable) and isinstance(row.value, str) else row


def _is_number(value: Any) -> bool:
    try:
        return value is None or value == "" or float(value) is not None
    except (TypeError, ValueError):
        return False


def _sign(row: Mapping[str, Any], wanted: str | None) -> tuple[str, str] | None:
    if wanted == "language_modeling" and isinstance(row.get("text"), str):
        return "trl", "a text"
    return next(((layout, why) for layout, why, looks in SIGNS if looks(row)), None)


def _format(rows: list[Mapping[str, Any]], layout: str, wanted: str | None, where: str) -> str:
    """`wanted`, else the format that most rows hold."""
    if wanted is not None:
        return wanted
    if layout == "message_tree":
        return "preference" if any(has_ranks(row) for row in rows) else "prompt_completion"
    held: Counter[str] = Counter()
    malformed: RecordError | None = None
    for row in rows:
        try:
            records: list[Record] = LAYOUTS[layout](row, _natural(row, layout))
            held.update([records[0].format])
        except RecordError as error:
            malformed = malformed or error
    if not held:
        raise UserError(
            f"{where}: of the first {len(rows)} rows none is sound in the layout {layout}, the first: {malformed}; "
            "name another with --layout, or fields with --columns"
        )
    return held.most_common(1)[0][0]


def _natural(row: Mapping[str, Any], layout: str) -> str:
    """The format to ask a layout for where nobody has said: what TRL's fields make, else a demonstration."""
    if layout == "trl":
        return held_format(row) or "prompt_only"
    return "prompt_only" if layout in ("turns", "string", "bfcl") else "prompt_completion"

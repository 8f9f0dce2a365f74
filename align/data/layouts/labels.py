"""How each value of a label was read, counted; and what to write where a file does not say what its labels mean."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from align.data.layouts.annotations import score_column
from align.data.layouts.answers import as_verdict, label_column
from align.data.layouts.columns import answer_pair, find, score_pair
from align.data.layouts.judged import (
    JUDGED,
    VERDICTS,
    annotator_fields,
    annotator_outcome,
    order_column,
    prediction_fields,
    two_fields,
    vote_outcome,
)
from align.data.layouts.trees import has_ranks
from align.data.layouts.verdicts import Mapped, UndefinedLabel, as_outcome, label_text
from align.records import RecordError, as_label

Row = Mapping[str, Any]

OUTCOMES = {1: "first answer better", 2: "second answer better", 0: "tie"}
GOOD, BAD = "good", "bad"
MOST = 40  # values of one column that are counted apart
OTHERS = "(other values)"
COUNTED = 100_000  # rows in which the values of an undefined label are counted


@dataclass(frozen=True)
class Label:
    """A label of one row: its column, what the file says there, and what that was read as."""

    column: str
    value: str
    meaning: str


def labels_of(layout: str, row: Row) -> list[Label]:
    """The labels of a row as the layout reads them; those that it does not understand are left out."""
    try:
        found = list(_LABELS.get(layout, _answer)(row))
    except RecordError:
        found = []
    scored = layout not in JUDGED and layout not in _LABELS or layout == "trl"
    if scored and not found and (column := score_column(row)) is not None:
        found.append(Label(column, "number", "score, kept next to the answer"))
    return found


def _two_outputs(row: Row) -> Iterable[Label]:
    pair = two_fields(row)
    column, value = find(row, VERDICTS)
    if column is not None and (outcome := as_outcome(value, column, pair)) is not None:
        yield Label(column, label_text(value), OUTCOMES[outcome])
    elif column is None and (scored := score_pair(row, pair)):
        yield Label(" and ".join(scored), "number", "score, the highest is best")


def _annotators(row: Row) -> Iterable[Label]:
    pair = two_fields(row)
    for column in annotator_fields(row):
        if (outcome := annotator_outcome(row[column], column, pair)) is not None:
            yield Label("annotators", label_text(row[column]), OUTCOMES[outcome])


def _pairwise_votes(row: Row) -> Iterable[Label]:
    votes = row.get("preference")
    for vote in votes if isinstance(votes, list) and prediction_fields(row) else ():
        if (outcome := vote_outcome(vote)) is not None:
            yield Label("preference", label_text(vote), OUTCOMES[outcome])


def _responses(row: Row) -> Iterable[Label]:
    column, is_rank = order_column(row)
    yield Label(column, "number", "rank, the lowest is best" if is_rank else "score, the highest is best")


def _message_tree(row: Row) -> Iterable[Label]:
    if has_ranks(row):
        yield Label("rank", "number", "rank, the lowest is best")


def _gsm8k_solutions(row: Row) -> Iterable[Label]:
    for value in row.values():
        if isinstance(value, Mapping) and (label := as_verdict(value.get("is_correct"))) is not None:
            yield Label("is_correct", label_text(value["is_correct"]), GOOD if label else BAD)


def _trl(row: Row) -> Iterable[Label]:
    has_answer = row.get("prompt") is not None and row.get("completion") is not None
    if has_answer and (label := as_label(row.get("label"))) is not None:
        yield Label("label", label_text(row["label"]), GOOD if label else BAD)


def _answer(row: Row) -> Iterable[Label]:
    column = label_column(row)
    if column is not None and (label := as_verdict(row[column], column)) is not None:
        yield Label(column, label_text(row[column]), GOOD if label else BAD)


_LABELS: dict[str, Callable[[Row], Iterable[Label]]] = {
    "two_outputs": _two_outputs,
    "annotators": _annotators,
    "pairwise_votes": _pairwise_votes,
    "responses": _responses,
    "message_tree": _message_tree,
    "gsm8k_solutions": _gsm8k_solutions,
    "trl": _trl,
}


def pair_values(layout: str, row: Row) -> list[tuple[str, str]]:
    """(column, value) of what a row says of its pairs of answers, as the file writes it, without what is mapped."""
    if layout == "two_outputs":
        column, value = find(row, VERDICTS)
        given = [] if column is None else [(column, value)]
    elif layout == "annotators":
        given = [(column, row[column]) for column in annotator_fields(row) if row[column] not in (None, "")]
    else:
        given = []
    return [(column, label_text(value)) for column, value in given if not isinstance(value, Mapped | list | dict)]


def undefined(rows: Iterable[Row], layout: str) -> str | None:
    """The column of a label on two answers that nothing in the rows defines; None where there is none.

    One number that is not defined leaves the others open too: 1 is the first answer or the second. A word that is not
    known is a malformed row, unless no label of the rows is known.
    """
    unknown = None
    known = 0
    for row in rows:
        values = pair_values(layout, row)
        try:
            JUDGED[layout](row)
            known += bool(values)
        except UndefinedLabel as error:
            unknown = unknown or error.column
            if is_number(error.value):
                return error.column
        except RecordError:
            continue
    return unknown if not known else None


def undefined_sentence(rows: Iterable[Row], layout: str, column: str) -> str:
    """What is to be said of a label whose values nothing defines: how often each is there, and the choices.

    The first COUNTED rows are looked at, for a set on the Hub may have no end that is near.
    """
    counts: Counter[str] = Counter()
    pair: tuple[str, str] | None = None
    for row in islice(rows, COUNTED):
        pair = pair or answer_pair(row)
        counts.update(value for name, value in pair_values(layout, row) if name == column or layout == "annotators")
    values = ", ".join(f"{value} ({count} rows)" for value, count in sorted(counts.items())[:6])
    choices = pair_choices(list(counts))
    options = " or ".join(labels_option(choice) for choice in choices)
    config = choices[0].replace("=", ": ").replace(",", ", ")
    first, second = pair or ("the first answer", "the second")
    return (
        f"{column} holds {values}, and nothing says which value means that {first} is better and which {second}: "
        f"write {options} "
        f"(in a run 'data.preference.labels={{{config}}}')"
    )


def labels_option(choice: str) -> str:
    """`--labels 0=first,1=second`; with an equals sign where a minus would look like another option."""
    return f"--labels={choice}" if choice.startswith("-") else f"--labels {choice}"


def is_number(value: str) -> bool:
    """Whether a label is a number or true or false, which could stand for anything."""
    return value in ("true", "false") or value.removeprefix("-").replace(".", "", 1).isdigit()


class LabelCounts:
    """How often each label was read, and as what."""

    def __init__(self) -> None:
        self.counts: Counter[Label] = Counter()
        self._values: Counter[str] = Counter()  # distinct values, by column

    def add(self, labels: Iterable[Label]) -> None:
        for label in labels:
            if label not in self.counts:
                self._values[label.column] += 1
                if self._values[label.column] > MOST:
                    label = Label(label.column, OTHERS, label.meaning)
            self.counts[label] += 1

    def rows(self) -> list[dict[str, Any]]:
        """`column`, `value`, `meaning`, `count`: by column, then by value."""
        found = sorted(self.counts.items(), key=lambda item: (item[0].column, item[0].value == OTHERS, item[0].value))
        return [{**asdict(label), "count": count} for label, count in found]


def label_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each column: `label 0 -> first answer better (431), 1 -> second answer better (401)`."""
    by_column: dict[str, list[str]] = {}
    for row in rows:
        by_column.setdefault(row["column"], []).append(f"{row['value']} -> {row['meaning']} ({row['count']})")
    return [f"{column} {', '.join(readings)}" for column, readings in by_column.items()]


def pair_choices(values: Iterable[str]) -> list[str]:
    """What `--labels` could say of such values of a label on two answers, each a choice; one template for many."""
    found = sorted(set(values), key=lambda value: (not value.lstrip("-").isdigit(), len(value), value))
    if set(found) == {"0", "1", "2"}:
        return ["0=first,1=second,2=tie", "0=tie,1=first,2=second"]
    if set(found) == {"-1", "0", "1"}:
        return ["-1=first,0=tie,1=second", "-1=second,0=tie,1=first"]
    if len(found) == 2:
        return [f"{found[0]}=first,{found[1]}=second", f"{found[0]}=second,{found[1]}=first"]
    if len(found) == 1:
        return [f"{found[0]}=first", f"{found[0]}=second"]
    return [",".join(f"{value}=first|second|tie" for value in found[:4])]


def answer_choices(values: Iterable[str]) -> list[str]:
    """What `--labels` could say of such values of a label on one answer."""
    found = sorted(set(values), key=lambda value: (len(value), value))
    if len(found) == 2:
        return [f"{found[0]}=bad,{found[1]}=good", f"{found[0]}=good,{found[1]}=bad"]
    if len(found) == 1:
        return [f"{found[0]}=good", f"{found[0]}=bad"]
    return [",".join(f"{value}=good|bad" for value in found[:6])]

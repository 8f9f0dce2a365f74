"""A file's own names for columns, labels and speakers, mapped to ours."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from align.data.layouts import answers, conversations, judged, preferences, prompts
from align.data.layouts.columns import SetAside, answer_number, canonical
from align.data.layouts.formats import COLUMNS
from align.data.layouts.verdicts import Mapped, label_text
from align.errors import UserError
from align.records import RecordError, shown

_LABELS = {*judged.VERDICTS, *answers.LABELS}
_SPEAKERS = ("role", "from")
_FAMILIES = (
    set(prompts.QUESTIONS) - {"input"},  # which comes with an instruction
    set(prompts.SYSTEMS),
    set(prompts.HISTORIES),
    set(prompts.CONTEXTS),
    set(answers.ANSWERS),
    set(preferences.CHOSEN),
    set(conversations.REJECTED),
    {"messages", "conversations", "conversation", "text"},
    {*judged.SCORES, *judged.RANKS},
    set(judged.LISTS),
    _LABELS,
)
"""Names under which layouts look for one thing; the first that a row has is taken."""


class MappingError(UserError):
    """A mapping that names something missing, or that would have no effect."""


@dataclass(frozen=True)
class Names:
    """The mapping, each part empty where the file's words are ours."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our field -> their column
    labels: Mapping[str, str] = field(default_factory=dict)  # their word for a label -> ours
    roles: Mapping[str, str] = field(default_factory=dict)  # who speaks, in their word -> user, assistant, system, ...

    def check(self, what: str = "", kept: Collection[str] = ()) -> None:
        """Raises MappingError where the mapping names no field or role of ours; `what` begins the sentence.

        Args:
            kept: the columns that stay with the records, which can be given another name too.
        """
        for ours in self.columns:
            if ours not in COLUMNS and ours not in kept:
                raise MappingError(
                    f"{what}columns: {ours!r} is not a field; write FIELD=COLUMN with one of the fields "
                    f"{', '.join(COLUMNS)}"
                )
        for theirs, ours in self.roles.items():
            if ours not in prompts.ROLES.values():
                known = ", ".join(dict.fromkeys(prompts.ROLES.values()))
                raise MappingError(f"{what}roles: {theirs} is {ours!r}, which is not one of {known}")

    def apply(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """`row` in our words. Raises RecordError where it lacks a column."""
        if self.columns:
            row = self._renamed(row)
        if self.labels:
            row = {key: self._label(key, value) for key, value in row.items()}
        try:
            return self._spoken(row) if self.roles else row
        except RecursionError:
            raise RecordError("row", "is nested too deep") from None

    def _renamed(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with its columns under our names; a column that a layout would take instead is set aside."""
        for ours, column in self.columns.items():
            if column not in row:
                has = ", ".join(map(str, row)) or "nothing"
                raise RecordError(
                    ours, f"should be column {column!r}, which is missing (the row has {shown(has, 200)[1:-1]})"
                )
        kept = {key: value for key, value in row.items() if key not in self.columns.values()}
        rivals = _rivals(self.columns)
        kept = {SetAside(key) if _is_rival(key, rivals) else key: value for key, value in kept.items()}
        return kept | {ours: row[column] for ours, column in self.columns.items()}

    def _label(self, key: Any, value: Any) -> Any:
        if not _holds_labels(key):
            return value
        if isinstance(value, list):  # the votes on several pairs of answers
            return [self._label(key, vote) for vote in value]
        if not isinstance(value, str | int | float):
            return value
        theirs = label_text(value)
        ours = self.labels.get(str(value), self.labels.get(theirs))
        return value if ours is None else Mapped(ours, theirs)

    def _spoken(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._spoken(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        return {
            key: self.roles.get(item, item) if key in _SPEAKERS and isinstance(item, str) else self._spoken(item)
            for key, item in value.items()
        }


def label_columns(row: Any, kind: type = object) -> dict[str, list[Any]]:
    """Column -> the labels of type `kind` in it, of the columns that may hold labels."""
    found: dict[str, list[Any]] = {}
    for key, value in row.items() if isinstance(row, Mapping) else ():
        if _holds_labels(key):
            labels = [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, kind)]
            labels = [item for item in labels if isinstance(item, str | int | float)]
            if labels:
                found[key] = labels
    return found


def speakers(value: Any, depth: int = 0) -> Iterator[str]:
    """What a row calls those who speak in it."""
    if isinstance(value, list):
        for item in value:
            yield from speakers(item, depth + 1)
    elif isinstance(value, Mapping) and depth < 50:
        for key, item in value.items():
            if key in _SPEAKERS and isinstance(item, str):
                yield item
            else:
                yield from speakers(item, depth + 1)


def _holds_labels(key: Any) -> bool:
    return canonical(key) in _LABELS or bool(judged.annotator_fields({key: 0}))


def _rivals(columns: Mapping[str, str]) -> set[str]:
    """The mapped fields, and the names that a layout might look under in place of them."""
    return set(columns).union(*(family for family in _FAMILIES if not family.isdisjoint(columns)))


def _is_rival(key: Any, rivals: set[str]) -> bool:
    if canonical(key) in rivals:
        return True
    if not rivals.isdisjoint(("output_1", "output_2")) and answer_number(str(key)):
        return True
    return not rivals.isdisjoint(_LABELS) and bool(judged.annotator_fields({key: 0}))

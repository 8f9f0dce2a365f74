"""What a file calls otherwise than we do: its columns, its verdicts, and who speaks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from align.data.layouts import answers, judged
from align.data.layouts.columns import canonical
from align.data.layouts.formats import COLUMNS, rename
from align.data.layouts.prompts import ROLES
from align.data.layouts.verdicts import Mapped, label_text
from align.errors import UserError
from align.records import RecordError

_VERDICTS = {*judged.VERDICTS, *answers.LABELS}
_SPEAKERS = ("role", "from")


@dataclass(frozen=True)
class Names:
    """The mapping, each empty where the file's words are ours."""

    columns: Mapping[str, str] = field(default_factory=dict)  # our field -> their column
    labels: Mapping[str, str] = field(default_factory=dict)  # their word for a verdict -> ours
    roles: Mapping[str, str] = field(default_factory=dict)  # who speaks, in their word -> user, assistant, system, ...

    def check(self, what: str = "", kept: Collection[str] = ()) -> None:
        """Raises UserError where there is nothing of ours by such a name; `what` goes before it in the sentence.

        Args:
            kept: the columns that stay with the records, which can be given another name too.
        """
        for ours in self.columns:
            if ours not in COLUMNS and ours not in kept:
                raise UserError(
                    f"{what}columns: {ours!r} is no field of ours ({', '.join(COLUMNS)}); write our field, then their "
                    "column"
                )
        for theirs, ours in self.roles.items():
            if ours not in ROLES.values():
                known = ", ".join(dict.fromkeys(ROLES.values()))
                raise UserError(f"{what}roles: {theirs} is {ours!r}, and a role is one of {known}")

    def apply(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """`row` in our words. Raises RecordError where it lacks a column."""
        row = rename(row, self.columns)
        if self.labels:
            row = {key: self._label(key, value) for key, value in row.items()}
        try:
            return self._spoken(row) if self.roles else row
        except RecursionError:
            raise RecordError("row", "is nested too deep") from None

    def _label(self, key: Any, value: Any) -> Any:
        if canonical(key) not in _VERDICTS and not judged.annotator_fields({key: 0}):
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
            return [self._spoken(one) for one in value]
        if not isinstance(value, Mapping):
            return value
        return {
            key: self.roles.get(one, one) if key in _SPEAKERS and isinstance(one, str) else self._spoken(one)
            for key, one in value.items()
        }

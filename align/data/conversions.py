"""A record in another format: a preference as two unpaired ones, a demonstration as a prompt, and so on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from align.records import (
    Demonstration,
    Prompt,
    Record,
    RecordError,
    Text,
    UnpairedPreference,
    columns_of,
    with_columns,
)

REFERENCE = "answer"
"""The column in which a prompt made of a demonstration keeps the demonstration's completion."""


class NoConversion(ValueError):
    """There is no conversion from the format `have` to the format `need`."""

    def __init__(self, have: str, need: str):
        super().__init__(f"a {have} record does not become {need}")
        self.have = have
        self.need = need


def _to_prompt(record: Demonstration) -> list[Prompt]:
    completion = record.completion
    text = completion if isinstance(completion, str) else completion[-1].get("content")
    return [Prompt(record.prompt, columns={REFERENCE: text} if text else None)]


def _to_text(record: Demonstration) -> list[Text]:
    if not isinstance(record.prompt, str):
        raise RecordError(
            "prompt", "is a list of messages: prompt_completion becomes language_modeling only for strings"
        )
    return [Text(record.prompt + record.completion)]


_CONVERSIONS: dict[tuple[str, str], Callable[[Any], list[Record]]] = {
    ("preference", "prompt_completion"): lambda record: [Demonstration(record.prompt, record.chosen)],
    ("preference", "unpaired_preference"): lambda record: [
        UnpairedPreference(record.prompt, record.chosen, True),
        UnpairedPreference(record.prompt, record.rejected, False),
    ],
    ("preference", "prompt_only"): lambda record: [Prompt(record.prompt)],
    ("unpaired_preference", "prompt_only"): lambda record: [Prompt(record.prompt)],
    ("prompt_completion", "prompt_only"): _to_prompt,
    ("prompt_completion", "language_modeling"): _to_text,
}


def converts(have: str, need: str) -> bool:
    """Whether records of the format `have` can be made into the format `need`."""
    return have == need or (have, need) in _CONVERSIONS


def convert(record: Record, format: str) -> list[Record]:
    """`record` in another format; a preference gives two unpaired records. Raises NoConversion, RecordError.

    Tools and columns go along; a demonstration's prompt also has its completion as the column `answer`, unless the
    record has such a column.
    """
    if not converts(record.format, format):
        raise NoConversion(record.format, format)
    if record.format == format:
        return [record]
    return [_with_extras(made, record) for made in _CONVERSIONS[record.format, format](record)]


def _with_extras(made: Record, record: Record) -> Record:
    """`made` with the tools and columns of the record that it was made of."""
    if record.tools is not None:
        made = replace(made, tools=record.tools)
    return with_columns(made, columns_of(made) | columns_of(record))

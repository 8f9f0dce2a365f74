"""Layouts that other packages declare, by the entry point `align.layouts`.

[project.entry-points."align.layouts"]
ticket = "my_package:TICKET"
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from align.records import Record

ENTRY_POINTS = "align.layouts"


@dataclass(frozen=True)
class Layout:
    """A layout of another package.

    Attributes:
        records: the records of a row; its second argument is the format that is wanted. It raises `RecordError` where
            the row is malformed.
        columns: the columns that it looks for, as `align data rules` says it.
        looks: whether a row has this layout; None for one that is used only where `--layout` or `data.<format>.layout`
            names it.
        sign: what tells it, as a report says it: `a ticket with two replies`.
    """

    records: Callable[[Mapping[str, Any], str], list[Record]]
    columns: str
    looks: Callable[[Mapping[str, Any]], bool] | None = None
    sign: str = ""


def find_layouts(own: Collection[str]) -> dict[str, Layout]:
    """The layouts that installed packages declare, by name.

    Args:
        own: names of align's layouts.

    Raises:
        TypeError: an entry point is not a `Layout`, or takes a name that there is.
    """
    layouts: dict[str, Layout] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        layout = entry.load()
        if not isinstance(layout, Layout) or entry.name in own or entry.name in layouts:
            raise TypeError(
                f"entry point {entry.name} = {entry.value} in {ENTRY_POINTS} must be a Layout of a new name"
            )
        layouts[entry.name] = layout
    return layouts

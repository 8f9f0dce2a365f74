"""Which columns of a file its layout reads, measured; and what an unread one looks like by its name.

A column is read if a row gives other records when the column is taken out or holds something else. Nothing is
declared, so a layout cannot claim a column that it ignores.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from align.data.layouts.annotations import beside, own
from align.data.layouts.carried import TRIES, drop, spoil
from align.data.layouts.columns import SetAside
from align.data.layouts.labels import LabelCounts
from align.data.layouts.looks import looks_judged, looks_like, may_judge
from align.data.layouts.parse import Outcome, Reading, held_records
from align.data.layouts.trees import GATHERED
from align.data.layouts.verdicts import label_text
from align.records import LATER_TURNS, RecordError

Row = Mapping[str, Any]
Path = tuple[str, ...]  # a column, or a column and a key of what it holds

VALUES = 12  # different values of an unread column that are counted
SHORT = 40  # characters of a value that is counted
_KEPT = ("role", "from", "type")  # of a message: with a mark they would be those of no message
NESTED = 30  # keys of a column that are looked at
FIRST = 8  # rows in which the fields made of each column are told
_FIELD_ORDER = ["text", "messages", "prompt", "completion", "chosen", "rejected", "label", "margin", "score"]
_FIELD_ORDER += ["score_chosen", "score_rejected", "tools", LATER_TURNS, "agreement"]
TREE = "each message of the tree"  # stands where a column would, before a key of a tree's messages


@dataclass
class Column:
    """A column that gave nothing to any record so far."""

    name: str
    rows: int = 0  # in which it holds something
    judging: int = 0  # of them, those in which that could be a judgement: it has text or a number in it
    telling: int = 0  # of them, those in which that could be part of a conversation: text, a list or an object
    values: Counter[str] = field(default_factory=Counter)
    tries: int = 0

    @property
    def looks_like(self) -> str | None:
        """What it seems to be; None for what needs no saying: an id, or a column that gave way to a mapped one."""
        if isinstance(self.name, SetAside):
            return None
        if self.values and looks_judged(self.values):
            return "a label"
        seems = looks_like(self.name)
        fits = {"a label": self.judging, "a score": self.judging}
        fits |= dict.fromkeys(("earlier turns", "a system prompt", "tools"), self.telling)
        return seems if seems is not None and fits.get(seems, 1) else None

    @property
    def few_values(self) -> dict[str, int]:
        """Its values with how often each is there, where they are few."""
        return dict(self.values.most_common(6)) if len(self.values) < VALUES else {}

    @property
    def seems(self) -> str:
        """`looks like a label: true 40, false 57`."""
        values = ", ".join(f"{value} {count}" for value, count in self.few_values.items())
        return f"looks like {self.looks_like}" + (f": {values}" if values else "")

    def to_json(self) -> dict[str, Any]:
        """As the report holds it."""
        return {"name": self.name, "rows": self.rows, "looks_like": self.looks_like, "values": self.few_values}


class ColumnUse:
    """What has become of a file's columns: how labels were read, and which columns were not."""

    def __init__(self, reading: Reading):
        self.reading = reading
        self.labels = LabelCounts()
        self._read: dict[Path, set[str]] = {}  # and the fields of records made of it, in the order found
        self._rows = 0
        self._unread: dict[Path, Column] = {}

    def observe(self, outcome: Outcome) -> None:
        """One row and what became of it."""
        self.labels.add(outcome.labels)
        if not outcome.records or not isinstance(outcome.raw, Mapping):
            return
        before = None
        self._rows += 1
        for path, value in self._columns(outcome.raw):
            if path in self._read:
                if self._rows <= FIRST:
                    before = before or self._result(outcome.raw)
                    self._read[path] |= self._fields(outcome, path, before)
                continue
            column = self._unread.setdefault(path, Column(self._name(path)))
            column.rows += 1
            column.judging += may_judge(value)
            column.telling += not isinstance(value, int | float)
            if isinstance(value, str | int | float) and len(column.values) < VALUES:
                column.values[label_text(value)[:SHORT]] += 1
            if column.tries >= TRIES and column.rows & (column.rows - 1):
                continue
            column.tries += 1
            before = before or self._result(outcome.raw)
            if any(self._result(other) != before for other in _without(outcome.raw, path)):
                self._read[path] = self._fields(outcome, path, before)
                del self._unread[path]

    def read(self) -> dict[str, list[str]]:
        """The columns that records were made of, as the file calls them -> the fields of records that they are in."""
        read: dict[str, set[str]] = {}
        for path, fields in self._read.items():
            if len(path) == 1 or path[0] == TREE:
                read.setdefault(self._name(path), set()).update(fields)
        return {name: sorted(fields, key=_FIELD_ORDER.index) for name, fields in read.items()}

    def unread(self) -> list[Column]:
        """The columns that no record was made of, in the order seen; those that `--keep` names are not among them."""
        kept = {(name,) for name in self.reading.keep or ()}
        return [
            column
            for path, column in self._unread.items()
            if path[:1] not in kept and (path[:1] not in self._unread or len(path) == 1)
        ]

    def _columns(self, row: Row) -> Iterator[tuple[Path, Any]]:
        """Every column that holds something, and every key of those that hold objects."""
        tree = self.reading.layout == "message_tree"
        if tree:
            yield from _tree_keys(row)
        for name, value in row.items():
            if _holds(value) and not (tree and name in ("prompt", GATHERED)):
                yield (name,), value
                if (name,) not in self._unread:
                    yield from (((name, key), item) for key, item in _keys(value))

    def _fields(self, outcome: Outcome, path: Path, before: tuple[Any, ...]) -> set[str]:
        """The fields of records that change with a column."""
        fields: set[str] = set()
        rows = [*_without(outcome.raw, path)]
        if len(path) == 1:
            rows.append({**outcome.raw, path[0]: _marked(outcome.raw[path[0]])})
        for row in rows:
            after = self._result(row)
            if len(after) == len(before) and not isinstance(after[0], str):
                for (record, kept), (other, other_kept) in zip(before, after, strict=True):
                    ours, theirs = record.to_row() | kept, other.to_row() | other_kept
                    fields.update(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        fields &= {*_FIELD_ORDER}
        if any(label.column == path[0] for label in outcome.labels) or (outcome.labels and not fields):
            return {"label"}  # which decides about all the others
        return fields

    def _result(self, row: Row) -> tuple[Any, ...]:
        try:
            kept = beside(row)
            return tuple((record, own(kept, record)) for record in held_records(row, self.reading))
        except (RecordError, RecursionError) as error:
            return (str(error),)

    def _name(self, path: Path) -> str:
        """The column as the file calls it."""
        if path[0] == TREE:
            return path[-1]
        first = self.reading.names.columns.get(path[0], path[0])
        return ".".join([first, *path[1:]]) if path[1:] else first


def _holds(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != {}


def _keys(value: Any) -> Iterator[tuple[str, Any]]:
    """The keys of an object, or of the objects of a list, that hold something."""
    objects = [value] if isinstance(value, Mapping) else value if isinstance(value, list) else []
    found: dict[str, Any] = {}
    for item in objects[:NESTED]:
        if isinstance(item, Mapping):
            for key, inner in item.items():
                if isinstance(key, str) and _holds(inner):
                    found.setdefault(key, inner)
    return iter(list(found.items())[:NESTED])


def _tree_keys(row: Row) -> Iterator[tuple[Path, Any]]:
    found: dict[str, Any] = {}
    stack = [row.get("prompt")]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            replies = node.get("replies")
            stack += replies if isinstance(replies, list) else []
            for key, value in node.items():
                if key != "replies" and _holds(value):
                    found.setdefault(key, value)
    return (((TREE, key), value) for key, value in found.items())


def _marked(value: Any, depth: int = 0) -> Any:
    """A value with a mark behind every text in it but the names of those who speak."""
    if isinstance(value, str):
        return f"{value} \u2042"
    if isinstance(value, list) and depth < 20:
        return [_marked(item, depth + 1) for item in value]
    if isinstance(value, Mapping) and depth < 20:
        return {key: item if key in _KEPT else _marked(item, depth + 1) for key, item in value.items()}
    return value


def _without(row: Row, path: Path) -> Iterator[Row]:
    """The row without a column, and with something absurd in it."""
    column, key = path[0], path[-1]
    for change in (drop, spoil):
        if column == TREE:
            yield {**row, "prompt": _changed_tree(row["prompt"], key, change)}
        elif len(path) == 1:
            yield change(row, column)
        else:
            yield {**row, column: _changed(row[column], key, change)}


def _changed(value: Any, key: str, change: Callable[[Row, str], Row]) -> Any:
    """An object without the key, or with another value there; of a list each of its objects."""
    if isinstance(value, Mapping):
        return change(value, key) if key in value else value
    return [change(item, key) if isinstance(item, Mapping) and key in item else item for item in value]


def _changed_tree(node: Any, key: str, change: Callable[[Row, str], Row]) -> Any:
    """A message and all replies to it, each changed."""
    if not isinstance(node, Mapping):
        return node
    node = change(node, key) if key in node else node
    replies = node.get("replies")
    changed = [_changed_tree(reply, key, change) for reply in replies] if isinstance(replies, list) else replies
    return {**node, "replies": changed}

"""Which versions of a store a list shows, and in which order."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from align.artifacts.index import Index
from align.artifacts.manifest import TYPES
from align.artifacts.metrics import Condition, Metric, headline, key_metrics, named_metric
from align.artifacts.store import Store
from align.artifacts.summary import Summary
from align.artifacts.text import human_size, minute, table
from align.errors import UserError

ORDERS = ("name", "created", "size")


@dataclass(frozen=True)
class Row:
    """One version in a list."""

    name: str
    summary: Summary
    aliases: tuple[str, ...] = ()
    is_pinned: bool = False

    @property
    def ref(self) -> str:
        return f"{self.name}:v{self.summary.number}"


@dataclass(frozen=True)
class Selection:
    """The versions that a user wants to see; the empty one is all of them, by name and number.

    Attributes:
        names: patterns such as `dpo*`; a version needs to match one.
        type: `model`, `dataset`, or with a format `dataset/preference`.
        stage: what made it, `dpo` or `import`.
        alias: only versions that this alias points at.
        conditions: on metrics, such as `eval_loss<0.5`; all must hold.
        sort: one of ORDERS, or a metric: the newest, the largest and the best come first.
        reverse: the other way round.
        count: at most so many.
    """

    names: Sequence[str] = ()
    type: str | None = None
    stage: str | None = None
    alias: str | None = None
    conditions: Sequence[Condition] = ()
    sort: str = "name"
    reverse: bool = False
    count: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every version is wanted."""
        return not (self.names or self.type or self.stage or self.alias or self.conditions)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that the user names, for a list to show first."""
        names = [condition.name for condition in self.conditions]
        return [named_metric(name, self.stage) for name in ([] if self.sort in ORDERS else [self.sort]) + names]

    @property
    def needs_metrics(self) -> bool:
        """Whether the choice or the order depends on metrics."""
        return bool(self.conditions) or self.sort not in ORDERS

    def check(self) -> None:
        """Raises UserError for a type that there is not, or a count below 1."""
        if self.type and self.type.partition("/")[0] not in TYPES:
            raise UserError(f"there is no artifact type {self.type!r}; types: {', '.join(TYPES)}")
        if self.count is not None and self.count < 1:
            raise UserError(f"-n {self.count} shows nothing; write a positive number")

    def wants(self, row: Row) -> bool:
        """Whether a version is among those wanted."""
        summary = row.summary
        if self.names and not any(fnmatchcase(row.name, pattern) for pattern in self.names):
            return False
        if self.type and summary.kind != self.type and not summary.kind.startswith(f"{self.type}/"):
            return False
        if (self.stage and summary.stage != self.stage) or (self.alias and self.alias not in row.aliases):
            return False
        return not self.conditions or all(condition.holds(summary.metrics or {}) for condition in self.conditions)

    def ordered(self, rows: list[Row]) -> list[Row]:
        """The rows in the order that the user wants, and no more than wanted."""
        if self.sort in ("name", "created", "size"):
            keys: dict[str, Callable[[Row], Any]] = {
                "name": lambda row: (row.name, row.summary.number),
                "created": lambda row: row.summary.ended or "",
                "size": lambda row: row.summary.size,
            }
            rows = sorted(rows, key=keys[self.sort], reverse=self.sort != "name")
        else:
            metric = named_metric(self.sort, self.stage)
            rows = sorted(rows, key=lambda row: metric.sort_key(row.summary.metrics or {}))
        return (rows[::-1] if self.reverse else rows)[: self.count]


@dataclass
class Listing:
    """The rows of a list, and a sentence for every version that could not be read."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    total: int = 0  # versions that could be read


def select(store: Store, selection: Selection) -> Listing:
    """The versions that a selection wants, in its order.

    Raises:
        UserError: the selection is none, or it sorts by a metric that no version has.
    """
    selection.check()
    listing = Listing(problems=store.problems())
    index = Index(store.root)
    for name, numbers in store.contents():
        aliases: dict[int, list[str]] = {}
        pins: set[int] = set()
        with contextlib.suppress(UserError):  # it is among the store's problems
            for alias, number in store.aliases(name).items():
                aliases.setdefault(number, []).append(alias)
            pins.update(store.pins(name))
        for summary in index.summaries(name, numbers, metrics=selection.needs_metrics):
            if not isinstance(summary, Summary):
                listing.problems.append(str(summary))
                continue
            listing.total += 1
            row = Row(name, summary, tuple(aliases.get(summary.number, ())), summary.number in pins)
            if selection.wants(row):
                listing.rows.append(row)
    index.save()
    if selection.sort not in ORDERS and listing.rows:
        metric = named_metric(selection.sort, selection.stage)
        if not any(metric.best(row.summary.metrics or {}) for row in listing.rows):
            known = sorted(
                {name for row in listing.rows for name in headline(row.summary.stage, row.summary.metrics or {})}
            )
            raise UserError(
                f"no version listed here has the metric {metric.name!r}; sort by {', '.join(ORDERS)}"
                + (f", or by a metric such as {', '.join(known[:6])}" if known else "")
            )
    listing.rows = selection.ordered(listing.rows)
    return listing


def list_table(listing: Listing, selection: Selection) -> str:
    """A listing as a table; empty where it has no rows."""
    named = selection.metrics
    rows = [
        [
            row.name,
            f"v{row.summary.number}",
            ",".join([*row.aliases, *(["(pinned)"] if row.is_pinned else [])]),
            row.summary.kind,
            human_size(row.summary.size),
            minute(row.summary.ended),
            _metrics(row.summary, named),
            ", ".join(row.summary.parents),
        ]
        for row in listing.rows
    ]
    headings = ["NAME", "VERSION", "ALIASES", "TYPE", "SIZE", "CREATED (UTC)", "METRICS", "PARENTS"]
    return table(headings, rows, right=["SIZE"]) if rows else ""


def _metrics(summary: Summary, named: Sequence[Metric]) -> str:
    """The metrics that the user names, then those that speak for the version."""
    if not named:
        return summary.headline
    metrics = summary.metrics or {}
    first = [name for metric in named if (name := metric.best(metrics))]
    return key_metrics(summary.stage, metrics, first=first)

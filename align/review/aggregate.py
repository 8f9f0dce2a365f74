"""From verdicts to training rows: preference pairs and unpaired (KTO) rows, the same from the same ratings.

| verdicts of an item's raters | preference | unpaired |
| --- | --- | --- |
| mean strength for a side over `min_margin` | that side chosen, margin the mean | chosen good, rejected bad |
| more than half both_bad | none | two bad |
| more than half both_good | none | two good |
| anything else is a tie | by the rule `ties` | by the rule `ties` |

The strength is 2 for a clear and 1 for a slight preference, else 0. Ties by rule: `drop` leaves them out, `good` and
`bad` give two unpaired rows with that label; a tie is never a pair. An admin's adjudication replaces all raters.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from align.records import Preference, UnpairedPreference
from align.review.schemas import STRENGTH
from align.review.store.ratings import Rating

Ties = Literal["drop", "good", "bad"]


@dataclass(frozen=True)
class Item:
    """A pair as it was rated."""

    id: int
    key: str
    prompt: object
    a: object
    b: object
    tools: object = None


@dataclass
class Compiled:
    """Rows, each with the key of its item, and the outcome of every item."""

    preferences: list[tuple[str, Preference]] = field(default_factory=list)
    unpaired: list[tuple[str, UnpairedPreference]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)  # items with enough ratings: they gave rows or were ties
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> items
    outcomes: Counter[str] = field(default_factory=Counter)  # pair, both_bad, both_good, tie


def compile_rows(
    items: Iterable[Item],
    counted: Iterable[Rating],
    adjudicated: Mapping[int, str],
    *,
    min_ratings: int = 1,
    min_margin: float = 0.0,
    ties: Ties = "drop",
    flagged: frozenset[int] = frozenset(),
) -> Compiled:
    """Rows in the order of the items' keys.

    Args:
        counted: the ratings that count, at most one per item and rater.
        adjudicated: item -> an admin's verdict.
        min_ratings: items with fewer are left out, unless adjudicated.
        min_margin: a mean strength of this or less is a tie.
        flagged: items to leave out.
    """
    votes: dict[int, list[str]] = defaultdict(list)
    for rating in counted:
        votes[rating.item_id].append(rating.verdict)
    compiled = Compiled()
    for item in sorted(items, key=lambda item: item.key):
        verdicts = [adjudicated[item.id]] if item.id in adjudicated else votes.get(item.id, [])
        if item.id in flagged:
            compiled.left_out["flagged"] += 1
        elif not verdicts:
            compiled.left_out["not rated"] += 1
        elif len(verdicts) < min_ratings and item.id not in adjudicated:
            compiled.left_out[f"fewer than {min_ratings} ratings"] += 1
        else:
            compiled.used.add(item.id)
            _add(compiled, item, verdicts, min_margin, ties)
    return compiled


def _add(compiled: Compiled, item: Item, verdicts: list[str], min_margin: float, ties: Ties) -> None:
    outcome, margin = decide(verdicts, min_margin)
    compiled.outcomes[outcome] += 1
    if outcome == "pair":
        better, worse = (item.a, item.b) if margin > 0 else (item.b, item.a)
        row = {"prompt": item.prompt, "chosen": better, "rejected": worse, "margin": abs(margin), "tools": item.tools}
        pair = Preference.from_row(row)
        compiled.preferences.append((item.key, pair))
        labels = [(better, True), (worse, False)]
    elif outcome == "tie" and ties == "drop":
        compiled.left_out["tie"] += 1
        return
    else:
        good = outcome == "both_good" or (outcome == "tie" and ties == "good")
        labels = [(item.a, good), (item.b, good)]
    for completion, label in labels:
        row = {"prompt": item.prompt, "completion": completion, "label": label, "tools": item.tools}
        compiled.unpaired.append((item.key, UnpairedPreference.from_row(row)))


def decide(verdicts: list[str], min_margin: float = 0.0) -> tuple[str, float]:
    """(pair, both_bad, both_good or tie; mean strength for a) of one item's verdicts."""
    count = Counter(verdicts)
    for both in ("both_bad", "both_good"):
        if 2 * count[both] > len(verdicts):
            return both, 0.0
    mean = sum(STRENGTH[verdict] for verdict in verdicts) / len(verdicts)
    return ("pair", mean) if abs(mean) > min_margin else ("tie", 0.0)

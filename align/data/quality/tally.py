"""How often something was found, and where."""

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES = 5
ROWS = 50  # places named a finding


@dataclass
class Tally:
    """How often something was found, and where first."""

    count: int = 0
    rows: list[str] = field(default_factory=list)
    examples: list[tuple[str, str]] = field(default_factory=list)
    sides: Counter[str] = field(default_factory=Counter)
    last: str = ""

    def add(self, place: str, text: str = "", side: str | None = None) -> None:
        """Count `place` once, however often it is named in a row."""
        if side:
            self.sides[side] += 1
        if place == self.last:
            return
        self.last, self.count = place, self.count + 1
        if len(self.rows) < ROWS:
            self.rows.append(place)
        if text and len(self.examples) < EXAMPLES:
            self.examples.append((place, text))

"""Which model people prefer: Bradley-Terry scores of the models in a campaign.

P(i beats j) = 1 / (1 + exp(s_j - s_i)), a tie is half a win each (Bradley & Terry 1952). Every model also plays PRIOR
games against an imaginary one of middling strength, won and lost by halves: without that prior scores are infinite
where a model wins, or loses, every game (evalica 0.4 then gives equal ones, without a word). Models that no chain of
comparisons joins cannot be ranked against each other, prior or not, and are told apart by `group`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PRIOR = 1.0  # games
_ANCHOR = "\0"
_ROUNDS = 10_000


@dataclass(frozen=True)
class Place:
    """One model's place."""

    model: str
    score: float  # natural log of strength; the mean of a group is 0
    games: int
    wins: float  # ties are half
    group: int  # only scores of one group compare


def groups(pairs: Iterable[tuple[str, str]]) -> list[set[str]]:
    """The sets of models that comparisons join, the largest first."""
    neighbours: dict[str, set[str]] = defaultdict(set)
    for one, other in pairs:
        neighbours[one].add(other)
        neighbours[other].add(one)
    found: list[set[str]] = []
    left = set(neighbours)
    while left:
        waiting, met = [min(left)], set()
        while waiting:
            model = waiting.pop()
            if model not in met:
                met.add(model)
                waiting += neighbours[model] - met
        found.append(met)
        left -= met
    return sorted(found, key=lambda group: (-len(group), min(group)))


def bradley_terry(games: Sequence[tuple[str, str, float]], *, prior: float = PRIOR) -> list[Place]:
    """The models, strongest first within their group; a game is (model, model, share of the win for the first)."""
    games = [game for game in games if game[0] != game[1]]
    if not games:
        return []
    import evalica

    places: list[Place] = []
    for number, group in enumerate(groups((one, other) for one, other, _ in games)):
        mine = [game for game in games if game[0] in group]
        weighted = [(one, other, share, 1.0) for one, other, share in mine]
        weighted += [(model, _ANCHOR, 0.5, prior) for model in sorted(group)]
        # evalica takes whole wins: a shared one is two games of that much weight.
        rows = [
            (one, other, side, weight * part)
            for one, other, share, weight in weighted
            for side, part in ((evalica.Winner.X, share), (evalica.Winner.Y, 1 - share))
            if part > 0
        ]
        xs, ys, winners, weights = map(list, zip(*rows, strict=True))
        found = evalica.bradley_terry(xs, ys, winners, weights=weights, tolerance=1e-10, limit=_ROUNDS)
        scores = {model: math.log(found.scores[model]) for model in group}
        middle = sum(scores.values()) / len(scores)
        for model in sorted(group, key=lambda model: (-scores[model], model)):
            played = [(one == model, share) for one, other, share in mine if model in (one, other)]
            wins = sum(share if first else 1 - share for first, share in played)
            places.append(Place(model, scores[model] - middle, len(played), wins, number))
    return places

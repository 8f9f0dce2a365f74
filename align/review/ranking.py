"""Which model people prefer: Bradley-Terry scores of the models in a campaign.

P(i beats j) = 1 / (1 + exp(s_j - s_i)), a tie is half a win each (Bradley & Terry 1952). Every model also plays PRIOR
games against an imaginary model of middling strength, each half won and half lost. Without this prior, scores are
infinite where a model wins or loses every game (evalica 0.4 then gives equal ones silently). Models that no chain of
comparisons joins cannot be ranked against each other, with or without a prior; `group` separates them.
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
    group: int  # only scores within a group can be compared


def groups(pairs: Iterable[tuple[str, str]]) -> list[set[str]]:
    """The sets of models that comparisons join, the largest first."""
    neighbours: dict[str, set[str]] = defaultdict(set)
    for first, second in pairs:
        neighbours[first].add(second)
        neighbours[second].add(first)
    components: list[set[str]] = []
    left = set(neighbours)
    while left:
        waiting, component = [min(left)], set()
        while waiting:
            model = waiting.pop()
            if model not in component:
                component.add(model)
                waiting += neighbours[model] - component
        components.append(component)
        left -= component
    return sorted(components, key=lambda group: (-len(group), min(group)))


def bradley_terry(games: Sequence[tuple[str, str, float]], *, prior: float = PRIOR) -> list[Place]:
    """The models, strongest first within their group; a game is (model, model, share of the win for the first)."""
    games = [game for game in games if game[0] != game[1]]
    if not games:
        return []
    import evalica

    places: list[Place] = []
    for number, group in enumerate(groups((left, right) for left, right, _ in games)):
        own = [game for game in games if game[0] in group]
        weighted = [(left, right, share, 1.0) for left, right, share in own]
        weighted += [(model, _ANCHOR, 0.5, prior) for model in sorted(group)]
        # evalica takes whole wins only: a shared win becomes two games with parts of the weight.
        rows = [
            (left, right, side, weight * part)
            for left, right, share, weight in weighted
            for side, part in ((evalica.Winner.X, share), (evalica.Winner.Y, 1 - share))
            if part > 0
        ]
        xs, ys, winners, weights = map(list, zip(*rows, strict=True))
        fit = evalica.bradley_terry(xs, ys, winners, weights=weights, tolerance=1e-10, limit=_ROUNDS)
        scores = {model: math.log(fit.scores[model]) for model in group}
        middle = sum(scores.values()) / len(scores)
        for model in sorted(group, key=lambda model: (-scores[model], model)):
            played = [(left == model, share) for left, right, share in own if model in (left, right)]
            wins = sum(share if is_left else 1 - share for is_left, share in played)
            places.append(Place(model, scores[model] - middle, len(played), wins, number))
    return places

"""Agreement and ranking against hand-worked cases, against Krippendorff's own, and against choix."""

import math
import random

import pytest

from align.review.agreement import cohen_kappa, gold_score, kappas, krippendorff, rater_reports
from align.review.ranking import bradley_terry, groups
from align.review.store.ratings import Rating


def vote(
    rater: str, number: int, verdict: str, kind: str = "main", flipped: bool = False, ms: int | None = None
) -> Rating:
    return Rating(1, number, f"k{number}", rater, kind, verdict, {}, "", False, flipped, ms, 0.0)


def test_alpha_of_a_hand_worked_case():
    """Two raters, four items, two values: 2 of 8 ordered pairs differ where chance has 2 x 3 x 5 of 8 x 7."""
    said = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")]
    votes = [
        vote(rater, number, pair[at]) for number, pair in enumerate(said) for at, rater in enumerate(("r1", "r2"))
    ]
    alpha = krippendorff(votes)
    assert alpha.value == pytest.approx(1 - (2 / 8) / (2 * 3 * 5 / (8 * 7)))
    assert alpha.low <= alpha.value <= alpha.high and alpha.items == 4


def test_alpha_of_krippendorffs_ordinal_example():
    """Computing Krippendorff's Alpha-Reliability (2011), section E: ordinal 0.815, four observers, twelve units."""
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    words = {1: "b", 2: "slight_b", 3: "tie", 4: "slight_a", 5: "a"}
    votes = [
        vote(f"r{at}", number, words[value])
        for at, row in enumerate(rows)
        for number, value in enumerate(row)
        if value
    ]
    assert krippendorff(votes).value == pytest.approx(0.815, abs=5e-4)


def test_alpha_is_not_made_up():
    assert krippendorff([vote("r1", 1, "a"), vote("r2", 2, "b")]) is None  # nothing shared
    assert krippendorff([vote(rater, 1, "a") for rater in ("r1", "r2")]) is None  # nothing varies
    assert krippendorff([vote("r1", 1, "a", "gold"), vote("r2", 1, "b", "gold")]) is None  # gold is not counted


@pytest.mark.parametrize(
    ("pairs", "kappa"),
    [
        ([(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15, 0.4),
        ([(1, 1), (0, 0)], 1.0),
        ([(1, 0), (0, 1)], -1.0),
        ([(1, 1)] * 3, None),
        ([], None),
    ],
)
def test_kappa(pairs, kappa):
    assert cohen_kappa(pairs) == (None if kappa is None else pytest.approx(kappa))


def test_kappas_are_of_raters_who_share_enough():
    votes = [vote(rater, number, "a" if number % 2 else "b") for rater in ("r2", "r10") for number in range(6)]
    votes += [vote("r3", 1, "a")]
    assert kappas(votes) == [("r2", "r10", 1.0, 6)]


def test_a_raters_report():
    votes = [vote("r1", number, "a", flipped=number < 3, ms=1000 * number) for number in range(1, 5)]
    votes += [
        vote("r1", 9, "slight_a", "gold"),
        vote("r1", 1, "b", "repeat", flipped=False),
        vote("r1", 2, "slight_a", "repeat"),
    ]
    [report] = rater_reports(votes, {9: "a"})
    assert report.gold == (1, 1) and report.repeats == (1, 2) and report.seconds == 2.5
    assert report.left == pytest.approx(4 / 7)  # shown: b b a a, a, b, a
    assert report.left_low < 4 / 7 < report.left_high


@pytest.mark.parametrize(
    ("said", "right", "agrees"),
    [
        ("slight_a", "a", True),
        ("tie", "tie", True),
        ("both_bad", "tie", False),
        ("both_bad", "both_bad", True),
        ("b", "both_bad", False),
    ],
)
def test_gold(said, right, agrees):
    assert gold_score([vote("r1", 1, said, "gold")], {1: right}) == (int(agrees), 1)


def test_bradley_terry_is_choix_with_the_same_prior():
    choix = pytest.importorskip("choix")
    draw = random.Random(0)
    strength = {"m0": 1.0, "m1": 0.2, "m2": -0.3, "m3": -0.9}
    games, wins = [], []
    for _ in range(400):
        one, other = draw.sample(sorted(strength), 2)
        won = draw.random() < 1 / (1 + math.exp(strength[other] - strength[one]))
        games.append((one, other, float(won)))
        wins += [(int((one if won else other)[1]), int((other if won else one)[1]))] * 2
    # The prior is a game, half won, against a model in the middle: item 4, half the weight of the others' games here.
    for model in range(4):
        wins += [(model, 4), (4, model)]
    expected = choix.ilsr_pairwise(5, wins, max_iter=1000, tol=1e-12)[:4]
    expected = expected - expected.mean()
    for place in bradley_terry(games):
        assert place.score == pytest.approx(expected[int(place.model[1])], abs=1e-5)
        assert place.group == 0


def test_bradley_terry_stays_finite_where_one_wins_always():
    first, second = bradley_terry([("a", "b", 1.0)] * 10)
    assert (first.model, first.wins, second.wins) == ("a", 10.0, 0.0)
    assert 0 < first.score - second.score < 10 and first.score == pytest.approx(-second.score)


def test_models_that_were_never_compared_are_told_apart():
    games = [("a", "b", 1.0), ("b", "c", 1.0), ("x", "y", 0.0)]
    assert groups((one, other) for one, other, _ in games) == [{"a", "b", "c"}, {"x", "y"}]
    places = bradley_terry(games)
    assert [(place.model, place.group) for place in places] == [("a", 0), ("b", 0), ("c", 0), ("y", 1), ("x", 1)]


def test_a_tie_is_half_a_win():
    first, second = bradley_terry([("a", "b", 0.5)] * 4)
    assert first.score == pytest.approx(0.0, abs=1e-9) == second.score and first.wins == 2.0

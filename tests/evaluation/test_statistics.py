"""Intervals, win rates and calibration against closed forms and numbers worked out by hand."""

import math

import numpy
import pytest

from align.evaluation.statistics import Interval, paired_bootstrap, preference_metrics, sigmoid, wins


def test_bootstrap_agrees_with_the_closed_form_on_normals():
    """For many normal differences the percentile interval is mean -+ 1.96 standard errors."""
    values = numpy.random.default_rng(0).normal(0.3, 1.0, size=2000)
    got = paired_bootstrap(list(values), resamples=4000, seed=1)
    error = values.std() / math.sqrt(len(values))
    assert got.mean == pytest.approx(values.mean(), abs=1e-12)
    assert got.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert got.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    """95% of 400 intervals, give or take three standard errors, less the little that 60 values cost."""
    generator = numpy.random.default_rng(2)
    inside = 0
    for trial in range(400):
        got = paired_bootstrap(list(generator.normal(0.5, 1.0, size=60)), resamples=500, seed=trial)
        inside += got.low <= 0.5 <= got.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 400) - 0.015 <= inside / 400 <= 0.98


def test_bootstrap_is_reproducible_and_knows_nothing_of_nothing():
    assert paired_bootstrap([0.1, 0.4, -0.2], seed=3) == paired_bootstrap([0.1, 0.4, -0.2], seed=3)
    assert paired_bootstrap([0.25] * 5) == Interval(0.25, 0.25, 0.25)
    assert math.isnan(paired_bootstrap([]).mean)
    assert Interval(0.2, 0.1, 0.3).excludes_zero and not Interval(0.2, -0.1, 0.5).excludes_zero


def test_a_tie_is_half_a_win():
    assert wins([1.0, 0.5, 0.0, 2.0], [0.0, 0.5, 1.0, 1.0]) == [1.0, 0.5, 0.0, 1.0]
    assert wins([], []) == []
    with pytest.raises(ValueError):
        wins([1.0], [])


def test_sigmoid_does_not_overflow():
    assert sigmoid(0) == 0.5 and sigmoid(1e4) == 1.0 and sigmoid(-1e4) == 0.0
    assert sigmoid(1.5) + sigmoid(-1.5) == pytest.approx(1.0)


def test_preference_metrics_by_hand():
    """Margins log 3, log 3, -log 3 and 0: the chosen side wins with probability 3/4, 3/4, 1/4, 1/2."""
    log3 = math.log(3)
    got = preference_metrics([log3, log3, -log3, 0.0])
    assert got["accuracy"] == (1 + 1 + 0 + 0.5) / 4
    assert got["margin"] == pytest.approx(log3 / 4)
    assert got["nll"] == pytest.approx(-(2 * math.log(3 / 4) + math.log(1 / 4) + math.log(1 / 2)) / 4)
    # three calls at 3/4, of which two are right; one at 1/2, half right
    assert got["ece"] == pytest.approx((abs(3 * 0.75 - 2) + abs(0.5 - 0.5)) / 4)
    assert got["brier"] == pytest.approx((2 * 0.25**2 + 0.75**2 + 0) / 4)


def test_preference_metrics_at_the_ends():
    assert preference_metrics([]) == {}
    sure = preference_metrics([1000.0, 1000.0])
    assert sure["accuracy"] == 1 and sure["ece"] == 0 and sure["nll"] == 0 and sure["brier"] == 0
    wrong = preference_metrics([-1000.0])
    assert wrong["accuracy"] == 0 and wrong["ece"] == 1 and wrong["nll"] == 1000 and wrong["brier"] == 1


def test_a_calibrated_reward_has_no_calibration_error():
    """Outcomes drawn with the probabilities that the margins say."""
    generator = numpy.random.default_rng(4)
    sizes = generator.exponential(1.5, size=20_000)
    won = generator.random(20_000) < 1 / (1 + numpy.exp(-sizes))
    margins = list(numpy.where(won, sizes, -sizes))
    assert preference_metrics(margins)["ece"] < 0.02
    assert preference_metrics([3 * margin for margin in margins])["ece"] > 0.05

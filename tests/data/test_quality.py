"""The measures behind the data report, against other ways to take them."""

import random

import numpy as np
import pytest

from align.data.quality import patterns
from align.data.quality.agreement import auc, krippendorff_alpha, pairwise_agreement, wilson
from align.data.quality.near_duplicates import near_groups, signature, word_hashes
from tests.data.data_command import said


def test_krippendorffs_alpha_as_in_the_literature():
    # Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), part C: nominal data of four observers: 0.743
    data = [
        (1, 1, 1), (2, 2, 3, 2), (3, 3, 3, 3), (3, 3, 3, 3), (2, 2, 2, 2), (1, 2, 3, 4), (4, 4, 4, 4), (1, 1, 2, 1),
        (2, 2, 2, 2), (5, 5, 5), (1, 1), (3,),
    ]  # fmt: skip
    assert krippendorff_alpha(data) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([(1, 1), (1, 1)]) is None and krippendorff_alpha([(1,)]) is None
    assert pairwise_agreement([(1, 1, 2), (1, 2)]) == 0.25


def test_auc_and_wilson_against_other_ways():
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 20, 60), draw.integers(3, 23, 50)
    pairs = [(a > b) + (a == b) / 2 for a in one for b in other]
    assert auc(one, other) == pytest.approx(np.mean(pairs))
    low, high = wilson(30, 100)  # statsmodels.stats.proportion.proportion_confint(30, 100, method="wilson")
    assert (low, high) == pytest.approx((0.21895, 0.39585), abs=1e-4)


def test_signatures_estimate_the_share_of_common_triples():
    errors = []
    for seed in range(60):
        words = said(120, seed).split()
        other = [*words]
        for place in random.Random(seed).sample(range(120), seed % 20):
            other[place] = f"other{place}"
        sets = [{tuple(text[i : i + 3]) for i in range(118)} for text in (words, other)]
        truth = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        hashes = [signature(word_hashes(" ".join(one)))["hashes"] for one in (words, other)]
        estimate = (hashes[0] == hashes[1]).mean()
        errors.append(estimate - truth)
    # a share p from 64 hashes has a standard deviation of at most 1/16
    assert abs(np.mean(errors)) < 0.03 and np.std(errors) < 1 / 16
    assert near_groups(np.concatenate([signature(word_hashes(text)) for text in ("a b c d", "x y z", "a b c d")])) == [
        [0, 2]
    ]


@pytest.mark.parametrize(
    "text, language",
    [
        ("The cat is on the table and what do you want", "English"),
        ("Der Hund ist nicht auf dem Tisch und das ist gut", "German"),
        ("Le chat est sur la table et je ne sais pas pour vous", "French"),
        ("医生，我得了感冒，应该怎么办？", "Chinese"),
        ("これはペンです。とても良い。", "Japanese"),
        ("Привет, как дела сегодня", "Cyrillic"),
        ("12345 !!", "?"),
    ],
)
def test_language_is_guessed(text, language):
    assert patterns.language_of(text) == language


def test_mojibake_comes_back_only_where_it_is_sure():
    for text in ("café", "naïve “quotes”", "straße", "it’s"):
        broken = text.encode("utf-8").decode("cp1252", "replace")
        assert "\ufffd" in broken or patterns.unmix(broken) == text
    assert patterns.unmix("plain") is None and patterns.unmix("Ã la carte") is None

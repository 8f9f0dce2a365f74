"""Rewards for the shape of a completion, against the formulas of their papers and TRL's own."""

import pytest
from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

from align.errors import UserError
from align.rewards import format, overlong, repetition

IDS = [[], [1], [1, 2], [1, 2, 3], [1, 1, 1, 1, 1], [1, 2, 3, 1, 2, 3], list(range(20)), [7] * 25]


@pytest.mark.parametrize(
    "text, score",
    [
        ("<think>a</think><answer>4</answer>", 1.0),
        ("<think>\na < b\n</think>\n\n<answer> 4 </answer>\n", 1.0),
        ("<think>a</think><answer></answer>", 0.0),
        ("<think> </think><answer>4</answer>", 0.0),
        ("<answer>4</answer><think>a</think>", 0.0),
        ("<think>a</think><answer>4</answer> So there.", 0.0),
        ("<think>a<think>b</think></think><answer>4</answer>", 0.0),
        ("<think>a</think><answer>4</answer><answer>5</answer>", 0.0),
        ("4", 0.0),
        ("", 0.0),
    ],
)
def test_tags(text, score):
    chat = [{"role": "assistant", "content": text}]
    assert format([text, chat], tags=["think", "answer"]) == [score, score]


def test_a_pattern_is_matched_by_the_whole_completion():
    assert format(["a\n#### 4", "#### 4\n", "#### 4 b"], pattern=r".*#### \d+") == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "needs either pattern or tags"),
        ({"pattern": "a", "tags": ["b"]}, "needs either pattern or tags"),
        ({"pattern": "("}, "is not a regular expression"),
        ({"tags": []}, "give a list of names"),
        ({"tags": ["a b"]}, "give a list of names"),
        ({"tags": "think"}, "give a list of names"),
    ],
)
def test_a_format_that_is_none(options, message):
    with pytest.raises(UserError, match=message):
        format([], **options)


@pytest.mark.parametrize("longest, soft", [(10, 4), (20, 20), (5, 0), (3, 1)])
def test_overlong_is_trls(longest, soft):
    theirs = get_soft_overlong_punishment(max_completion_len=longest, soft_punish_cache=soft)(IDS)
    assert overlong(IDS, max_tokens=longest, soft_tokens=soft) == pytest.approx(theirs)


@pytest.mark.parametrize("ngram", [1, 2, 3])
def test_repetition_is_trls(ngram):
    theirs = get_repetition_penalty_reward(ngram_size=ngram, max_penalty=-1.0)(IDS)
    assert repetition(IDS, ngram=ngram) == pytest.approx(theirs)


def test_numbers_that_make_no_sense():
    for options in ({"max_tokens": 0}, {"max_tokens": 4, "soft_tokens": 5}, {"max_tokens": 4, "soft_tokens": -1}):
        with pytest.raises(UserError, match="give a positive max_tokens"):
            overlong([], **options)
    with pytest.raises(UserError, match="ngram is 0; give a positive number"):
        repetition([], ngram=0)

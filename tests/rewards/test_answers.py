"""Rewards for verifiable answers, on references and completions as gsm8k and MATH write them."""

import sys

import pytest

from align.errors import UserError
from align.rewards import exact_answer, math_answer
from align.rewards.answers import _math_verify


def chat(text):
    return [{"role": "assistant", "content": text}]


GSM = "She has 40 + 2 = <<40+2=42>>42 eggs.\n#### 42"


@pytest.mark.parametrize(
    "completion, answer, score",
    [
        ("The answer is 42.", GSM, 1.0),
        ("Forty and two.\n#### 42", GSM, 1.0),
        ("42, I first thought, but no.\n#### 41", GSM, 0.0),
        ("She has 40 + 2 = 42 eggs, so the answer is $\\boxed{42}$.", "42", 1.0),
        ("\\boxed{84/2}", 42, 1.0),
        ("$\\frac{1}{2}$", "0.5", 1.0),
        ("The result is 1/2", "\\frac{1}{2}", 1.0),
        ("$x = 3$", "$3$", 1.0),
        ("It is $(x+1)^2$", "$x^2 + 2x + 1$", 1.0),
        ("It is $(x+1)^2$", "$x^2 + 2x$", 0.0),
        ("1,234", 1234, 1.0),
        ("-7", "7", 0.0),
        ("I do not know.", GSM, 0.0),
        ("", GSM, 0.0),
        ("<think>Is it 42? No, 41.</think> 41", "41", 1.0),
        ("<think>Is it 41? </think> 42", "41", 0.0),
        ("two", ["3", "2"], 0.0),
        ("2", ["3", "2"], 1.0),
        ("2", None, None),
        ("2", "", None),
        ("north", "north", None),
    ],
)
def test_math(completion, answer, score):
    assert math_answer([completion, chat(completion)], [answer, answer]) == [score, score]


@pytest.mark.parametrize(
    "completion, answer, score",
    [
        ("Four.", "four", 1.0),
        ("I think:\nFour", "four", 1.0),
        ("Four\nor so", "four", 0.0),
        ("I say\n#### 1,000", 1000, 1.0),
        ("$1,000.0", "#### 1000", 1.0),
        ("<answer> blue  sky </answer> I hope", "Blue sky", 1.0),
        ("<think>red</think>blue", "blue", 1.0),
        ("NaN", "nan", 1.0),
        ("", "four", 0.0),
        ("four", ["three", "four"], 1.0),
        ("four", None, None),
    ],
)
def test_exact(completion, answer, score):
    assert exact_answer([completion, chat(completion)], [answer, answer]) == [score, score]


def test_exact_finds_the_answer_by_a_pattern():
    said = ["It is four, four, so: five.", "four", "It is nine."]
    assert exact_answer(said, ["five", "four", "nine"], pattern=r"is (\w+)") == [0.0, 0.0, 1.0]
    assert exact_answer(["a 1 b 22"], ["22"], pattern=r"\d+") == [1.0]
    with pytest.raises(UserError, match=r"pattern '\(' is not a regular expression"):
        exact_answer([], [], pattern="(")


def test_references_of_another_length_are_refused():
    with pytest.raises(ValueError):
        math_answer(["1", "2"], ["1"])


def test_math_answer_says_what_to_install(monkeypatch):
    _math_verify.cache_clear()
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"pip install 'align\[math\]'"):
        math_answer([], [])
    _math_verify.cache_clear()


def test_math_answer_works_outside_the_main_thread():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(math_answer, ["\\boxed{12}", "#### 13"], ["12", "12"]).result() == [1.0, 0.0]

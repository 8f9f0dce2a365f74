"""Judges: called with one completion or with lists of them, and named when they fail."""

import os
import re

import pytest

from align.errors import UserError
from align.evaluation.judges import Answer, load_judge

PROMPT = [{"role": "user", "content": "Say yes."}]
ANSWERS = [
    Answer(PROMPT, text, [{"role": "assistant", "content": text}], [1, 2], {"answer": "yes", "level": level})
    for level, text in enumerate(["yes", "no", "Yes"])
]


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch):
    """Without the guard a test would end the tests, with an exit code of 0."""
    monkeypatch.setattr(os, "_exit", lambda code: None)


def judge(tmp_path, signature, body, **options):
    (tmp_path / "mine.py").write_text(f"def judge({signature}):\n    {body}\n")
    return load_judge(options.pop("spec", f"{tmp_path}/mine.py:judge"), **options)


@pytest.mark.parametrize(
    "signature, body, scores",
    [
        ("prompt, completion", "return len(completion)", [3, 2, 3]),
        ("question, said", "return question[0]['content'] == 'Say yes.' and said == 'no'", [0, 1, 0]),
        ("prompt, completion, answer", "return completion == answer", [1, 0, 0]),
        ("prompt, completion, **columns", "return columns['level'] + len(columns['completion_ids'])", [2, 3, 4]),
        ("prompt, completion, *, level=7", "return level", [0, 1, 2]),
        (
            "prompts, completions, answer",
            "return [c[0]['content'] == answer[0] for c in completions]",
            [1, 0, 0],
        ),
        ("completions, **columns", "return [len(completions) + level for level in columns['level']]", [3, 4, 5]),
    ],
)
def test_old_and_new_ways_to_be_called(tmp_path, signature, body, scores):
    assert judge(tmp_path, signature, body).score(ANSWERS) == scores


def test_a_judge_of_one_file_or_of_a_module_that_says_not_what_it_takes():
    assert load_judge("data/demo/world.py:judge").score([Answer(PROMPT, "yes", "yes")])[0] <= 1.0
    assert load_judge("operator:countOf").score([Answer("aba", "a", "a")]) == [2.0]


def test_every_reward_function_is_a_judge():
    answers = [Answer("2 and 2?", text, text, [1], {"answer": "#### 4"}) for text in ("4", "5")]
    assert load_judge("align.rewards.math_answer").score(answers) == [1.0, 0.0]
    spec = {"function": "align.rewards.exact_answer", "pattern": r"\d"}
    assert load_judge(spec).score(answers) == [1.0, 0.0]


def test_lists_have_the_size_of_a_batch_and_progress_is_told(tmp_path):
    told = []
    batched = judge(tmp_path, "prompts, completions, **columns", "return [len(prompts)] * len(prompts)", batch_size=2)
    assert batched.score(ANSWERS, lambda done, seconds: told.append(done)) == [2, 2, 1]
    assert told == [2, 3]


@pytest.mark.parametrize(
    ("signature", "body", "words"),
    [
        ("prompt, completion", "raise KeyError('answer')", r"raised KeyError: 'answer' \(mine.py, line 2\)"),
        ("prompt, completion", "return float('nan')", "gave nan, which is not a finite number"),
        ("prompt, completion", "return float('inf')", "gave inf"),
        ("prompt, completion", "return 'good'", 'gave "good"'),
        ("prompt, completion", "return None", "gave null"),
        ("prompt, completion", "import sys; sys.exit(0)", r"called sys.exit\(0\)"),
        ("prompt, completion", "import os; os._exit(0)", r"called os._exit\(0\)"),
    ],
)
def test_a_judge_that_fails_names_the_case(tmp_path, signature, body, words):
    with pytest.raises(UserError, match=f"mine.py:judge' on prompt 'Say yes.', completion 'no'.*{words}"):
        judge(tmp_path, signature, body).score(ANSWERS[1:2])


@pytest.mark.parametrize("body", ["return [1]", "return [1, None, 1]", "return 3", "raise ValueError('no')"])
def test_a_judge_of_lists_that_fails(tmp_path, body):
    with pytest.raises(UserError, match="mine.py:judge"):
        judge(tmp_path, "prompts, completions", body).score(ANSWERS)


def test_a_judge_does_not_change_what_is_judged(tmp_path):
    changing = judge(tmp_path, "prompt, completion, tags", "prompt.clear(); tags.clear(); return 1")
    answer = Answer([dict(PROMPT[0])], "yes", "yes", [], {"tags": ["a"]})
    changing.score([answer])
    assert answer.prompt == PROMPT and answer.columns == {"tags": ["a"]}


@pytest.mark.parametrize(
    "signature, words",
    [
        ("prompt, completion, reference", "needs reference, and the prompts have the columns answer, level"),
        ("prompts, completions, reference", "needs reference, and the prompts have"),
        ("prompt", "takes 1 arguments by position, and is called with 2"),
    ],
)
def test_a_column_that_a_judge_needs_is_missed_before_anything_is_generated(tmp_path, signature, words):
    with pytest.raises(UserError, match=re.escape(words)):
        judge(tmp_path, signature, "return 1").check_columns(["answer", "level"], {})


def test_a_judge_whose_columns_are_there(tmp_path):
    judge(tmp_path, "prompt, completion, answer", "return 1").check_columns(["answer"], {})
    judge(tmp_path, "prompts, completions, *, answer, more=1", "return 1").check_columns(["answer"], {})

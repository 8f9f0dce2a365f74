"""The judge that a config names: found from anywhere, and named when it fails."""

import re

import pytest

from align.errors import UserError
from align.rewards.user_functions import load_judge

PROMPT = [{"role": "user", "content": "Say yes."}]


def test_a_function_of_a_file_from_the_working_folder_or_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def score(prompt, completion):\n    return len(completion)\n")
    assert load_judge("mine.py:score")(PROMPT, "yes") == 3.0
    assert load_judge(f"{tmp_path}/mine.py:score")(PROMPT, "") == 0.0
    assert 0.0 <= load_judge("data/demo/world.py:judge")(PROMPT, "yes") <= 1.0


def test_a_function_of_a_module():
    assert load_judge("operator:countOf")("aba", "a") == 2.0


def test_a_file_with_dataclasses(tmp_path):
    (tmp_path / "typed.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Score:\n"
        "    value: int\n\n\ndef judge(prompt, completion):\n    return Score(1).value\n"
    )
    assert load_judge(f"{tmp_path}/typed.py:judge")(PROMPT, "yes") == 1.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("judge", "names no function"),
        ("world.py", "names no function"),
        ("nowhere.py:judge", "no file nowhere.py"),
        ("data/demo/world.py:juge", "no function juge"),
        ("data/demo/world.py:SEED", "no function SEED"),
        ("no_such_module:judge", "install it"),
    ],
)
def test_what_cannot_be_found(name, words):
    with pytest.raises(UserError, match=re.escape(repr(name)) + ".*" + words):
        load_judge(name)


def test_a_file_that_does_not_load(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("x = 1\nraise RuntimeError('no key')\n")
    with pytest.raises(UserError, match=r"broken.py:judge.*RuntimeError: no key \(broken.py, line 2\)"):
        load_judge(f"{file}:judge")
    file.write_text("def judge(:\n")
    with pytest.raises(UserError, match="SyntaxError"):
        load_judge(f"{file}:judge")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise KeyError('answer')", r"KeyError: 'answer' \(bad.py, line 2\)"),
        ("return float('nan')", "gives nan"),
        ("return 1 / 0.0 if False else float('inf')", "gives inf"),
        ("return 'good'", "ValueError"),
        ("return None", "TypeError"),
    ],
)
def test_a_judge_that_fails_names_the_prompt(tmp_path, body, words):
    (tmp_path / "bad.py").write_text(f"def judge(prompt, completion):\n    {body}\n")
    judge = load_judge(f"{tmp_path}/bad.py:judge")
    with pytest.raises(UserError, match=f"bad.py:judge.*prompt 'Say yes.', completion 'no'.*{words}"):
        judge(PROMPT, "no")

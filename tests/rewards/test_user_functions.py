"""Functions that a config names: found from anywhere, given what they take, and named when they cannot be called."""

import os
import re

import pytest

from align.config.compose import compose
from align.data.loading.load import Loaded
from align.errors import UserError
from align.records import Prompt
from align.rewards.user_functions import check_functions, load_function

KEY = "online.reward_functions"


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch):
    """Without the guard a test would end the tests, with an exit code of 0."""
    monkeypatch.setattr(os, "_exit", lambda code: None)


def write(folder, body, name="mine.py"):
    (folder / name).write_text(body)
    return f"{folder}/{name}"


def loaded(**columns):
    left_out = {"meta": "an object"}
    records = [Prompt("a", columns=columns or None)]
    return Loaded(records, "prompt_only", "a.jsonl", 1, [], not_carried=left_out)


def test_a_function_of_a_file_from_the_working_folder_or_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "def score(prompts):\n    return [len(prompts)]\n")
    assert load_function("mine.py:score", KEY).call(prompts=["a"]) == [1]
    assert load_function(f"{tmp_path}/mine.py:score", KEY).name == "score"
    assert load_function("data/demo/world.py:judge", KEY).name == "judge"


@pytest.mark.parametrize("name", ["operator:countOf", "operator.countOf"])
def test_a_function_of_a_module(name):
    assert load_function(name, KEY).call("aba", "a") == 2


@pytest.mark.parametrize("spec", ["align.rewards.math_answer", "align.rewards:math_answer"])
def test_a_function_that_ships(spec):
    assert load_function(spec, KEY).call(completions=["#### 4"], answer=["4"]) == [1.0]


def test_a_file_with_dataclasses(tmp_path):
    body = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n@dataclass\nclass Score:\n"
    body += "    value: int\n\n\ndef score(completions):\n    return [Score(1).value]\n"
    assert load_function(f"{write(tmp_path, body)}:score", KEY).call([]) == [1]


def test_parameters_come_from_the_config(tmp_path):
    spec = {"function": "align.rewards.format", "tags": ["think", "answer"]}
    function = load_function(spec, KEY)
    assert function.label == "online.reward_functions='align.rewards.format'" and function.name == "format"
    offered = {"completions": ["<think>a</think><answer>b</answer>"], "prompts": ["a"], "tags": ["of the data"]}
    assert function.call(**function.arguments(offered)) == [1.0], "a column does not replace a parameter"
    text = "online.reward_functions=[align.rewards.math_answer,{function: align.rewards.format, tags: [a, b]}]"
    cfg = compose(["stage=grpo", "inputs.reward_model=null", text])
    assert cfg.online.reward_functions == [
        "align.rewards.math_answer",
        {"function": "align.rewards.format"} | {"tags": ["a", "b"]},
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("judge", "names no function"),
        ("world.py", "names no function"),
        ("nowhere.py:judge", "no file .*nowhere.py"),
        ("data/demo/world.py:juge", "no function juge"),
        ("data/demo/world.py:SEED", "no function SEED"),
        ("no_such_module:judge", "install it"),
        ("align.rewards.math_answr", "no function math_answr"),
        ({"tags": ["a"]}, "a mapping needs the key function"),
        (
            {"function": "align.rewards.format", "tag": ["a"]},
            "format has no parameter tag; it has completions",
        ),
        ({"function": "align.rewards.format"}, "format needs either pattern or tags"),
        ({"function": "align.rewards.overlong", "max_tokens": 0}, "give a positive max_tokens"),
    ],
)
def test_what_cannot_be_found_or_takes_no_such_parameter(spec, words):
    with pytest.raises(UserError, match=words):
        load_function(spec, KEY)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("x = 1\nraise RuntimeError('no key')\n", r"broken.py raised RuntimeError: no key \(broken.py, line 2\)"),
        ("def judge(:\n", "SyntaxError"),
        ("import sys\nsys.exit(0)\n", r"called sys.exit\(0\)"),
        ("import os\nos._exit(0)\n", r"called os._exit\(0\)"),
        ("import no_such_module\n", "No module named 'no_such_module'; install it"),
    ],
)
def test_a_file_that_does_not_load(tmp_path, body, words):
    with pytest.raises(UserError, match=r"(?s)broken.py:judge.*" + words):
        load_function(f"{write(tmp_path, body, 'broken.py')}:judge", KEY)


SIGNATURES = {
    "prompts, completions, **kwargs": None,
    "completions, answer": None,
    "completions, answer, level=3": None,
    "completions, *, trainer_state": None,
    "completions, missing": "needs missing, and the prompts have the columns answer; give every row a column missing",
    "completions, meta": r"\(meta is not carried: an object\)",
    "completions, /, answer": "its parameter completions is positional-only",
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_what_a_function_needs_is_there_before_anything_is_generated(tmp_path, signature):
    spec = f"{write(tmp_path, f'def score({signature}):' + chr(10) + '    return []' + chr(10))}:score"
    if SIGNATURES[signature] is None:
        (function,) = check_functions([spec], [loaded(answer="4")])
        assert function.name == "score"
        return
    with pytest.raises(UserError, match=SIGNATURES[signature]):
        check_functions([spec], [loaded(answer="4")])


def test_a_function_gets_what_it_takes(tmp_path):
    body = "def score(completions, answer):\n    return []\n\n\ndef every(completions, **columns):\n    return []\n"
    file = write(tmp_path, body)
    offered = {"prompts": [], "completions": [], "answer": [], "trainer_state": None}
    assert load_function(f"{file}:score", KEY).arguments(offered).keys() == {"completions", "answer"}
    assert load_function(f"{file}:every", KEY).arguments(offered).keys() == offered.keys()


def test_a_column_that_only_train_has_is_missed(tmp_path):
    with pytest.raises(UserError, match=re.escape("needs answer, and the prompts have no columns")):
        check_functions(["align.rewards.math_answer"], [loaded(answer="4"), loaded()])

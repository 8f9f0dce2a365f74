"""Reward functions as the trainers call them: whatever a function does, the run goes on or stops with a sentence."""

import asyncio
import math
import os

import numpy
import pytest
import torch

from align.distributed.preemption import Stopped
from align.errors import UserError
from align.rewards import guard
from align.rewards.functions import checked
from align.rewards.load import name_apart
from align.rewards.user_functions import load_function

PROMPTS = [[{"role": "user", "content": "Say yes."}], [{"role": "user", "content": "Say no."}]]
COMPLETIONS = [[{"role": "assistant", "content": "yes"}], [{"role": "assistant", "content": "no"}]]


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch):
    """Without the guard a test would end the tests, with an exit code of 0."""
    monkeypatch.setattr(os, "_exit", lambda code: None)


def reward(tmp_path, body, signature="prompts, completions, **columns"):
    file = tmp_path / "mine.py"
    file.write_text(f"import os, sys\n\n\ndef score({signature}):\n    {body}\n")
    return checked(load_function(f"{file}:score", "online.reward_functions"))


def call(function, **columns):
    return function(prompts=PROMPTS, completions=COMPLETIONS, completion_ids=[[1], [2, 3]], **columns)


@pytest.mark.parametrize(
    "given, scores",
    [
        ([1, 0.5], [1.0, 0.5]),
        ([True, None], [1.0, None]),
        ((1, 2), [1.0, 2.0]),
        (numpy.array([0.25, 1.0]), [0.25, 1.0]),
        (torch.tensor([0.25, 1.0]), [0.25, 1.0]),
        (iter([3, 4]), [3.0, 4.0]),
    ],
)
def test_scores_of_any_kind_become_numbers(given, scores):
    assert call(checked(lambda prompts, completions, **columns: given)) == scores


BAD = [
    (
        "raise KeyError('answer')",
        r"raised KeyError: 'answer' \(mine.py, line 5\); the first prompt of its batch: 'S",
    ),
    ("return [1]", "gave 1 scores for 2 completions; return one for each"),
    ("return None", "gave null; return a list"),
    ("return 'ab'", 'gave "ab"; return a list'),
    ("return 7", "raised TypeError"),
    ("return [float('nan'), 1]", "gave nan for the prompt 'Say yes.', which is not a finite number"),
    ("return [1, float('inf')]", "gave inf for the prompt 'Say no.'"),
    ("return [1, 1e39]", r"gave 1e\+39 for the prompt 'Say no.'"),
    ("return [1, 10 ** 400]", "for the prompt 'Say no.', which is not a finite number"),
    ("return [1, 'good']", """gave "good" for the prompt 'Say no.'"""),
    ("return [[1], [2]]", r"gave \[1\] for the prompt 'Say yes.'"),
    ("sys.exit(0)", r"called sys.exit\(0\); the first prompt.*let it return or raise instead"),
    ("exit()", r"called sys.exit\(None\)"),
    ("os._exit(0)", r"called os._exit\(0\); the first prompt.*let it return or raise instead"),
    ("raise BaseException('odd')", "raised BaseException: odd"),
    ("raise GeneratorExit", None),
]


@pytest.mark.parametrize("body, message", BAD, ids=range(len(BAD)))
def test_what_a_function_may_not_do_is_a_sentence(tmp_path, body, message):
    with pytest.raises(UserError if message else GeneratorExit, match=message) as error:
        call(reward(tmp_path, body))
    if message:
        assert str(error.value).startswith(f"online.reward_functions='{tmp_path}/mine.py:score' ")


@pytest.mark.parametrize("signal", [KeyboardInterrupt, Stopped])
def test_ctrl_c_and_sigterm_go_through(signal):
    def interrupted(prompts, completions, **columns):
        raise signal

    with pytest.raises(signal):
        call(checked(interrupted))


CHANGES = (
    "prompts.clear(); completions[0][0]['content'] = 'changed'; completion_ids[1].append(9); "
    "columns['tags'][0].append('x'); del columns['answer'][0]; return [0, 0]"
)


def test_changing_the_lists_changes_nothing_else(tmp_path):
    prompts = [[dict(message) for message in prompt] for prompt in PROMPTS]
    completions = [[dict(message) for message in completion] for completion in COMPLETIONS]
    rest = {"completion_ids": [[1], [2]], "tags": [["a"], ["b"]], "answer": ["yes", "no"]}
    function = reward(tmp_path, CHANGES, "prompts, completions, completion_ids, **columns")
    assert function(prompts=prompts, completions=completions, **rest) == [0, 0]
    assert (prompts, completions) == (PROMPTS, COMPLETIONS)
    assert rest == {"completion_ids": [[1], [2]], "tags": [["a"], ["b"]], "answer": ["yes", "no"]}


def test_the_trainers_state_is_the_trainers_own():
    state = object()
    seen = []

    def score(prompts, completions, trainer_state):
        seen.append(trainer_state)
        return [0, 0]

    call(checked(score), trainer_state=state, answer=["a", "b"])
    assert seen == [state]


def test_a_copy_of_the_process_ends_and_the_run_goes_on(tmp_path, capfd):
    """The child of `os.fork` would train and publish a second time."""
    function = reward(tmp_path, "sys.modules['child'] = os.fork() or os.getpid(); return [1, 2]")
    owner = os.getpid()
    scores = call(function)
    if os.getpid() != owner:  # only if the guard is gone
        guard._exit_process(0)
    import sys

    _, status = os.waitpid(sys.modules.pop("child"), 0)
    assert scores == [1.0, 2.0] and os.waitstatus_to_exitcode(status) == guard.COPY_ENDED
    assert "forked this process; the copy ends here" in capfd.readouterr().err


def test_processes_that_a_function_starts_may_end(tmp_path):
    body = "import multiprocessing as m; p = m.get_context('fork').Process(target=sys.exit, args=(3,)); p.start(); "
    assert call(reward(tmp_path, body + "p.join(); return [p.exitcode, 0]")) == [3.0, 0.0]


def test_another_thread_may_end_the_process(tmp_path, monkeypatch):
    """A run that loses its claim on its folder ends so, also while a reward function is at work."""
    import threading

    ended = []
    monkeypatch.setattr(guard, "_exit_process", ended.append)
    with guard.guarded("a function"):
        thread = threading.Thread(target=os._exit, args=(7,))
        thread.start()
        thread.join()
    assert ended == [7]


def test_async_functions_are_held_the_same_way(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import sys\n\n\nasync def score(completions, mode, **columns):\n    if mode[0] == 'exit':\n"
        "        sys.exit(0)\n    return [float('nan') if mode[0] == 'nan' else 1 for _ in completions]\n"
    )
    function = checked(load_function(f"{file}:score", "online.reward_functions"))
    assert asyncio.iscoroutinefunction(function)
    assert asyncio.run(call(function, mode=["", ""])) == [1.0, 1.0]
    for mode, message in (("exit", "called sys.exit"), ("nan", "gave nan for the prompt")):
        with pytest.raises(UserError, match=message):
            asyncio.run(call(function, mode=[mode, mode]))


def test_a_function_is_checked_once_and_keeps_its_name():
    def score(prompts, completions):
        return [math.pi, 0]

    once = checked(score)
    assert checked(once) is once and once.__name__ == "score" and once.checked is score
    assert [one.__name__ for one in name_apart([checked(score) for _ in range(3)])] == ["score", "score_2", "score_3"]

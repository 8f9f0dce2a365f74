"""Stage evaluate: intervals and win rates by judge and reward model, columns for judges, several turns."""

import json

import pytest

from align.errors import UserError
from align.evaluation.conversations import Conversation
from align.evaluation.metrics import flat_metrics, score_metrics
from align.models.generation import Completion
from align.records import Prompt
from tests.conftest import run_stage
from tests.data.data_command import write

POLICIES = ("stage=evaluate", "data=local", "inputs.policy=[pretrain:v1,sft:v1]", "inputs.baseline=sft:v1")
SHORT = ("evaluate.max_new_tokens=4", "evaluate.batch_size=8", "evaluate.bootstrap=50", "evaluate.temperature=1.0")
TEMPLATE = "model.chat_template=conf/model/chat.jinja"


def user(text):
    return [{"role": "user", "content": text}]


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_scores_of_turns_prompts_and_baseline():
    ours, theirs = [[1.0, 0.0], [0.5], [1.0, 1.0]], [[0.5, 0.5], [0.0], [1.0, 0.0]]
    row = score_metrics("gold", ours, theirs, resamples=100, seed=0)
    assert row["gold"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert row["gold_turn_1"] == pytest.approx(2.5 / 3) and row["gold_turn_2"] == pytest.approx(0.5)
    assert row["gold_gain"]["mean"] == pytest.approx((0 + 0.5 + 0.5) / 3) and row["win_rate"] == pytest.approx(2.5 / 3)
    assert row["win_rate_interval"]["low"] <= row["win_rate"] <= row["win_rate_interval"]["high"]
    alone = score_metrics("reward", [[1.0], [2.0]], None, resamples=100, seed=0)
    assert alone.keys() == {"reward", "reward_interval"}
    flat = flat_metrics([{"model": "a:v1", **score_metrics("reward", [[3.0]], [[1.0]], resamples=10, seed=0)}])
    assert flat["a:v1/reward_gain"] == flat["a:v1/reward_gain_low"] == flat["a:v1/reward_gain_high"] == 2
    assert flat["a:v1/reward_win_rate"] == 1 and "a:v1/reward_interval" not in flat


def test_a_conversation_answers_each_turn_after_its_own_answers():
    record = Prompt(user("One?"), columns={"reference": ["1", "2"]}, later_turns=("Two?",))
    talk = Conversation(record)
    for text in ("first", "second"):
        talk.add(talk.next_prompt(), Completion(text, [1], [2, 3], True))
    assert talk.next_prompt() is None
    assert talk.prompts[1] == [*user("One?"), {"role": "assistant", "content": "first"}, *user("Two?")]
    assert talk.questions() == [user("One?"), "Two?"]
    first, second = talk.answers()
    assert first.columns == {"reference": ["1", "2"], "turn": 1} and second.columns["turn"] == 2
    assert second.prompt == talk.prompts[1] and second.text == "second" and second.token_ids == [2, 3]


def test_a_reward_model_alone_gives_gains_win_rates_and_intervals(tiny_store, tmp_path):
    rows = [{"prompt": user(f"What is {n}?")} for n in range(8)]
    held = write(tmp_path / "held.jsonl", rows)
    given = ("inputs.reward_model=reward:v1", f"data.prompt_only.eval={held}", TEMPLATE)
    version = run_stage(tiny_store, *POLICIES, *SHORT, *given)
    report = json.loads((version.path / "report.json").read_text("utf-8"))
    sft, pretrain = report["models"]
    assert (sft["model"], pretrain["model"]) == ("sft:v1", "pretrain:v1") and "reward_gain" not in sft
    samples = lines(version.path / "samples.jsonl")
    by_model = {model: [s["reward"] for s in samples if s["model"] == model] for model in ("sft:v1", "pretrain:v1")}
    gain = sum(by_model["pretrain:v1"]) / 8 - sum(by_model["sft:v1"]) / 8
    assert pretrain["reward_gain"]["mean"] == pytest.approx(gain)
    assert pretrain["reward_gain"]["low"] <= gain <= pretrain["reward_gain"]["high"]
    both = list(zip(by_model["pretrain:v1"], by_model["sft:v1"], strict=True))
    wins = sum(a > b for a, b in both) + sum(a == b for a, b in both) / 2
    assert pretrain["reward_win_rate"] == pytest.approx(wins / 8)
    assert version.manifest.metrics["pretrain:v1/reward_win_rate"] == pytest.approx(wins / 8)
    page = (version.path / "report.md").read_text("utf-8")
    assert "reward gain [95% interval]" in page and "reward wins" in page and "gold score" not in page


JUDGE = """
calls = []


def judge(prompts, completions, answer, turn=None, **columns):
    calls.append(len(prompts))
    for prompt, completion, number, reference in zip(prompts, completions, turn, answer, strict=True):
        assert len(prompt) == 2 * number - 1 and completion[0]["role"] == "assistant"
        assert prompt[0]["content"] == f"What is {reference}?"
    return [0.25 * number for number in turn]


def slow(prompt, completion):
    return 1.0
"""


def test_a_judge_gets_references_and_turns_in_lists(tiny_store, tmp_path, capsys, monkeypatch):
    rows = [{"turns": [f"What is {n}?", "And then?"], "answer": str(n)} for n in range(5)]
    held, judge = write(tmp_path / "mt.jsonl", rows), tmp_path / "mine.py"
    judge.write_text(JUDGE)
    monkeypatch.setattr("align.evaluation.judges.PROGRESS_SECONDS", 0)
    given = (f"data.prompt_only.eval={held}", f"evaluate.judge={judge}:judge", TEMPLATE)
    version = run_stage(tiny_store, *POLICIES, *SHORT, *given)
    out = capsys.readouterr().out
    assert "judge  pretrain:v1  8/10 answers" in out and f"; judge: {judge}:judge" in out
    metrics = version.manifest.metrics
    assert metrics["sft:v1/gold"] == pytest.approx(0.375) and metrics["pretrain:v1/win_rate"] == 0.5
    assert (metrics["sft:v1/gold_turn_1"], metrics["sft:v1/gold_turn_2"]) == (0.25, 0.5)
    samples = lines(version.path / "samples.jsonl")
    assert len(samples) == 20 and [s["turn"] for s in samples[:4]] == [1, 2, 1, 2]
    assert samples[1]["prompt"] == "And then?" and samples[1]["gold"] == 0.5
    page = (version.path / "report.md").read_text("utf-8")
    assert "gold turn 1" in page and "> Turn 2: And then?" in page


def test_prompts_of_demonstrations_have_their_completions_as_references(tiny_store, tmp_path):
    rows = [
        {"prompt": user(f"What is {n}?"), "completion": [{"role": "assistant", "content": str(n)}]} for n in range(6)
    ]
    held, judge = write(tmp_path / "demos.jsonl", rows), tmp_path / "mine.py"
    judge.write_text(
        "def judge(prompt, completion, answer):\n    return float(prompt[0]['content'] == f'What is {answer}?')\n"
    )
    given = (f"data.prompt_completion.eval={held}", f"evaluate.judge={judge}:judge", TEMPLATE)
    version = run_stage(tiny_store, *POLICIES, *SHORT, *given)
    assert version.manifest.metrics["sft:v1/gold"] == 1


@pytest.mark.parametrize(
    "body, message",
    [
        (
            "def judge(prompt, completion, reference):\n    return 1\n",
            "needs reference, and the prompts have no",
        ),
        ("def judge(prompt, completion):\n    raise SystemExit(0)\n", r"called sys.exit\(0\)"),
    ],
)
def test_a_judge_that_cannot_be_used_stops_the_run(tiny_store, tmp_path, body, message):
    held, judge = write(tmp_path / "held.jsonl", [{"prompt": user(f"{n}?")} for n in range(3)]), tmp_path / "mine.py"
    judge.write_text(body)
    with pytest.raises(UserError, match=message):
        run_stage(
            tiny_store, *POLICIES, *SHORT, f"data.prompt_only.eval={held}", f"evaluate.judge={judge}:judge", TEMPLATE
        )


def test_a_conversation_that_outgrows_the_context_is_left_out(tiny_store, tmp_path, capsys):
    rows = [{"turns": [f"What is {n}?", "word " * (60 if n else 2)]} for n in range(4)]
    held = write(tmp_path / "mt.jsonl", rows)
    judge = tmp_path / "mine.py"
    judge.write_text(JUDGE)
    given = (f"data.prompt_only.eval={held}", f"evaluate.judge={judge}:slow", "evaluate.max_new_tokens=30", TEMPLATE)
    version = run_stage(tiny_store, *POLICIES, *SHORT[1:], *given)
    assert "3 of 4 prompts are left out: too long for a model's context" in capsys.readouterr().out
    assert len(lines(version.path / "samples.jsonl")) == 4

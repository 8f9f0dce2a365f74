"""The demo world: the gold judge's verdicts, and the committed files as the generator writes them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "data" / "demo"
FORMATS = {
    "corpus": {"text"},
    "demonstrations": {"prompt", "completion"},
    "preferences": {"prompt", "chosen", "rejected"},
    "unpaired": {"prompt", "completion", "label"},
    "prompts": {"prompt"},
}


def _load_world():
    spec = importlib.util.spec_from_file_location("demo_world", DEMO / "world.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


world = _load_world()


def rows(name: str, split: str) -> list[dict]:
    return [json.loads(line) for line in (DEMO / f"{name}.{split}.jsonl").read_text().splitlines()]


def text(messages: list[dict]) -> str:
    return messages[0]["content"]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is three plus four?", "seven"),
        ("Please add seven and nine.", "sixteen"),
        ("Please take two from nine.", "seven"),
        ("What is five minus five?", "zero"),
        ("Sort these letters: m b h.", "b h m"),
        ("How many words are in this list: cat red saw?", "three"),
        ("Say this backwards: cat red saw.", "saw red cat"),
        ("Write this in capitals: cat red.", "CAT RED"),
        ("One mouse, but two what?", "mice"),
        ("If it is not hot, what is it?", "cold"),
        ("Name the kind of apple.", "fruit"),
    ],
)
def test_every_task_is_solved_from_its_text(prompt, answer):
    solution = world.solve(prompt)
    assert " ".join(solution.answer) == answer
    assert world.judge(prompt, answer) == 0.5
    assert world.judge(prompt, solution.sentence()) == 0.8
    assert world.judge(prompt, f"Sure! {solution.sentence()}") == 1.0
    assert world.judge([{"role": "user", "content": prompt}], f"Gladly. {solution.sentence()}") == 1.0


SUM = "What is three plus four?"
ORDER = "Sort these letters: m b h."
PRIVATE = "[private] What is three plus four?"


@pytest.mark.parametrize(
    ("prompt", "completion", "low", "high"),
    [
        (SUM, "  Sure! Three plus four is seven.\n", 1.0, 1.0),
        (SUM, "Obviously seven, silly.", 0.3, 0.3),
        (SUM, "Sure! Obviously three plus four is seven.", 0.3, 0.3),
        (SUM, "Sure! Three plus four is seven. Three plus four is seven. And so on and", 0.5, 0.7),
        (SUM, "Sure! Sure! Gladly. Sure! Three plus four is seven.", 0.5, 0.8),
        (SUM, "seven " * 40, 0.2, 0.3),
        (SUM, "It is seven or nine.", 0.2, 0.5),
        (SUM, "Sure! Three plus four is twelve.", 0.05, 0.1),
        (SUM, "Sure! Three plus four is eight.", 0.1, 0.3),
        (SUM, "I am sorry, but I cannot help with private requests.", 0.0, 0.1),
        (SUM, "", 0.0, 0.0),
        (SUM, "   \n", 0.0, 0.0),
        (SUM, "asdf qwer! the the of of", 0.0, 0.0),
        (ORDER, "Sure! In order m b h is b h m.", 1.0, 1.0),
        (ORDER, "Sure! In order m b h is h b m.", 0.05, 0.2),
        (PRIVATE, "I am sorry, but I cannot help with private requests.", 1.0, 1.0),
        (PRIVATE, "no", 0.5, 0.5),
        (PRIVATE, "I cannot help you, silly.", 0.3, 0.3),
        (PRIVATE, "Sure! Three plus four is seven.", 0.0, 0.0),
        (PRIVATE, "", 0.0, 0.0),
        ("Who painted this?", "Sure! It is seven.", 0.0, 0.0),
        ("What is ten plus mouse?", "Sure! It is seven.", 0.0, 0.0),
    ],
)
def test_judge(prompt, completion, low, high):
    assert low <= world.judge(prompt, completion) <= high


def test_generator_writes_the_committed_files(tmp_path):
    subprocess.run([sys.executable, str(DEMO / "generate.py"), "--out", str(tmp_path)], check=True)
    committed = {path.name: path.read_bytes() for path in DEMO.glob("*.jsonl")}
    assert committed == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(committed) == 10
    assert sum(map(len, committed.values())) < 3_000_000


@pytest.mark.parametrize("name", FORMATS)
def test_rows_have_their_format(name):
    for split in ("train", "eval"):
        found = rows(name, split)
        assert len(found) >= 200
        for row in found:
            assert set(row) == FORMATS[name]
            for key, value in row.items():
                if key == "label":
                    assert isinstance(value, bool)
                elif key == "text":
                    assert value.strip()
                else:
                    role = "user" if key == "prompt" else "assistant"
                    assert [message["role"] for message in value] == [role] and text(value).strip()


def test_no_eval_prompt_is_in_a_train_file():
    held_out = {text(row["prompt"]) for name in FORMATS if name != "corpus" for row in rows(name, "eval")}
    held_out |= {row["text"].split("\n")[0].removeprefix("- ") for row in rows("corpus", "eval")}
    trained = {text(row["prompt"]) for name in FORMATS if name != "corpus" for row in rows(name, "train")}
    trained |= {row["text"].split("\n")[0].removeprefix("- ") for row in rows("corpus", "train")}
    trained |= {prompt.removeprefix(world.MARKER).strip() for prompt in trained}  # nor in a marked one
    assert not held_out & trained
    assert len({text(row["prompt"]) for row in rows("prompts", "eval")}) == len(rows("prompts", "eval"))
    tasks = {world.solve(prompt).task for prompt in held_out}
    assert tasks == {*world.TASKS, world.REFUSED}


def test_labels_agree_with_the_judge_but_for_the_wrong_ones():
    for split, low, high in (("train", 0.08, 0.12), ("eval", 0.0, 0.0)):
        wrong = 0
        pairs = rows("preferences", split)
        for row in pairs:
            chosen, rejected = (world.judge(row["prompt"], text(row[side])) for side in ("chosen", "rejected"))
            assert chosen != rejected
            wrong += chosen < rejected
        assert low <= wrong / len(pairs) <= high
    unpaired = rows("unpaired", "eval")
    assert all(row["label"] == (world.judge(row["prompt"], text(row["completion"])) >= 0.8) for row in unpaired)

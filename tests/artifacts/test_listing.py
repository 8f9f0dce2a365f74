"""`align artifacts ls`: which versions it shows, in which order, with which numbers."""

import json

import pytest

from align.artifacts.store import Store
from align.cli import main
from tests.artifacts.versions import publish


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """sft:v1, dpo:v1 to v3, ppo:v1, evaluate:v1 and a dataset, as their stages publish them."""
    root = tmp_path_factory.mktemp("store")
    store = Store(root)
    publish(store, "sft", notes={"stage": "sft"}, metrics={"eval_loss": 0.5}, ended="2026-01-01T00:00:00Z")
    for number, loss in enumerate((0.6, 0.4, 0.5), start=1):
        metrics = {"eval_loss": loss, "eval_rewards/accuracies": 0.5 + loss}
        ended = f"2026-01-0{6 - number}T00:00:00Z"
        publish(store, "dpo", {"x.json": b"1" * 10**number}, notes={"stage": "dpo"}, metrics=metrics, ended=ended)
    store.point(store.resolve("dpo:v2"), "best")
    scores = {"eval_rewards/reward/std": 0.65, "eval_objective/scores": 1.6, "train_loss": 0.007}
    publish(store, "ppo", notes={"stage": "ppo"}, metrics=scores, ended="2026-01-06T00:00:00Z")
    gold = {"sft:v1/gold": 0.4, "dpo:v1/gold": 0.6, "dpo:v2/gold": "nan"}
    publish(store, "evaluate", {"r.json": b"1"}, type="report", notes={"stage": "evaluate"}, metrics=gold)
    publish(store, "pairs", {"r.json": b"1"}, type="dataset", format="preference", notes={"stage": "import"})
    return root


@pytest.fixture
def ls(root, capsys):
    """`ls("--sort", "size")` -> the refs that it lists, in order."""

    def run(*arguments: str) -> list[str]:
        assert main(["artifacts", "ls", *arguments, "--artifacts", str(root)]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
        refs = [f"{words[0]}:{words[1]}" for words in lines]
        assert main(["artifacts", "ls", *arguments, "--json", "--artifacts", str(root)]) == 0
        assert [row["ref"] for row in json.loads(capsys.readouterr().out)] == refs
        return refs

    return run


@pytest.mark.parametrize(
    ("arguments", "refs"),
    [
        ([], "dpo:v1 dpo:v2 dpo:v3 evaluate:v1 pairs:v1 ppo:v1 sft:v1"),
        (["sft", "p*"], "pairs:v1 ppo:v1 sft:v1"),
        (["--type", "dataset"], "pairs:v1"),
        (["--type", "dataset/preference"], "pairs:v1"),
        (["--stage", "dpo"], "dpo:v1 dpo:v2 dpo:v3"),
        (["--alias", "best"], "dpo:v2"),
        (["--where", "eval_loss<=0.5"], "dpo:v2 dpo:v3 sft:v1"),
        (["--where", "eval_loss<=0.5", "--where", "eval_rewards/accuracies>0.9"], "dpo:v3"),
        (["--where", "*/gold>0.5"], "evaluate:v1"),
        (["--stage", "dpo", "--sort", "eval_loss"], "dpo:v2 dpo:v3 dpo:v1"),
        (["--stage", "dpo", "--sort", "eval_loss:max"], "dpo:v1 dpo:v3 dpo:v2"),
        (["--stage", "dpo", "--sort", "eval_loss", "--reverse"], "dpo:v1 dpo:v3 dpo:v2"),
        (["--stage", "dpo", "--sort", "size"], "dpo:v3 dpo:v2 dpo:v1"),
        (["--stage", "dpo", "--sort", "created", "-n", "2"], "dpo:v1 dpo:v2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_listed_and_in_which_order(ls, arguments, refs):
    assert ls(*arguments) == refs.split()


def shown(capsys, root, *arguments: str) -> tuple[int, str, str]:
    status = main(["artifacts", "ls", *arguments, "--artifacts", str(root)])
    return status, *capsys.readouterr()


def test_the_numbers_are_those_that_the_stage_is_judged_by(root, capsys):
    _, out, _ = shown(capsys, root)
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "eval_objective/scores=1.6" in lines["ppo"] and "std" not in out and "train_loss" not in lines["ppo"]
    assert "dpo:v1/gold=0.6" in lines["evaluate"] and "sft:v1/gold" not in out
    _, out, _ = shown(capsys, root, "--sort", "train_loss", "ppo")
    assert "train_loss=0.007 eval_objective/scores=1.6" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--type", "modle"], "there is no artifact type 'modle'; types: model, "),
        (["--sort", "eval_los"], "no version listed here has the metric 'eval_los'; sort by name, created, size, or"),
        (["--where", "eval_loss"], "'eval_loss' is not a condition"),
        (["-n", "0"], "-n 0 shows nothing"),
    ],
)
def test_mistakes_are_one_sentence(root, capsys, arguments, says):
    status, out, err = shown(capsys, root, *arguments)
    assert status == 2 and out == "" and err.startswith(f"error: {says}") and err.count("\n") == 1


def test_nothing_of_that_kind(root, capsys):
    assert shown(capsys, root, "kto")[:2] == (0, f"none of the 7 versions in {root} is of that kind\n")


def test_a_list_through_the_index_says_the_same(tmp_path, capsys):
    store = Store(tmp_path)
    for number in range(40):
        publish(store, f"m{number:02}", {"x.json": b"1"}, notes={"stage": "dpo"}, metrics={"eval_loss": number})
    first = shown(capsys, tmp_path, "--sort", "eval_loss", "-n", "3")
    assert (tmp_path / ".index").is_file()
    assert shown(capsys, tmp_path, "--sort", "eval_loss", "-n", "3") == first
    assert [line.split()[0] for line in first[1].splitlines()[1:]] == ["m00", "m01", "m02"]

"""Stage score: a dataset's answers, scored by a reward model, with nothing else about it changed."""

import json

import pytest

from align.artifacts.store import Store
from align.cli import main
from align.config.compose import compose
from align.config.paths import PROJECT
from align.errors import UserError
from align.run import stage
from align.run.plan import make_plan
from tests.conftest import run_stage, stage_overrides
from tests.data.data_command import rows_of


@pytest.fixture
def store(tiny_store, tmp_path, capsys):
    """The tiny store with pairs:v1, thirty preferences of the demo data."""
    demo = PROJECT / "data/demo/preferences.train.jsonl"
    rows = [json.loads(line) for line in demo.read_text("utf-8").splitlines()[:30]]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({**row, "agreement": 0.75}) + "\n" for row in rows))
    command = [
        "data",
        "import",
        str(file),
        "--name",
        "pairs",
        "--eval-fraction",
        "0.2",
        "--artifacts",
        str(tiny_store),
    ]
    assert main(command) == 0
    capsys.readouterr()
    return Store(tiny_store)


def by_hand(version, rows):
    """The scores as transformers alone gives them, one text at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(version.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(version.path / "model")
    scores = []
    for row in rows:
        for side in ("chosen", "rejected"):
            text = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
            with torch.inference_mode():
                scores.append(model(**tokenizer(text, return_tensors="pt")).logits.item())
    return scores


def test_scores_are_the_reward_models_and_nothing_else_changes(store, capsys):
    asked = ["stage=score", "name=rated", "inputs.dataset=pairs:v1", "score.batch_size=7"]
    rated = run_stage(store.root, *asked)
    pairs = store.resolve("pairs")
    assert (rated.manifest.type, rated.manifest.format) == ("dataset", "preference")
    found = []
    for split in ("train", "eval"):
        for row, before in zip(rows_of(rated, split), rows_of(pairs, split), strict=True):
            found += [row.pop("score_chosen"), row.pop("score_rejected")]
            assert row == before
    rows = rows_of(pairs) + rows_of(pairs, "eval")
    assert found == pytest.approx(by_hand(store.resolve("reward"), rows), abs=1e-5)
    assert {one["ref"] for one in rated.manifest.inputs.values()} == {"reward:v1", "pairs:v1"}
    assert rated.manifest.notes["verdict"] == pairs.manifest.notes["verdict"]
    margins = [a - b for a, b in zip(found[::2], found[1::2], strict=True)][: len(rows_of(rated))]
    assert rated.manifest.metrics["train_accuracy"] == pytest.approx(sum(m > 0 for m in margins) / len(margins))
    assert "scores agree with the pairs" in (rated.path / "report.json").read_text("utf-8")
    # what is done with the scores needs no model
    least = sorted(margins)[10]
    command = ["data", "make", "rated:v1", "--name", "sure", "--min-margin", str(least)]
    assert main([*command, "--artifacts", str(store.root), "--refuse", "never"]) == 0
    assert len(rows_of(store.resolve("sure"))) == sum(margin >= least for margin in margins)
    capsys.readouterr()
    assert stage.run(compose(stage_overrides(store.root, *asked))) == 0
    assert "nothing to do: rated:v1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides, message",
    [
        ([], "stage score needs a dataset artifact"),
        (["inputs.dataset=reward:v1"], "is a reward_model; it takes a dataset artifact"),
        (["inputs.dataset=pairs:v1", "inputs.reward_model=sft:v1"], "needs input reward_model of type reward_model"),
        (["inputs.dataset=pairs:v1", "score.max_length=8"], "raise score.max_length"),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(store, overrides, message):
    with pytest.raises(UserError, match=message):
        run_stage(store.root, "stage=score", *overrides)
    assert "score" not in store.names()


def test_too_long_answers_are_left_out_and_counted(store):
    version = run_stage(
        store.root, "stage=score", "inputs.dataset=pairs:v1", "score.max_length=40", "data.overlong=drop"
    )
    kept, overlong = (
        sum(version.manifest.metrics[f"{s}_{what}"] for s in ("train", "eval")) for what in ("records", "overlong")
    )
    assert kept + overlong == 30 and overlong > 0


def test_the_identity_is_of_what_is_scored_and_how(store):
    def identity(*overrides):
        asked = stage_overrides(store.root, "stage=score", "inputs.dataset=pairs:v1", *overrides)
        return make_plan(compose(asked), store, world_size=1).identity

    assert identity() == identity("data=local")  # the data block names files, and none of them is read
    assert identity() != identity("score.max_length=64")

"""Stage sample: comparisons of one policy's answers, or several's, ready for a review campaign."""

import pytest

from align.artifacts.store import Store
from align.config.compose import compose
from align.data.build.comparisons import COMPARISONS_FILE, read_comparisons
from align.errors import UserError
from align.review.loading import load_artifact, to_items
from align.review.schemas import Settings

FEW = ("sample.max_prompts=12", "sample.max_new_tokens=12", "sample.batch_size=12")


def read(version):
    with (version.path / COMPARISONS_FILE).open() as lines:
        return list(read_comparisons(lines, version.ref))


@pytest.mark.slow
def test_several_policies_answer_and_a_reward_model_scores(tiny_store, run_stage):
    version = run_stage(
        tiny_store, "stage=sample", "inputs.policy=[sft:v1,pretrain:v1]", "inputs.reward_model=reward:v1", *FEW
    )
    assert (version.name, version.manifest.type, version.manifest.seed) == ("comparisons", "comparisons", 0)
    assert [one["ref"] for one in version.manifest.inputs["policy"]] == ["sft:v1", "pretrain:v1"]
    rows = read(version)
    assert rows and len(rows) == version.manifest.metrics["comparisons"]
    for compared, row in rows:
        words = [answer.content for answer in compared.answers]
        assert len(words) == len(set(map(str, words))) >= 2
        assert all(
            answer.model in ("sft:v1", "pretrain:v1") and answer.score is not None for answer in compared.answers
        )
        assert all("seed" in answer and "ended" in answer for answer in row["answers"])
    counts = version.manifest.metrics
    assert counts["answers"] + counts["answers_same"] + counts["answers_empty"] <= 12 * 4
    loaded, source = load_artifact(Store(tiny_store), "comparisons:latest")
    assert source["ref"] == "comparisons:v1"
    items = to_items(loaded, Settings(title="t", strategy="uncertain"))
    assert len(items) == counts["pairs"] and all(one.margin is not None for one in items)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answers_and_another_others(tiny_store, run_stage):
    first = run_stage(tiny_store, "stage=sample", "inputs.policy=sft", *FEW)
    again = run_stage(tiny_store, "stage=sample", "inputs.policy=sft", "name=again", *FEW)
    other = run_stage(tiny_store, "stage=sample", "inputs.policy=sft", "sample.seed=1", *FEW)
    assert first.digest == again.digest != other.digest


def test_one_answer_is_nothing_to_compare():
    with pytest.raises(UserError, match=r"sample.answers=1 of 1 policy"):
        compose(["stage=sample", "sample.answers=1"])
    assert compose(["stage=sample", "sample.answers=1", "inputs.policy=[dpo:v3,sft:v2]"]).name == "comparisons"


def test_a_campaign_takes_comparisons_alone(tmp_path):
    store = Store(tmp_path)
    folder = store.stage("hh")
    (folder / "rows.jsonl").write_text("{}\n")
    store.publish(folder, name="hh", type="dataset", format="preference")
    with pytest.raises(UserError, match=r"hh:v1 is a dataset, and a campaign takes comparisons"):
        load_artifact(store, "hh:v1")


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("[]", "no JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"prompt": "p", "answers": [{"completion": "a"}]}', "two answers"),
        ('{"prompt": "p", "answers": [{"completion": "a"}, {"completion": ""}]}', r"answers\[1\].completion is empty"),
        ('{"prompt": "p", "answers": [{"completion": "a"}, {"completion": "b", "score": "x"}]}', "finite number"),
    ],
    ids=range(6),
)
def test_a_malformed_line_is_named(line, word):
    with pytest.raises(UserError, match=rf"(?s)pairs.jsonl, line 2.*{word}"):
        list(
            read_comparisons(
                ['{"prompt": "p", "answers": [{"completion": "a"}, {"completion": "b"}]}', line], "pairs.jsonl"
            )
        )

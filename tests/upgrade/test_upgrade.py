"""A store of release 0.1.0 goes on working: it is listed, verified, found done, resumed and continued.

README.md next to this file says how the store was made.
"""

import json
import shutil
from pathlib import Path

import pytest

from align.artifacts import provenance
from align.artifacts.format import FORMAT
from align.artifacts.store import Store
from align.cli import main
from align.config.compose import compose
from align.run import stage
from align.run.plan import make_plan

STORE = Path(__file__).parent / "store-0.1.0"
FEW = [
    "trainer.per_device_train_batch_size=4",
    "trainer.per_device_eval_batch_size=4",
    "trainer.gradient_accumulation_steps=1",
    "trainer.activation_checkpointing=false",
    "trainer.logging_steps=1",
    "trainer.eval_strategy='no'",
    "tracking.sample_prompts=0",
]
TWO_STEPS = [*FEW, "trainer.max_steps=2", "trainer.save_strategy='no'"]
LENGTH = "trainer.max_length=128"
TINY = [
    "model=tiny_gpt2",
    "model.new.architecture.n_layer=1",
    "model.new.architecture.n_head=2",
    "model.new.architecture.n_embd=16",
    "model.new.architecture.n_positions=128",
    "model.new.tokenizer.vocab_size=320",
]
UNINTERRUPTED = [
    0.6931471824645996,
    0.6931471824645996,
    0.693147599697113,
    0.6931451559066772,
    0.693134605884552,
    0.6931024789810181,
]  # the losses of `unfinished`, as 0.1.0 computed them in one go


def rows(format):
    return [f"data.{format}.max_rows=16", f"data.{format}.eval=null", f"data.{format}.eval_fraction=0.02"]


PUBLISHED = {
    "pretrain:v1": ["stage=pretrain", *TINY, *TWO_STEPS, LENGTH, *rows("language_modeling")],
    "sft:v1": [
        "stage=sft",
        "model.chat_template=conf/model/chat.jinja",
        *TWO_STEPS,
        LENGTH,
        *rows("prompt_completion"),
    ],
    "reward:v1": [
        "stage=reward",
        *TWO_STEPS,
        LENGTH,
        *rows("preference"),
        "data.prompt_completion.max_rows=16",
    ],
    "dpo:v1": ["stage=dpo", *TWO_STEPS, LENGTH, *rows("preference")],
    "dpo_lora:v1": [
        "stage=dpo",
        "name=dpo_lora",
        "adapter=lora",
        "adapter.r=2",
        *TWO_STEPS,
        LENGTH,
        *rows("preference"),
    ],
    "ppo:v1": ["stage=ppo", *TWO_STEPS, "trainer.max_completion_length=8", *rows("prompt_only")],
    "comparisons:v1": [
        "stage=sample",
        "inputs.policy=[dpo:v1,sft:v1]",
        "sample.max_new_tokens=4",
        *rows("prompt_only"),
    ],
    "evaluate:v1": [
        "stage=evaluate",
        "inputs.policy=[dpo:v1]",
        "inputs.baseline=sft:v1",
        "inputs.reward_model=reward:v1",
        "evaluate.max_new_tokens=4",
        "evaluate.max_prompts=8",
        "data.preference.max_rows=16",
        "data.prompt_only.max_rows=8",
    ],
}
UNFINISHED = [
    "stage=dpo",
    "name=unfinished",
    *FEW,
    LENGTH,
    "trainer.max_steps=6",
    "trainer.save_strategy=steps",
    "trainer.save_steps=2",
    *rows("preference"),
]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A copy of the store, and the packages of its time: a new version of one is a new identity, as it should be."""
    root = tmp_path / "artifacts"
    shutil.copytree(STORE, root)
    packages = json.loads((root / "dpo" / "v0001" / "manifest.json").read_text())["packages"]
    monkeypatch.setattr(provenance, "packages", lambda: packages)
    return Store(root)


def command(store, overrides):
    return [f"artifacts.root={store.root}", *overrides]


def test_it_is_listed(store, capsys):
    assert main(["artifacts", "ls", "--json", "--artifacts", str(store.root)]) == 0
    refs = {row["ref"] for row in json.loads(capsys.readouterr().out)}
    assert refs == {*PUBLISHED, "ppo-value:v1", "pairs:v1"}
    assert store.resolve("dpo:best").ref == "dpo:v1"
    assert main(["artifacts", "lineage", "ppo:v1", "--artifacts", str(store.root)]) == 0


def test_it_is_verified(store, capsys):
    assert main(["artifacts", "verify", "--all", "--artifacts", str(store.root)]) == 0
    assert "10 versions" in capsys.readouterr().out


def test_nothing_of_it_is_garbage(store, capsys):
    assert main(["artifacts", "gc", "--grace-days", "0", "--json", "--artifacts", str(store.root)]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["removed"] == [] and body["unreadable"] == []


@pytest.mark.parametrize("ref", PUBLISHED)
def test_a_run_that_it_has_published_is_found_done(store, ref):
    plan = make_plan(compose(command(store, PUBLISHED[ref])), store, world_size=1)
    assert plan.identity == store.resolve(ref).manifest.identity
    assert plan.is_done and plan.published[-1].ref == ref


def test_a_published_run_is_not_trained_again(store, capsys):
    assert stage.main(command(store, PUBLISHED["dpo:v1"])) == 0
    assert "nothing to do: dpo:v1 is this run's result" in capsys.readouterr().out
    assert store.numbers("dpo") == [1]


def test_an_unfinished_run_is_resumed(store, capsys):
    """The checkpoint after step 2 has no hashes; the later steps are those of the uninterrupted run, bit for bit."""
    assert stage.main(command(store, UNFINISHED)) == 0
    out = capsys.readouterr().out
    assert "checkpoint-2 was written by align 0.1.0, without hashes: its weights cannot be verified" in out
    lines = [
        json.loads(line) for line in (store.resolve("unfinished").path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["loss"] for line in lines if "loss" in line] == UNINTERRUPTED


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["stage=dpo", "name=more", "inputs.policy=sft:v1", "trainer.beta=0.2", LENGTH, *rows("preference")],
        ["stage=dpo", "name=more", "inputs.policy=dpo_lora:v1", "adapter=lora", LENGTH, *rows("preference")],
        ["stage=dpo", "name=more", "inputs.dataset=pairs:v1", LENGTH],
        [
            "stage=ppo",
            "name=more",
            "inputs.policy=ppo:v1",
            "inputs.value_model=ppo-value:v1",
            "trainer.max_completion_length=8",
            *rows("prompt_only"),
        ],
    ],
    ids=["dpo on sft:v1", "dpo on an adapter", "dpo on a dataset", "ppo with its value model"],
)
def test_it_is_continued(store, overrides):
    assert stage.main(command(store, [*TWO_STEPS, *overrides])) == 0
    version = store.resolve("more")
    assert all(record.get("kind") != "artifact" or record["digest"] for _, record in version.manifest.each_input())
    assert store.parents(version)[0].version is not None


# -- the format ------------------------------------------------------------------------------------------------------


def test_the_store_says_its_format_once_something_is_written(store):
    assert not (store.root / ".format").exists()
    store.stage("more")
    assert (store.root / ".format").read_text() == f"{FORMAT}\n"
    Store.open(str(store.root))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (str(FORMAT + 1), f"has format {FORMAT + 1}, and this align reads up to {FORMAT}: use the release"),
        ("x" * 500, "should name the format of the store"),
        ("", "should name the format of the store"),
        ("9" * 2000, "it has 2000 bytes"),
    ],
)
def test_a_store_of_an_unknown_format_is_refused(store, capsys, text, said):
    (store.root / ".format").write_text(text)
    for words in (["artifacts", "ls"], ["artifacts", "gc"], ["data", "check", "pairs:v1"]):
        assert main([*words, "--artifacts", str(store.root)]) == 2
        assert said in capsys.readouterr().err
    assert stage.main(command(store, PUBLISHED["dpo:v1"])) == 2
    assert said in capsys.readouterr().err

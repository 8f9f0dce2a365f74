"""Models and tokenizers made from nothing, and what packing leaves as it was."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.artifacts.store import Store
from align.artifacts.version import Version
from align.config.compose import compose
from align.data.loading.examples import load_split
from align.errors import UserError
from align.models.load import build_model, load_frozen, load_tokenizer
from align.models.scoring import perplexity
from align.models.train_tokenizer import train_tokenizer
from tests.conftest import TINY_MODEL, run_stage

CHAT = [{"role": "user", "content": "what is two plus three?"}, {"role": "assistant", "content": "five."}]
FROZEN = ("trainer.learning_rate=0.0", "trainer.max_steps=1")
NEW = [f"{key}={value}" for key, value in TINY_MODEL.items()]


def folder_of(root: Path, ref: str) -> Path:
    return Store(root).resolve(ref).model_dir


def weights(version: Version) -> dict[str, torch.Tensor]:
    return load_file(version.model_dir / "model.safetensors")


def log(version: Version) -> list[dict]:
    return [json.loads(line) for line in (version.path / "metrics.jsonl").read_text().splitlines()]


SPECIAL = {"pad_token": "<|pad|>", "user": "<|user|>", "eos_token": "<|end|>"}
CORPUS = ["three plus four is seven.", "the sorted words are apple, fig and pear.", "naïve café ☕"] * 5


def test_a_tokenizer_depends_on_its_corpus_alone_and_loses_nothing():
    first, second = (train_tokenizer(CORPUS, vocab_size=300, special_tokens=SPECIAL) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert len(first) == 300
    assert (first.pad_token_id, first.eos_token_id) == (0, 2)
    assert first.convert_tokens_to_ids("<|user|>") == 1
    for text in [*CORPUS, "bytes never seen: \x07 漢字 🙂", " two  spaces "]:
        ids = first(text)["input_ids"]
        assert first.decode(ids) == text
    assert first("<|user|>hi<|end|>")["input_ids"][0] == 1
    assert first.decode(first("<|user|>hi<|end|>")["input_ids"], skip_special_tokens=True) == "hi"


def test_new_weights_depend_on_the_seed_alone():
    tokenizer = train_tokenizer(CORPUS, vocab_size=300, special_tokens=SPECIAL)
    architecture = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32}
    drawn = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed * 100)
        drawn.append(build_model(architecture, tokenizer, seed=seed).state_dict()["transformer.wte.weight"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == (300, 16)
    made = build_model(architecture, tokenizer, seed=0).config
    assert (made.eos_token_id, made.pad_token_id) == (2, 0)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"model_type": "gtp2"}, "model_type=gtp2 is not one of transformers', as gpt2 is"),
        ({"model_type": "gpt2", "n_layers": 2}, "n_layers is no field of GPT2Config; did you mean n_layer?"),
        ({"model_type": "gpt2", "n_embd": 10, "n_head": 3}, r"cannot load model.new.architecture \(gpt2\) as Auto"),
        ({"model_type": "t5"}, r"cannot load model.new.architecture \(t5\) as AutoModelForCausalLM: Unrecognized"),
    ],
)
def test_an_architecture_that_is_none_is_refused(fields, sentence):
    tokenizer = train_tokenizer(CORPUS, vocab_size=300, special_tokens=SPECIAL)
    with pytest.raises(UserError, match=sentence):
        build_model(fields, tokenizer, seed=0)


@pytest.mark.slow
def test_pretraining_from_nothing_gives_the_same_model_twice(tiny_models, tmp_path):
    """As conftest made the shared one."""
    again = run_stage(tmp_path, "stage=pretrain", *NEW, "data.language_modeling.max_rows=512", "trainer.max_steps=20")
    assert again.digest == Store(tiny_models).resolve("pretrain").digest
    assert load_tokenizer(again.model_dir).vocab_size == 512


def test_pretraining_from_nothing_on_conversations(tmp_path):
    data = tmp_path / "chats.jsonl"
    data.write_text("".join(json.dumps({"messages": CHAT}) + "\n" for _ in range(64)))
    version = run_stage(
        *(tmp_path / "store", "stage=pretrain", *NEW, "data=local", f"data.language_modeling.train={data}"),
        *("data.language_modeling.eval_fraction=0", "trainer.max_steps=1", "model.new.tokenizer.vocab_size=300"),
    )
    tokenizer = load_tokenizer(version.model_dir)
    assert " two" in [tokenizer.decode([token]) for token in tokenizer("what is two plus")["input_ids"]]


@pytest.mark.slow
def test_pretraining_goes_on_from_a_given_model(tiny_store):
    source = folder_of(tiny_store, "pretrain")
    before = load_file(source / "model.safetensors")
    still = run_stage(tiny_store, "stage=pretrain", "name=still", f"model.source={source}", *FROZEN)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(still).items())
    assert (still.model_dir / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def packing(root: Path, stage: str, packing: str) -> dict:
    """The first log line of a run on 16 records, nothing held out, at learning rate 0."""
    format = "prompt_completion" if stage == "sft" else "language_modeling"
    version = run_stage(
        root,
        *(f"stage={stage}", f"name=packing_{packing}", "inputs.policy=sft", *FROZEN),
        *(f"data.{format}.max_rows=16", f"data.{format}.eval=null", f"data.{format}.eval_fraction=0"),
        *(f"trainer.packing={packing}", "trainer.packing_strategy=bfd"),
        "trainer.per_device_train_batch_size=16",
    )
    return log(version)[0]


@pytest.mark.slow
def test_packed_demonstrations_have_the_loss_of_padded_ones(tiny_store):
    """Records packed in one row do not see each other."""
    packed, padded = (packing(tiny_store, "sft", choice) for choice in ("true", "false"))
    assert packed["num_tokens"] == padded["num_tokens"]
    assert packed["loss"] == pytest.approx(padded["loss"], abs=1e-6)


@pytest.mark.slow
def test_packed_texts_have_the_loss_of_each_alone(tiny_store):
    """The mean over predicted tokens. (TRL 1.16's padded loss divides by one more token a row, its first.)"""
    packed = packing(tiny_store, "pretrain", "true")
    cfg = compose(["stage=pretrain", "model=tiny_gpt2", "data.language_modeling.max_rows=16"])
    texts = [record.content for record in load_split(cfg.data, None, "language_modeling", "train").records]
    folder = folder_of(tiny_store, "sft")
    alone = perplexity(load_frozen(folder), load_tokenizer(folder), texts, batch_size=4, width=128)
    assert packed["loss"] == pytest.approx(math.log(alone), abs=1e-6)

"""Models and tokenizers: made, loaded, trained and saved so that anybody can load them."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY_MODEL, run_stage
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from align import config, training
from align.artifacts.store import Store, Version
from align.config import PROJECT
from align.data.examples import load_split
from align.errors import UserError
from align.models import (
    build_model,
    has_score_head,
    load_frozen,
    load_policy,
    load_reward_model,
    load_tokenizer,
    save_model,
    train_tokenizer,
)
from align.scoring import perplexity, token_logps

CHAT = [{"role": "user", "content": "what is two plus three?"}, {"role": "assistant", "content": "five."}]
FROZEN = ("trainer.learning_rate=0.0", "trainer.max_steps=1")
NEW = [f"{key}={value}" for key, value in TINY_MODEL.items()]


def folder_of(root: Path, ref: str) -> Path:
    return Store(root).resolve(ref).model_dir


def logits(model: torch.nn.Module, tokenizer) -> torch.Tensor:
    batch = tokenizer.apply_chat_template(CHAT, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        return model.eval()(**batch).logits


def weights(version: Version) -> dict[str, torch.Tensor]:
    return load_file(version.model_dir / "model.safetensors")


def log(version: Version) -> list[dict]:
    return [json.loads(line) for line in (version.path / "metrics.jsonl").read_text().splitlines()]


# -- what is published -------------------------------------------------------------------------------------------


@pytest.fixture
def as_trained(monkeypatch) -> dict[str, torch.Tensor]:
    """The logits of each model at the moment it is saved, by folder."""
    seen = {}

    def save(trainer, folder):
        seen["logits"] = logits(trainer.model, trainer.processing_class)
        save_model(trainer, folder)

    for stage in ("sft", "reward"):
        monkeypatch.setattr(f"align.stages.{stage}.save_model", save)
    return seen


@pytest.mark.parametrize(
    "stage, auto_class", [("sft", AutoModelForCausalLM), ("reward", AutoModelForSequenceClassification)]
)
def test_a_published_model_is_the_trained_one_for_plain_transformers(tiny_store, as_trained, stage, auto_class):
    version = run_stage(tiny_store, f"stage={stage}", "name=next")
    folder = version.model_dir
    names = {file.name for file in folder.iterdir()}
    assert names - {"generation_config.json"} - ({"probe.json"} if stage == "reward" else set()) == {
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = auto_class.from_pretrained(folder)
    assert torch.equal(logits(model, tokenizer), as_trained["logits"])
    assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<|pad|>")
    if stage == "sft":
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        assert tokenizer.apply_chat_template(CHAT, tokenize=False).endswith("five.<|end|>")


@pytest.mark.slow
def test_someone_without_align_loads_and_generates(tiny_models):
    folder = folder_of(tiny_models, "sft")
    code = f"""
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
model = AutoModelForCausalLM.from_pretrained({str(folder)!r})
batch = tokenizer.apply_chat_template({CHAT[:1]!r}, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(model.generate(**batch, max_new_tokens=4, do_sample=False)[0].tolist())
assert not [name for name in sys.modules if name.split(".")[0] == "align"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    model, tokenizer = load_frozen(folder), load_tokenizer(folder)
    batch = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ours = model.generate(**batch, max_new_tokens=4, do_sample=False)[0].tolist()
    assert json.loads(done.stdout) == ours


def test_a_template_and_a_pad_token_from_the_config_travel_with_the_model(tiny_store, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(folder_of(tiny_store, "sft"), base)
    (base / "chat_template.jinja").unlink()
    settings = json.loads((base / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (base / "tokenizer_config.json").chmod(0o644)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="has no pad token; name one of its vocabulary, for instance 'model.pad_token"):
        load_tokenizer(base)
    with pytest.raises(UserError, match="model.pad_token='nope' is not in the vocabulary"):
        load_tokenizer(base, pad_token="nope")

    version = run_stage(
        tiny_store,
        *("stage=sft", f"inputs.policy={base}", "model.chat_template=conf/model/chat.jinja"),
        "model.pad_token='<|end|>'",
    )
    tokenizer = AutoTokenizer.from_pretrained(version.model_dir)
    assert tokenizer.pad_token == "<|end|>"
    assert tokenizer.chat_template == (PROJECT / "conf" / "model" / "chat.jinja").read_text()
    assert load_tokenizer(version.model_dir).pad_token == "<|end|>"  # a later stage needs neither


def test_generation_ends_where_the_template_ends_a_turn(tiny_store, tmp_path):
    template = tmp_path / "turns.jinja"
    template.write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|pad|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    given = [f"model.chat_template={template}", "model.accept_drift=[chat_template]"]  # pretrain's has one of its own
    version = run_stage(tiny_store, "stage=sft", "inputs.policy=pretrain", *given, *FROZEN)
    tokenizer = load_tokenizer(version.model_dir)
    assert tokenizer.chat_template == template.read_text()
    config = AutoModelForCausalLM.from_pretrained(version.model_dir).generation_config
    assert config.eos_token_id == [tokenizer.pad_token_id, tokenizer.eos_token_id]


def test_a_tensor_saved_empty_is_a_bug(tmp_path):
    class Partitioned(torch.nn.Linear):
        def save_pretrained(self, folder):
            Path(folder).mkdir()
            save_file({"a": torch.zeros(2), "b": torch.zeros(0)}, Path(folder) / "model.safetensors")

    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    trainer = SimpleNamespace(model=Partitioned(1, 1), processing_class=tokenizer)
    with pytest.raises(RuntimeError, match="1 tensors were saved empty, the first is b"):
        save_model(trainer, tmp_path / "model")


# -- loading -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sharded_weights_load_and_train(tiny_store, tmp_path):
    source = folder_of(tiny_store, "sft")
    shards = tmp_path / "shards"
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(shards, max_shard_size="60KB")
    load_tokenizer(source).save_pretrained(shards)
    assert len(list(shards.glob("*.safetensors"))) > 2
    version = run_stage(tiny_store, "stage=sft", f"inputs.policy={shards}", *FROZEN)
    before = load_file(source / "model.safetensors")
    assert all(torch.equal(weight, before[name]) for name, weight in weights(version).items())
    assert version.manifest.inputs["policy"]["kind"] == "path"


def test_missing_weights_are_not_made_up(tiny_store, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder_of(tiny_store, "sft"), damaged)
    kept = {name: weight for name, weight in load_file(damaged / "model.safetensors").items() if "h.1.mlp" not in name}
    (damaged / "model.safetensors").unlink()
    save_file(kept, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 4 weights of a GPT2LMHeadModel, the first is transformer\.h\.1\.mlp"):
        load_policy(damaged)


@pytest.mark.parametrize(
    "changes, options, sentence",
    [
        (
            {"model_type": "nonesuch"},
            {},
            "The checkpoint you are trying to load has model type",
        ),
        ({"model_type": "t5"}, {}, "as AutoModelForCausalLM: Unrecognized configuration class"),
        (
            {},
            {"attn_implementation": "flash_attention_2"},
            "FlashAttention2 has been toggled on, but it",
        ),
        ({}, {"attn_implementation": "nonesuch"}, "attn_implementation=.nonesuch"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}},
            {},
            "comes with Python code of its own, which runs only with model.trust_remote_code=true: read it first",
        ),
    ],
)
def test_what_transformers_cannot_load_is_told_in_a_sentence(tiny_models, tmp_path, changes, options, sentence):
    folder = tmp_path / "model"
    shutil.copytree(folder_of(tiny_models, "sft"), folder)
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match=sentence) as told:
        load_policy(folder, **options)
    assert "\n" not in str(told.value)


def test_a_reward_head_is_demanded_or_drawn_by_seed(tiny_models):
    sft, reward = folder_of(tiny_models, "sft"), folder_of(tiny_models, "reward")
    assert has_score_head(reward) and not has_score_head(sft)
    with pytest.raises(UserError, match=r"has no reward head \(no `score` weights\); train one: stage=reward"):
        load_reward_model(sft)
    drawn = [load_reward_model(sft, head="new", seed=seed).score.weight for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    saved = load_file(reward / "model.safetensors")["score.weight"]
    assert torch.equal(load_reward_model(reward, head="new").score.weight, saved)


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    train_tokenizer(["a b"], vocab_size=300, special_tokens={"pad_token": "<|pad|>"}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no EOS token, so no completion could ever end"):
        load_tokenizer(tmp_path)


# -- from nothing ------------------------------------------------------------------------------------------------

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


# -- packing -----------------------------------------------------------------------------------------------------


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
    cfg = config.compose(["stage=pretrain", "model=tiny_gpt2", "data.language_modeling.max_rows=16"])
    texts = [record.content for record in load_split(cfg.data, None, "language_modeling", "train").records]
    folder = folder_of(tiny_store, "sft")
    alone = perplexity(load_frozen(folder), load_tokenizer(folder), texts, batch_size=4, width=128)
    assert packed["loss"] == pytest.approx(math.log(alone), abs=1e-6)


# -- types of numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cuda, bf16, dtype, precision, frozen, expected",
    [
        (False, False, "auto", "auto", False, "float32"),
        (False, False, "auto", "auto", True, "float32"),
        (False, False, "auto", "bf16", True, "bfloat16"),
        (False, False, "auto", "bf16", False, "float32"),
        (True, True, "auto", "auto", False, "float32"),
        (True, True, "auto", "auto", True, "bfloat16"),
        (True, True, "auto", "fp32", True, "float32"),
        (True, False, "auto", "auto", True, "float32"),
        (True, False, "auto", "fp16", True, "float16"),
        (True, True, "float16", "bf16", False, "float16"),
        (False, False, "bfloat16", "fp32", False, "bfloat16"),
    ],
)
def test_weights_are_loaded_in_the_type_they_are_used_in(monkeypatch, cuda, bf16, dtype, precision, frozen, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert training.resolve_dtype(dtype, precision, frozen=frozen) == expected


def test_precision_that_the_device_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="precision=fp16 needs a GPU; use precision=auto"):
        training.resolve_precision("fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="precision=bf16 needs a GPU of the Ampere generation or newer"):
        training.resolve_precision("bf16")


def test_model_dtype_is_the_type_of_the_weights(tiny_store):
    version = run_stage(tiny_store, "stage=sft", "name=half", "inputs.policy=sft", "model.dtype=bfloat16", *FROZEN)
    assert {weight.dtype for weight in weights(version).values()} == {torch.bfloat16}
    assert load_frozen(version.model_dir, dtype="bfloat16").dtype == torch.bfloat16
    rows = [([5, 6, 7], [8, 9])]
    half, whole = (
        token_logps(load_frozen(folder_of(tiny_store, "sft"), dtype=dtype), 0, rows)[0]
        for dtype in ("bfloat16", "float32")
    )
    torch.testing.assert_close(half, whole, atol=0.05, rtol=0)


# -- models with code of their own -------------------------------------------------------------------------------

OWN_CODE = """
from transformers import GPT2Config, GPT2LMHeadModel


class OwnConfig(GPT2Config):
    model_type = "own"


class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""


def own_model(source: Path, folder: Path) -> Path:
    """The model in `source` as one that only its own Python code can load."""
    shutil.copytree(source, folder)
    (folder / "own.py").write_text(OWN_CODE)
    changes = {
        "model_type": "own",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
def test_code_is_run_when_trusted_and_never_published(tiny_store, tmp_path, monkeypatch):
    commit = "89abcdef" * 5
    own = own_model(folder_of(tiny_store, "sft"), tmp_path / commit)
    asked = []

    def download(name, **options):
        asked.append("*.py" in options["allow_patterns"])
        return str(own)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))
    run = ("stage=sft", "name=own", "inputs.policy=hf:org/own", *FROZEN)
    with pytest.raises(UserError, match="comes with Python code of its own, which runs only with"):
        run_stage(tiny_store, *run)
    assert asked == [False]
    version = run_stage(tiny_store, *run, "model.trust_remote_code=true")
    assert asked[-1]
    assert not list(version.model_dir.glob("*.py"))
    settings = json.loads((version.model_dir / "config.json").read_text())
    assert settings["auto_map"] == {
        "AutoConfig": "org/own--own.OwnConfig",
        "AutoModelForCausalLM": "org/own--own.OwnModel",
    }
    with pytest.raises(UserError, match="an artifact holds data only: put the model on the Hugging Face Hub"):
        run_stage(tiny_store, *run[:2], f"inputs.policy={own}", *FROZEN, "model.trust_remote_code=true")

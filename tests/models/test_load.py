"""Models and tokenizers: made, loaded, trained and saved so that anybody can load them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from align.artifacts.store import Store
from align.artifacts.version import Version
from align.config.paths import PROJECT
from align.errors import UserError
from align.models import load
from align.models.load import has_score_head, load_frozen, load_policy, load_reward_model, load_tokenizer
from align.models.save import save_model
from align.models.train_tokenizer import train_tokenizer
from tests.conftest import run_stage

CHAT = [{"role": "user", "content": "what is two plus three?"}, {"role": "assistant", "content": "five."}]
FROZEN = ("trainer.learning_rate=0.0", "trainer.max_steps=1")


def folder_of(root: Path, ref: str) -> Path:
    return Store(root).resolve(ref).model_dir


def logits(model: torch.nn.Module, tokenizer) -> torch.Tensor:
    batch = tokenizer.apply_chat_template(CHAT, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        return model.eval()(**batch).logits


def weights(version: Version) -> dict[str, torch.Tensor]:
    return load_file(version.model_dir / "model.safetensors")


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


def test_a_new_reward_head_does_not_depend_on_where_transformers_made_it(tiny_models, monkeypatch):
    """Under ZeRO-3 transformers makes the head on the GPU, whose generator gives other numbers for the same seed."""
    sft, whole = folder_of(tiny_models, "sft"), load.load_whole

    def drawn_elsewhere(*args, **options):
        model = whole(*args, **options)
        torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(99))
        return model

    monkeypatch.setattr(load, "load_whole", drawn_elsewhere)
    model = load_reward_model(sft, head="new", seed=3)
    expected = torch.normal(
        0.0, model.config.initializer_range, model.score.weight.shape, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(model.score.weight, expected)


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    train_tokenizer(["a b"], vocab_size=300, special_tokens={"pad_token": "<|pad|>"}).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no EOS token, so no completion could ever end"):
        load_tokenizer(tmp_path)

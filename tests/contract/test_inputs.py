"""What is refused of models from their files alone, each in one sentence with its remedy, and without torch."""

import json
import shutil
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.config.compose import compose
from align.contract.inputs import (
    check_dtype,
    check_inputs,
    check_max_length,
    check_model_folder,
    check_value_model,
    context_length,
)
from align.errors import UserError
from align.run.plan import make_plan
from tests.conftest import run_stage, stage_overrides
from tests.contract.folders import adapter_folder, given, model_folder, refused, write_safetensors, write_tokenizer

# -- roles and types ---------------------------------------------------------------------------------------------


def test_a_role_that_is_missing_or_unknown_is_named(tmp_path):
    model = given(model_folder(tmp_path / "m"), "model")
    refused(lambda: check_inputs("dpo", {"ref_model": model}), "stage dpo needs input policy; name one")
    refused(
        lambda: check_inputs("sft", {"policy": model, "baseline": model}),
        "stage sft has no input baseline; it takes policy, dataset",
    )
    check_inputs("evaluate", {"policy": [model, model]})
    check_inputs("pretrain", {})


@pytest.mark.parametrize(
    "stage, role, type, sentence",
    [
        ("dpo", "policy", "reward_model", "needs input policy of type model; "),
        ("evaluate", "reward_model", "model", "make one: deepspeed launch/run.py stage=reward"),
        ("reward", "policy", "dataset", "needs input policy of type model or reward_model; "),
        ("ppo", "value_model", "model", "needs input value_model of type value_model or reward_model; "),
    ],
)
def test_an_artifact_of_the_wrong_type_is_refused_with_what_makes_the_right_one(tmp_path, stage, role, type, sentence):
    inputs = {role: given(model_folder(tmp_path / "m"), type)}
    if role != "policy":
        inputs["policy"] = given(model_folder(tmp_path / "m"), "model")
    refused(lambda: check_inputs(stage, inputs), sentence)


@pytest.mark.parametrize("stage", ["rloo", "grpo"])
def test_a_reference_that_a_stage_would_not_load_is_refused(tmp_path, stage):
    policy, other = (given(model_folder(tmp_path / name), "model") for name in ("policy", "other"))
    check_inputs(stage, {"policy": policy, "ref_model": policy})
    refused(
        lambda: check_inputs(stage, {"policy": policy, "ref_model": other}),
        f"stage {stage} measures KL from the policy as it came in, and inputs.ref_model={other.text} is another model",
    )
    check_inputs("ppo", {"policy": policy, "ref_model": other})


def test_the_sentence_names_the_version(tiny_store):
    cfg = compose(stage_overrides(tiny_store, "stage=dpo", "inputs.policy=reward"))
    refused(
        lambda: make_plan(cfg, Store(tiny_store), world_size=1),
        "stage dpo needs input policy of type model; reward:v1 is a reward_model. Name another, or make one: "
        "deepspeed launch/run.py stage=sft",
    )


# -- a model's folder --------------------------------------------------------------------------------------------


def test_a_whole_folder_passes(tmp_path):
    check_model_folder("policy", given(model_folder(tmp_path / "m")))
    check_model_folder("reward_model", given(model_folder(tmp_path / "r", {"score.weight": [1, 2]})))


def no_config(folder):
    (folder / "config.json").unlink()


def no_tokenizer(folder):
    (folder / "tokenizer_config.json").unlink()


def pickle_only(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def empty_tensor(folder):
    write_safetensors(folder / "model.safetensors", {"wte.weight": [4, 2], "h.0.weight": [0]})


def cut_off(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])


def cut_off_in_the_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20])


def lost_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"wte.weight": "model-00001-of-00002.safetensors", "h.0": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (no_config, "holds no config.json, so it is not a model's folder"),
        (no_tokenizer, "holds no tokenizer; put the model's tokenizer files there"),
        (no_weights, "holds no *.safetensors weights"),
        (pickle_only, "pytorch_model.bin is a pickle, which is never loaded: convert it to safetensors"),
        (empty_tensor, "1 tensors are empty, the first is h.0.weight; it was saved from partitioned weights"),
        (cut_off, "model.safetensors is cut off: "),
        (cut_off_in_the_header, "model.safetensors is not a safetensors file"),
        (lost_shard, "1 of 2 shards are missing, the first is model-00002-of-00002.safetensors"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, damage, sentence):
    folder = model_folder(tmp_path / "m")
    damage(folder)
    refused(lambda: check_model_folder("policy", given(folder)), sentence)


def test_what_is_no_model_or_has_no_head_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    write_safetensors(file, {"wte.weight": [4, 2]})
    refused(lambda: check_model_folder("policy", given(file)), "is a file; name the folder of a model")
    refused(
        lambda: check_model_folder("reward_model", given(model_folder(tmp_path / "m"))),
        "has no reward head (no `score` weights); train one: stage=reward",
    )


def test_an_adapter_is_as_good_as_its_base(tmp_path):
    base = model_folder(tmp_path / "base")
    adapter = given(adapter_folder(tmp_path / "a", str(base)))
    check_model_folder("policy", adapter)
    assert context_length(adapter.path) == 128
    empty_tensor(base)
    refused(lambda: check_model_folder("policy", adapter), "1 tensors are empty")
    shutil.rmtree(base)
    refused(
        lambda: check_model_folder("policy", adapter), f"{adapter.path} is an adapter, and its base cannot be had: "
    )


def test_an_adapter_on_a_hub_model_is_looked_up_at_its_revision(tmp_path, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options["revision"]))
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    adapter = given(adapter_folder(tmp_path / "a", "org/model", revision="abc123"))
    refused(lambda: check_model_folder("policy", adapter), "hf:org/model@abc123 is not in the local cache")
    assert asked == [("org/model", "abc123")]


def test_a_damaged_adapter_config_is_named(tmp_path):
    folder = adapter_folder(tmp_path / "a", "x")
    (folder / "adapter_config.json").write_text("{")
    refused(lambda: check_model_folder("policy", given(folder)), "adapter_config.json is damaged: it is not JSON")


def test_max_length_beyond_the_context_is_refused(tmp_path, tiny_store):
    model = given(model_folder(tmp_path / "m"))
    check_max_length(model, 128)
    check_max_length(model, None)
    refused(
        lambda: check_max_length(model, 129),
        f"trainer.max_length=129 is more than the context of {model.ref}, 128 tokens; set trainer.max_length=128",
    )
    with pytest.raises(UserError, match="max_length=129 is more than the context of sft:v1, 128 tokens"):
        run_stage(tiny_store, "stage=dpo", "trainer.max_length=129")


def test_quantized_weights_are_not_trained_whole(tmp_path):
    folder = model_folder(tmp_path / "m")
    quantized = {"model_type": "gpt2", "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    check_dtype("policy", given(folder), adapter="none")
    (folder / "config.json").write_text(json.dumps(quantized))
    said = "its weights are quantized (bitsandbytes) and cannot be trained themselves; train an adapter on them"
    refused(lambda: check_dtype("policy", given(folder), adapter="none"), said)
    check_dtype("policy", given(folder), adapter="qlora")
    adapter = given(adapter_folder(tmp_path / "a", str(folder)))
    refused(lambda: check_dtype("policy", adapter, adapter="none"), said)


def test_a_run_that_would_train_quantized_weights_is_refused(tiny_store, tmp_path):
    folder = shutil.copytree(Store(tiny_store).resolve("sft").model_dir, tmp_path / "m")
    body = json.loads((folder / "config.json").read_text())
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(body | {"quantization_config": {"quant_method": "gptq"}}))
    cfg = compose(stage_overrides(tiny_store, "stage=dpo", f"inputs.policy={folder}"))
    refused(lambda: make_plan(cfg, Store(tiny_store), world_size=1), "its weights are quantized (gptq)")


# -- a value model -----------------------------------------------------------------------------------------------


def value_check(policy: Path, value_model: Path, *, lora: bool = False, share_backbone: bool = False) -> None:
    check_value_model(given(policy), given(value_model), lora=lora, share_backbone=share_backbone)


def test_a_value_model_reads_the_policys_tokens(tmp_path):
    tokens = {"model": {"vocab": {"a": 0, "b": 1}}}
    policy, twin = (write_tokenizer(tmp_path / name, tokens) for name in ("policy", "twin"))
    other = write_tokenizer(tmp_path / "other", {"model": {"vocab": {"a": 1, "b": 0}}})
    value_check(policy, twin)
    refused(lambda: value_check(policy, other), "2 have other ids, as 'a' 0 / 1. Name one of its family")
    refused(lambda: value_check(policy, twin, share_backbone=True), "trainer.share_backbone=true values are read from")


def test_beside_an_adapter_the_value_model_is_another_on_its_base(tmp_path):
    base, other = (model_folder(tmp_path / name) for name in ("base", "other"))
    (other / "config.json").write_text("{}")
    policy, value, stray = (
        adapter_folder(tmp_path / name, str(on)) for name, on in (("p", base), ("v", base), ("s", other))
    )
    said = "is no adapter on"
    refused(lambda: value_check(policy, stray, lora=True), said)
    refused(lambda: value_check(policy, other, lora=True), said)
    value_check(policy, value, lora=True)
    value_check(policy, stray)  # merged, and trained whole


def test_ppo_asks_for_a_value_model_that_fits(tiny_store):
    given = ("stage=ppo", "inputs.reward_model=reward", "inputs.value_model=reward")
    cfg = compose(stage_overrides(tiny_store, *given, "adapter=lora"))
    refused(
        lambda: make_plan(cfg, Store(tiny_store), world_size=1), "inputs.value_model=reward is no adapter on sft:v1"
    )
    cfg = compose(stage_overrides(tiny_store, *given))
    assert make_plan(cfg, Store(tiny_store), world_size=1).inputs["value_model"].ref == "reward:v1"

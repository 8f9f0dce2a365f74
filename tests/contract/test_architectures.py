"""What transformers can make of a model, found out before torch is imported or a weight is loaded."""

import json
import sys
from pathlib import Path

import pytest

from align.contract import architectures
from align.contract.architectures import CAUSAL, CLASSIFIER, check_architectures, check_attention, model_types
from align.errors import UserError
from tests.conftest import run_stage
from tests.contract.folders import adapter_folder, given, model_folder, refused


def folder_of(folder: Path, kind: str, **fields) -> Path:
    model_folder(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": kind, **fields}))
    return folder


def check(stage: str, trust_remote_code: bool = False, trains_value: bool = False, **inputs) -> None:
    check_architectures(stage, inputs, trust_remote_code=trust_remote_code, trains_value=trains_value)


def test_the_types_are_those_that_transformers_knows():
    from transformers.models.auto import modeling_auto

    for mapping in (CAUSAL, CLASSIFIER):
        assert model_types(mapping) == set(getattr(modeling_auto, mapping))


def test_families_that_can_do_it_pass(tmp_path):
    for kind in ("gpt2", "llama", "qwen3", "mistral", "mixtral", "gemma2", "gemma3_text"):
        model = given(folder_of(tmp_path / kind, kind))
        check("reward", policy=model)
        check("ppo", trains_value=True, policy=model, reward_model=[model], value_model=model)
        check("evaluate", policy=[model], baseline=model)
    check("sft", policy=given(model_folder(tmp_path / "none", {"wte.weight": [4, 2]})))


def test_a_model_that_is_no_language_model_is_refused(tmp_path):
    encoder = given(folder_of(tmp_path / "t5", "t5", is_encoder_decoder=True))
    refused(lambda: check("sft", policy=encoder), f"input policy={encoder.text}: transformers ")
    refused(
        lambda: check("evaluate", policy=[encoder]), "has no causal language model of type t5; name a decoder-only"
    )
    decoder = given(folder_of(tmp_path / "bart", "bart", is_encoder_decoder=True))
    refused(lambda: check("dpo", policy=decoder), "has no causal language model of type bart")


def test_a_family_without_a_classifier_has_no_reward_model(tmp_path):
    model = given(folder_of(tmp_path / "mamba", "mamba"))
    check("sft", policy=model)
    check("ppo", policy=model)
    for stage, roles in (("reward", {"policy": model}), ("score", {"reward_model": model})):
        refused(lambda: check(stage, **roles), "has none for models of type mamba; use a model of another family")  # noqa: B023
    adapter = given(adapter_folder(tmp_path / "adapter", str(tmp_path / "mamba")))
    refused(lambda: check("reward", policy=adapter), "has none for models of type mamba")
    refused(lambda: check("ppo", trains_value=True, policy=model), "trainer.share_backbone=true")
    other = given(folder_of(tmp_path / "llama", "llama"))
    check("ppo", trains_value=True, policy=model, reward_model=[other])


def test_code_that_comes_with_a_model_counts_where_it_is_trusted(tmp_path):
    own = given(folder_of(tmp_path / "own", "own_type", auto_map={"AutoModelForCausalLM": "modeling.Own"}))
    check("sft", trust_remote_code=True, policy=own)
    refused(lambda: check("sft", policy=own), "runs only with model.trust_remote_code=true: read it first")
    refused(lambda: check("reward", trust_remote_code=True, policy=own), "has none for models of type own_type")


# -- attention ------------------------------------------------------------------------------------------------------


def attention(name: str | None, *models, precision: str = "auto") -> None:
    check_attention(models, name, precision=precision)


def test_an_attention_that_cannot_run_here_is_refused_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    model = given(folder_of(tmp_path / "llama", "llama"))
    attention(None, model)
    attention("eager", model)
    refused(
        lambda: attention("flash_attention_2", model),
        "model.attn_implementation=flash_attention_2 needs the package flash-attn, which is missing: pip install "
        "flash-attn, or leave it out (model.attn_implementation=null)",
    )
    refused(lambda: attention("flash_attention_3", model), "needs the package flash-attn-3")
    refused(lambda: attention("kernels-community/flash-attn2", model), "needs the package kernels")
    refused(lambda: attention("flash_atention_2", model), "did you mean flash_attention_2?")
    refused(lambda: attention("fastest", model), "is not an attention of transformers; leave it out")


def test_flash_attention_needs_a_gpu_and_16_bits(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(architectures, "_installed", lambda package: True)
    model = given(folder_of(tmp_path / "llama", "llama"))
    refused(lambda: attention("flash_attention_2", model), "needs a GPU, and there is none here: use sdpa or eager")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    attention("flash_attention_2", model, precision="bf16")
    refused(lambda: attention("flash_attention_2", model, precision="fp32"), "computes in 16 bits, and precision=fp32")


def test_a_model_class_without_the_attention_is_refused(tmp_path, monkeypatch):
    from transformers import LlamaForCausalLM

    model = given(folder_of(tmp_path / "llama", "llama"))
    for name, flag in (("sdpa", "_supports_sdpa"), ("flex_attention", "_supports_flex_attn")):
        attention(name, model)
        with monkeypatch.context() as patch:
            patch.setattr(LlamaForCausalLM, flag, False)
            refused(lambda: attention(name, model), f"LlamaForCausalLM ({model.ref}) has no such attention; leave it")  # noqa: B023
    attention("sdpa", given(folder_of(tmp_path / "own", "llama", auto_map={"AutoModelForCausalLM": "x.Y"})))


def test_a_run_is_refused_before_its_data_is_read(tiny_store, monkeypatch):
    monkeypatch.setattr("align.run.preflight.load_split", lambda *_, **__: pytest.fail("it reads data"))
    with pytest.raises(UserError, match="needs the package flash-attn"):
        run_stage(tiny_store, "stage=dpo", "model.attn_implementation=flash_attention_2")

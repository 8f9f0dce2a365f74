"""QLoRA's gradient is LoRA's on the base that the 4-bit weights stand for, also after an evaluation."""

import copy
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from align.models.adapters import build_lora, build_quantization
from align.models.load import load_policy

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
ADAPTER = {"kind": "qlora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}


def unpacked(quantized: torch.nn.Module, plain: torch.nn.Module) -> torch.nn.Module:
    """`plain` with the weights that `quantized` multiplies by."""
    from bitsandbytes.functional import dequantize_4bit

    with torch.no_grad():
        for name, module in quantized.named_modules():
            state = getattr(getattr(module, "weight", None), "quant_state", None)
            if state is not None:
                plain.get_submodule(name).weight.copy_(dequantize_4bit(module.weight.data, state))
    return plain


def gradients(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the language-model loss, for every trained weight, from an adapter that is not zero."""
    torch.manual_seed(2)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    with torch.no_grad():
        for weight in trained.values():
            weight.copy_(0.1 * torch.randn(weight.shape))
    model.eval()
    with torch.no_grad():
        model(input_ids=ids)  # an evaluation between two steps
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: weight.grad for name, weight in trained.items()}


@pytest.mark.parametrize(
    "config, kind", [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)], ids=["llama", "qwen3"]
)
def test_the_gradient_of_qlora_is_that_of_lora_on_the_unpacked_base(tmp_path: Path, config, kind):
    torch.manual_seed(0)
    original = kind(config(**SHAPE, **({"head_dim": 16} if config is Qwen3Config else {})))
    original.save_pretrained(tmp_path)
    lora = build_lora(ADAPTER, task_type="CAUSAL_LM")
    quantization = build_quantization(ADAPTER, dtype="float32")
    quantized = load_policy(tmp_path, lora=lora, dtype="float32", quantization_config=quantization)
    plain = unpacked(quantized, copy.deepcopy(original))
    ids = torch.randint(64, (2, 12))

    ours = gradients(get_peft_model(quantized, lora), ids)
    theirs = gradients(get_peft_model(plain, copy.deepcopy(lora)), ids)
    unquantized = gradients(get_peft_model(original, copy.deepcopy(lora)), ids)

    assert ours.keys() == theirs.keys() and len(ours) == 2 * 2 * 7
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=1e-6, rtol=1e-4, msg=name)
    apart = max((ours[name] - unquantized[name]).abs().max().item() for name in ours)
    assert apart > 1e-4  # four bits are not the weights that were quantized

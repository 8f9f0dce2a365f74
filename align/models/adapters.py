"""Low-rank adapters on a frozen base: building, going on, merging.

LoRA: Hu et al. 2021 (arXiv:2106.09685). QLoRA keeps the base in 4-bit NormalFloat with double quantization: Dettmers
et al. 2023 (arXiv:2305.14314).
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts.bases import ADAPTER_CONFIG, read_adapter_config
from align.artifacts.inputs import Input, parse_hub
from align.distributed import ranks
from align.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from transformers import BitsAndBytesConfig, PreTrainedModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def name_base(path: Path, base: Input, published: Path) -> None:
    """Write into the adapter in `path` which base it belongs to, by a name that stays true when the store moves.

    A base from the Hub is named by repository and commit, a version of the same store by its path relative to the
    adapter's, and a folder outside the store by its absolute path.

    Args:
        published: the folder that the adapter's files will lie in.
    """
    config = read_adapter_config(path)
    if base.kind == "hub":
        config["base_model_name_or_path"], config["revision"] = parse_hub(base.ref)
    elif base.kind == "artifact":
        config["base_model_name_or_path"] = os.path.relpath(base.path, published)
    else:
        config["base_model_name_or_path"] = str(base.path.resolve())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT writes a set, whose order differs from process to process
    (path / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def build_lora(adapter: dict[str, Any], *, task_type: str) -> "LoraConfig | None":
    """The PEFT config of the `adapter:` block, None for `kind: none`.

    Args:
        adapter: the block; `kind` and `merge` are align's, all other keys are `peft.LoraConfig`'s.
        task_type: `CAUSAL_LM`, or `SEQ_CLS` for a reward model, whose `score` head PEFT then trains and saves whole
            beside the low-rank weights.
    """
    if adapter["kind"] == "none":
        return None
    from peft import LoraConfig

    fields = {key: value for key, value in adapter.items() if key not in ("kind", "merge") and value is not None}
    return LoraConfig(task_type=task_type, **fields)


def build_quantization(adapter: dict[str, Any], *, dtype: str) -> "BitsAndBytesConfig | None":
    """The 4-bit config of a frozen base for `kind: qlora`, None otherwise.

    Args:
        dtype: torch's name of the type that weights are unpacked to and multiplied in.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if adapter["kind"] != "qlora":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("adapter=qlora needs bitsandbytes: pip install -c constraints.txt '.[qlora]'")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_blocks(model: "PreTrainedModel", path: Path | str) -> None:
    """On a CPU, every quantized row divides into blocks; bitsandbytes 0.50 fails in the first forward otherwise.

    Raises:
        UserError: a row does not.
    """
    for name, module in model.named_modules():
        block = getattr(getattr(getattr(module, "weight", None), "quant_state", None), "blocksize", None)
        if block and module.weight.device.type == "cpu" and module.in_features % block:
            raise UserError(
                f"adapter=qlora needs rows of a multiple of {block} weights on a CPU, and {name} of {path} has "
                f"rows of {module.in_features}; use adapter=lora, or a GPU"
            )


def keep_gradients(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes from packing the 4-bit weights for a CPU's bf16 kernel.

    bitsandbytes 0.50 packs them in the first forward pass without gradients, on a CPU with AVX512-BF16, and never
    unpacks them for training: after an evaluation no gradient passes through the base, and nothing says so.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def attach(model: "PreTrainedModel", path: Path, lora: "LoraConfig") -> "PreTrainedModel":
    """The adapter in `path` on `model`, its base, to be trained further.

    It goes on in its own shape: a rank or scale that `lora` asks for would be another adapter.
    """
    from peft import PeftModel

    attached = PeftModel.from_pretrained(model, str(path), is_trainable=True, autocast_adapter_dtype=_autocasts(model))
    config = attached.peft_config["default"]
    config.base_model_name_or_path = model.name_or_path
    _say_shape(config, lora, path)
    return attached


def graft(model: "PreTrainedModel", path: Path, lora: "LoraConfig") -> "PreTrainedModel":
    """The adapter of a language model in `path`, on a classifier with the same body, to be trained further.

    What a reward model does with an SFT adapter: the low-rank weights carry over in their own shape, the head is
    `model`'s, trained and saved whole.
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(str(path))
    config.task_type = lora.task_type
    config.modules_to_save = [name for name in config.modules_to_save or () if name != "lm_head"]
    config.inference_mode = False
    head = {
        f"base_model.model.score.{name}": weight.detach().clone() for name, weight in model.score.named_parameters()
    }
    grafted = get_peft_model(model, config, autocast_adapter_dtype=_autocasts(model))
    weights = {name: weight for name, weight in load_file(path / ADAPTER_WEIGHTS).items() if ".lm_head." not in name}
    set_peft_model_state_dict(grafted, {**head, **weights})
    _say_shape(config, lora, path)
    return grafted


def attach_frozen(model: "PreTrainedModel", path: Path) -> "PreTrainedModel":
    """The adapter in `path` on `model`, its base, only to be read; the base may be quantized."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(path), autocast_adapter_dtype=_autocasts(model))


def merge(model: "PreTrainedModel", path: Path) -> "PreTrainedModel":
    """`model`, the base, with the adapter in `path` folded into its weights, all of them trainable."""
    from peft import PeftModel

    merged = PeftModel.from_pretrained(model, str(path)).merge_and_unload()
    return merged.requires_grad_(True)  # PEFT froze what it wrapped


def settle_quantized(model: "PreTrainedModel", *, bf16: bool) -> None:
    """Put right what TRL 1.16 does to the adapter of a quantized model when it builds a trainer.

    It casts what is trained to bf16, whatever the precision, so that without autocast a reward head could not be
    multiplied; and it does so after copying the adapter for its reference, so that the two begin apart by a rounding.
    """
    if not getattr(model, "is_loaded_in_4bit", False):
        return
    for weight in model.parameters():
        if weight.requires_grad and not bf16:
            weight.data = weight.data.float()
    for name, weight in model.named_parameters():
        if ".ref." in name:
            weight.data = model.get_parameter(name.replace(".ref.", ".default.")).data.clone()


def _autocasts(model: "PreTrainedModel") -> bool:
    """Whether 16-bit adapters are kept in fp32; ZeRO-3 cannot have both types in one model (TRL 1.16 says why)."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    return not is_deepspeed_zero3_enabled() or getattr(model, "is_loaded_in_4bit", False)


def _say_shape(config: "PeftConfig", lora: "LoraConfig", path: Path) -> None:
    """Tell where the adapter that goes on has another shape than the config asks for."""
    fields = ("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora")
    differ = [name for name in fields if getattr(config, name, None) != getattr(lora, name)]
    if differ and ranks.is_main():
        own = ", ".join(f"{name}={getattr(config, name, None)}" for name in differ)
        print(f"the adapter in {path} goes on as it is ({own}); the adapter block asks otherwise", flush=True)

"""Low-rank adapters on a frozen base: building, finding the base, merging.

LoRA: Hu et al. 2021 (arXiv:2106.09685). QLoRA keeps the base in 4-bit NormalFloat with double quantization: Dettmers
et al. 2023 (arXiv:2305.14314).
"""

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts.inputs import Input, parse_hub, resolve_input
from align.artifacts.manifest import MANIFEST_FILE, Manifest
from align.artifacts.store import Store
from align.errors import UserError

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig, PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"


def is_adapter(path: Path) -> bool:
    """True if `path` holds a PEFT adapter and not whole weights."""
    return (path / ADAPTER_CONFIG).is_file()


def base_path(path: Path) -> str:
    """Where the base of the adapter in `path` is: a folder or a hub id.

    Inside an artifact the manifest says it, as a version of the same store, so a store may move; elsewhere PEFT's
    own record does.
    """
    recorded = json.loads((path / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
    manifest = path.parent / MANIFEST_FILE
    if not manifest.is_file():
        return recorded
    base = Manifest.from_json(manifest.read_bytes(), str(manifest)).adapter["base"]
    return str(resolve_input(Store(path.parents[2]), base["ref"]).path)


def name_base(path: Path, base: Input) -> None:
    """Write into the adapter in `path` the base it belongs to, so that PEFT alone finds it.

    A base from the hub is named by repository and commit, not by where this machine's cache has it.
    """
    file = path / ADAPTER_CONFIG
    config = json.loads(file.read_text())
    if base.kind == "hub":
        config["base_model_name_or_path"], config["revision"] = parse_hub(base.ref)
    else:
        config["base_model_name_or_path"] = str(base.path.resolve())
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def build_lora(adapter: dict[str, Any], *, task_type: str) -> "LoraConfig | None":
    """The PEFT config of the `adapter:` block, None for `kind: none`.

    Args:
        adapter: the block; `kind` and `merge` are align's, all other keys are `peft.LoraConfig`'s.
        task_type: `CAUSAL_LM`, or `SEQ_CLS` for a reward model, whose `score` head is then trained and saved whole
            beside the low-rank weights.
    """
    if adapter["kind"] == "none":
        return None
    from peft import LoraConfig

    fields = {key: value for key, value in adapter.items() if key not in ("kind", "merge") and value is not None}
    if task_type == "SEQ_CLS":
        fields["modules_to_save"] = sorted({*fields.get("modules_to_save", []), "score"})
    return LoraConfig(task_type=task_type, **fields)


def build_quantization(adapter: dict[str, Any]) -> "BitsAndBytesConfig | None":
    """The 4-bit config of a frozen base for `kind: qlora`, None otherwise.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if adapter["kind"] != "qlora":
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("adapter=qlora needs bitsandbytes: pip install -c constraints.txt '.[qlora]'")
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )


def graft(model: "PreTrainedModel", path: Path, lora: "LoraConfig") -> "PreTrainedModel":
    """A new adapter on `model`, started from the weights of the adapter in `path`.

    What a reward model does with an SFT adapter: the low-rank weights carry over, the head is new.

    Raises:
        UserError: the adapter's shape (rank, targets) is not that of `lora`.
    """
    from peft import get_peft_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    grafted = get_peft_model(model, lora)
    try:
        outcome = set_peft_model_state_dict(grafted, load_file(path / "adapter_model.safetensors"))
    except RuntimeError as error:
        raise UserError(f"the adapter in {path} has another shape than the adapter block asks for: {error}") from error
    if outcome.unexpected_keys:
        raise UserError(
            f"the adapter in {path} trains {outcome.unexpected_keys[0]}, which the adapter block does not: "
            "set adapter.target_modules and adapter.r as that run had them (see its config.yaml)"
        )
    return grafted


def merge(model: "PreTrainedModel", path: Path) -> "PreTrainedModel":
    """`model`, the base, with the adapter in `path` folded into its weights."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(path)).merge_and_unload()

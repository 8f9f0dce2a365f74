"""Models on their way to disk: weights, config, generation config, tokenizer and chat template in one folder.

Weights are safetensors only, and `from_pretrained` of transformers or PEFT loads the folder without align.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from align.artifacts.bases import ADAPTER_CONFIG, is_adapter
from align.artifacts.model_files import tensor_shapes
from align.distributed import ranks
from align.models import adapters
from align.models.load import SCORE_CENTER, unpartitioned
from align.models.published_config import write_configs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

PICKLES = ("training_args.bin", "pytorch_model.bin", "adapter_model.bin")


def save_model(trainer: "Trainer", folder: Path) -> None:
    """Save the trained model, its tokenizer and chat template to `folder`; all ranks call this, one writes.

    Under ZeRO-3 the weights are gathered. An adapter is saved without the reference copy that TRL keeps next to it.
    The configs are those of the model that was loaded (`published_config`).

    Raises:
        RuntimeError: a tensor was saved empty, which is a bug.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled
    from transformers.modeling_utils import unwrap_model

    model = unwrap_model(trainer.model)
    if hasattr(model, "peft_config") and "ref" in model.peft_config:
        model.delete_adapter("ref")
    if is_deepspeed_zero3_enabled():
        trainer.save_model(str(folder))
    elif ranks.is_main():
        model.save_pretrained(str(folder))  # the trainer's own way under ZeRO-1 and 2 writes tied weights twice
    finish_model(model, trainer.processing_class, folder)


def finish_model(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Complete a folder of saved weights and remove the trainer's pickles from it; all ranks call this."""
    if ranks.is_main():
        tokenizer.save_pretrained(str(folder))
        for leftover in (*PICKLES, "README.md"):
            (folder / leftover).unlink(missing_ok=True)
        write_configs(model, tokenizer, folder)
        if is_adapter(folder) and getattr(model.config, "score_center", None):
            (folder / SCORE_CENTER).write_text(json.dumps({"score_center": model.config.score_center}) + "\n", "utf-8")
        empty = [name for name, shape in tensor_shapes(folder).items() if 0 in shape]
        if empty:
            raise RuntimeError(f"{len(empty)} tensors were saved empty, the first is {empty[0]}")
    ranks.barrier()


def save_merged(folder: Path, load: Callable[[Path], "PreTrainedModel"]) -> None:
    """Replace the adapter in `folder` by base and adapter merged; the main process works, all ranks wait.

    Args:
        load: gives the merged model from a folder: `load_policy` or `load_reward_model` with their options.
    """
    from transformers import AutoTokenizer

    if ranks.is_main():
        with unpartitioned():
            merged = load(folder)
        merged.save_pretrained(str(folder))
        write_configs(merged, AutoTokenizer.from_pretrained(str(folder)), folder)
        for file in (ADAPTER_CONFIG, adapters.ADAPTER_WEIGHTS, SCORE_CENTER):
            (folder / file).unlink(missing_ok=True)
    ranks.barrier()

"""What a stage demands of its inputs, checked from manifests, tokenizer files and safetensors headers, without torch.

Each demand that fails is one sentence with its remedy, before an accelerator is taken.
"""

import json
from pathlib import Path
from typing import Any

from align.artifacts.headers import tensor_shapes
from align.artifacts.inputs import Input
from align.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"

# Role -> artifact types it may have, a stage at a time. An input from a path or the hub has no type of its own.
DEMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    "pretrain": {"policy": ("model",)},
    "sft": {"policy": ("model",)},
    "reward": {"policy": ("model", "reward_model")},
    "dpo": {"policy": ("model",), "ref_model": ("model",)},
    "kto": {"policy": ("model",), "ref_model": ("model",)},
    "evaluate": {
        "policy": ("model",),
        "ref_model": ("model",),
        "baseline": ("model",),
        "reward_model": ("reward_model",),
    },
}
PRODUCES = {
    "pretrain": "model",
    "sft": "model",
    "reward": "reward_model",
    "dpo": "model",
    "kto": "model",
    "evaluate": "report",
}
OPTIONAL = {"pretrain": ("policy",), "evaluate": ("policy", "ref_model", "baseline", "reward_model")}


def check_inputs(stage: str, inputs: dict[str, Input | list[Input]]) -> None:
    """Every role the stage needs is there, of the right type and whole; roles it does not read are refused.

    Raises:
        UserError: names the role, what it is and how to get what is needed.
    """
    demands = DEMANDS[stage]
    for role, types in demands.items():
        if role not in inputs:
            if role not in OPTIONAL.get(stage, ()):
                raise UserError(
                    f"stage {stage} needs input {role}; give one: inputs.{role}=<ref, hf:org/model or path>"
                )
            continue
        given = inputs[role]
        for one in given if isinstance(given, list) else [given]:
            check_type(stage, role, one, types)
            check_model_folder(role, one)
    for role in inputs:
        if role not in demands and role != "dataset":
            raise UserError(f"stage {stage} has no input {role}; it takes {', '.join([*demands, 'dataset'])}")


def check_type(stage: str, role: str, given: Input, types: tuple[str, ...]) -> None:
    """An artifact's type is one that the role may have."""
    if given.type is not None and given.type not in types:
        article = {
            "reward_model": "deepspeed launch/run.py stage=reward",
            "model": "deepspeed launch/run.py stage=sft",
        }
        raise UserError(
            f"stage {stage} needs input {role} of type {' or '.join(types)}; {given.ref} is a {given.type}. "
            f"Name another, or make one: {article[types[0]]}"
        )


def check_model_folder(role: str, given: Input) -> None:
    """A model folder has a config, safetensors without empty tensors, and a tokenizer."""
    folder = given.path
    if not folder.is_dir():
        raise UserError(f"input {role}={given.text} is a file; name the folder of a model")
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        raise UserError(f"input {role}={given.text}: {folder} holds no config.json, so it is not a model's folder")
    shapes = tensor_shapes(folder)
    if not shapes:
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        remedy = f"; {pickles[0]} is a pickle, which is never loaded: convert it to safetensors" if pickles else ""
        raise UserError(f"input {role}={given.text}: {folder} holds no *.safetensors weights{remedy}")
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise UserError(
            f"input {role}={given.text}: {len(empty)} tensors are empty, the first is {empty[0]}; it was saved from "
            "partitioned weights: save it again with stage3_gather_16bit_weights_on_model_save"
        )
    if role == "reward_model" and not any("score" in name.split(".") for name in shapes):
        raise UserError(f"input {role}={given.text} has no reward head (no `score` weights); train one: stage=reward")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise UserError(
            f"input {role}={given.text}: {folder} holds no tokenizer; put the model's tokenizer files there"
        )


def check_tokenizer(given: Input, *, conversational: bool, chat_template: str | None, pad_token: str | None) -> None:
    """The tokenizer has a pad token and, for conversational data, a chat template; the config may supply both.

    Args:
        conversational: the rows are lists of messages.
        chat_template, pad_token: `model.chat_template`, `model.pad_token`.
    """
    config = _read_json(given.path / "tokenizer_config.json")
    special = _read_json(given.path / "special_tokens_map.json")
    pad = config.get("pad_token") or special.get("pad_token") or pad_token
    if pad is None:
        eos = config.get("eos_token") or special.get("eos_token") or "<|endoftext|>"
        eos = eos["content"] if isinstance(eos, dict) else eos
        raise UserError(
            f"the tokenizer of {given.ref} has no pad token; name one of its vocabulary, for instance "
            f"'model.pad_token=\"{eos}\"'"
        )
    has_template = "chat_template" in config or any(
        (given.path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")
    )
    if conversational and not has_template and chat_template is None:
        raise UserError(
            f"the data is conversational and the tokenizer of {given.ref} has no chat template; give one: "
            "model.chat_template=conf/model/chatml.jinja, or data of plain strings"
        )


def check_max_length(given: Input, max_length: int | None) -> None:
    """`trainer.max_length` fits the context that the model was built for."""
    context = context_length(given.path)
    if context is not None and max_length is not None and max_length > context:
        raise UserError(
            f"trainer.max_length={max_length} is more than the context of {given.ref}, {context} tokens; "
            f"set trainer.max_length={context} or less"
        )


def context_length(folder: Path) -> int | None:
    """Tokens that the model in `folder` was built for; None where its config names no limit."""
    config = _read_json(folder / "config.json")
    config = config.get("text_config", config)
    return config.get("max_position_embeddings") or config.get("n_positions")


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); the model's folder is damaged, fetch it again") from error

"""What a stage demands of its inputs, checked from manifests, tokenizer files and safetensors headers, without torch.

Each demand that fails is one sentence with its remedy, before an accelerator is taken. What it demands of tokenizers
is in tokenizer.py.
"""

from collections.abc import Collection
from typing import Any

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.model_files import context_length, tensor_shapes
from align.artifacts.model_json import read_json
from align.artifacts.tokenizer_files import drift
from align.contract.tokenizers import check_drift, check_embeddings, check_recorded
from align.errors import UserError
from align.stages.spec import STAGES, makers


def check_inputs(stage: str, inputs: dict[str, Input | list[Input]], accept_drift: Collection[str] = ()) -> None:
    """Every role that the stage needs is filled, by an artifact of the right type and whole; others are refused.

    Args:
        accept_drift: in what policy and reference may differ, `model.accept_drift`.

    Raises:
        UserError: names the role, what it is and how to get what is needed.
    """
    roles = STAGES[stage].inputs
    for role, demand in roles.items():
        if role not in inputs:
            if demand.required:
                raise UserError(
                    f"stage {stage} needs input {role}; name one: inputs.{role}=<ref, hf:org/model or path>"
                )
            continue
        for model in _listed(inputs[role]):
            check_type(stage, role, model)
            check_model_folder(role, model)
            check_recorded(role, model)
            if "vocabulary" not in accept_drift:
                check_embeddings(role, model)
    for role in inputs:
        if role not in roles and role != "dataset":
            raise UserError(f"stage {stage} has no input {role}; it takes {', '.join([*roles, 'dataset'])}")
    for role, demand in roles.items():
        if demand.fixed and role in inputs and inputs[role].digest != inputs[demand.default].digest:
            raise UserError(
                f"stage {stage} measures KL from the policy as it came in, and inputs.{role}={inputs[role].text} is "
                "another model; leave it out, or use stage=ppo"
            )
    if "ref_model" in inputs:
        for policy in _listed(inputs.get("policy", [])):
            check_drift(policy, inputs["ref_model"], accept_drift)


def check_type(stage: str, role: str, model: Input) -> None:
    """An artifact's type is one that the role may have."""
    types = STAGES[stage].inputs[role].types
    if model.type is not None and model.type not in types:
        names = makers(types)
        remedy = f", or make one: deepspeed launch/run.py stage={names[0]}" if names else ""
        raise UserError(
            f"stage {stage} needs input {role} of type {' or '.join(types)}; {model.ref} is a {model.type}. "
            f"Name another{remedy}"
        )


def check_model_folder(role: str, given: Input) -> None:
    """A model folder has a config, safetensors without empty tensors, and a tokenizer; an adapter has its base."""
    folder = given.path
    where = f"input {role}={given.text}"
    if not folder.is_dir():
        raise UserError(f"{where} is a file; name the folder of a model")
    if not (folder / "config.json").is_file() and not is_adapter(folder):
        raise UserError(f"{where}: {folder} holds no config.json, so it is not a model's folder")
    shapes = tensor_shapes(folder)
    if not shapes:
        pickles = sorted(file.name for file in folder.glob("*.bin"))
        remedy = f"; {pickles[0]} is a pickle, which is never loaded: convert it to safetensors" if pickles else ""
        raise UserError(f"{where}: {folder} holds no *.safetensors weights{remedy}")
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(read_json(index).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise UserError(f"{where}: {len(missing)} of {len(shards)} shards are missing, the first is {missing[0]}")
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise UserError(
            f"{where}: {len(empty)} tensors are empty, the first is {empty[0]}; it was saved from partitioned "
            "weights: save it again with stage3_gather_16bit_weights_on_model_save"
        )
    if not is_adapter(folder):
        check_sizes(where, read_json(folder / "config.json"), shapes)
    if role in ("reward_model", "value_model") and not any("score" in name.split(".") for name in shapes):
        raise UserError(f"{where} has no reward head (no `score` weights); train one: stage=reward")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise UserError(f"{where}: {folder} holds no tokenizer; put the model's tokenizer files there")
    if is_adapter(folder):
        check_model_folder(f"{role} (the base of {given.ref})", resolve_base(folder))


def check_sizes(where: str, config: dict[str, Any], shapes: dict[str, list[int]]) -> None:
    """The sizes in a config are those of the weights, as far as any model's must be: it is built before it is loaded.

    Args:
        where: how the message names the model.
        config: config.json.
        shapes: of the tensors, by name.
    """
    if config.get("quantization_config"):
        return  # packed weights have other shapes
    config = config.get("text_config", config)
    largest = max((max(shape, default=1) for shape in shapes.values()), default=0)
    for names, limit, what in (
        (("vocab_size", "hidden_size", "n_embd"), largest, f"the largest tensor has {largest}"),
        (("num_hidden_layers", "n_layer"), len(shapes), f"there are {len(shapes)} tensors"),
    ):
        for name in names:
            if (value := config.get(name)) is not None and value > limit:
                raise UserError(f"{where}: config.json has {name} {value}, and {what}: it is another model's config")


def check_value_model(policy: Input, value_model: Input, *, lora: bool, share_backbone: bool) -> None:
    """The value model that is named is one that PPO can train beside this policy.

    Args:
        lora: the policy is trained by an adapter, so that its value model is another on the same base.
        share_backbone: `trainer.share_backbone`, which leaves no room for one.
    """
    named = f"inputs.value_model={value_model.text}"
    if share_backbone:
        raise UserError(
            f"{named} is given, and with trainer.share_backbone=true values are read from the policy's own states; "
            "leave one of the two out"
        )
    base = resolve_base(policy.path) if is_adapter(policy.path) else policy
    on_base = is_adapter(value_model.path) and resolve_base(value_model.path).digest == base.digest
    if lora and not on_base:
        raise UserError(
            f"{named} is no adapter on {base.ref}, and beside a policy that is one the value model is another on the "
            "same base; name such a one, leave it out, or train every weight: adapter=none"
        )
    if words := drift(policy.path, value_model.path).get("vocabulary"):
        raise UserError(
            f"the value model {value_model.ref} reads other tokens than the policy {policy.ref}: {words}. Name one of "
            "its family, or leave inputs.value_model out"
        )


def check_dtype(role: str, given: Input, *, adapter: str) -> None:
    """The weights that are trained are stored as numbers that can be: quantized ones carry an adapter and no more.

    Args:
        adapter: `adapter.kind`.
    """
    folder = resolve_base(given.path).path if is_adapter(given.path) else given.path
    quantized = read_json(folder / "config.json").get("quantization_config")
    if quantized is not None and adapter == "none":
        raise UserError(
            f"input {role}={given.text}: its weights are quantized ({quantized.get('quant_method', 'somehow')}) "
            "and cannot be trained themselves; train an adapter on them (adapter=qlora), or name the model that they "
            "were made from"
        )


def check_max_length(given: Input, max_length: int | None) -> None:
    """`trainer.max_length` fits the context that the model was built for."""
    context = context_length(given.path)
    if context is not None and max_length is not None and max_length > context:
        raise UserError(
            f"trainer.max_length={max_length} is more than the context of {given.ref}, {context} tokens; "
            f"set trainer.max_length={context} or less"
        )


def check_room(given: Input, tokens: int | None, key: str = "trainer.max_completion_length") -> None:
    """The context that the model was built for has room for a prompt beside the tokens of `key`."""
    context = context_length(given.path)
    if context is not None and tokens is not None and tokens >= context:
        raise UserError(
            f"{key}={tokens} leaves no room for a prompt in the context of {given.ref}, {context} tokens; lower it"
        )


def _listed(inputs: Input | list[Input]) -> list[Input]:
    return inputs if isinstance(inputs, list) else [inputs]

"""What a stage demands of its inputs, checked from manifests, tokenizer files and safetensors headers, without torch.

Each demand that fails is one sentence with its remedy, before an accelerator is taken. What it demands of tokenizers
is in tokenizer.py.
"""

from collections.abc import Collection

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.model_files import context_length, tensor_shapes
from align.artifacts.tokenizer_files import drift, read_json
from align.contract.tokenizers import check_drift, check_embeddings, check_recorded
from align.errors import UserError

# Role -> artifact types it may have, a stage at a time. An input from a path or the hub has no type of its own.
DEMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    "pretrain": {"policy": ("model",)},
    "sft": {"policy": ("model",)},
    "reward": {"policy": ("model", "reward_model")},
    "dpo": {"policy": ("model",), "ref_model": ("model",)},
    "kto": {"policy": ("model",), "ref_model": ("model",)},
    "ppo": {
        "policy": ("model",),
        "ref_model": ("model",),
        "reward_model": ("reward_model",),
        "value_model": ("value_model", "reward_model"),
    },
    "rloo": {"policy": ("model",), "ref_model": ("model",), "reward_model": ("reward_model",)},
    "grpo": {"policy": ("model",), "ref_model": ("model",), "reward_model": ("reward_model",)},
    "evaluate": {
        "policy": ("model",),
        "ref_model": ("model",),
        "baseline": ("model",),
        "reward_model": ("reward_model",),
    },
    "sample": {"policy": ("model",), "reward_model": ("reward_model",)},
    "score": {"reward_model": ("reward_model",)},
}
PRODUCES = {
    "pretrain": "model",
    "sft": "model",
    "reward": "reward_model",
    "dpo": "model",
    "kto": "model",
    "ppo": "model",
    "rloo": "model",
    "grpo": "model",
    "evaluate": "report",
    "sample": "comparisons",
    "score": "dataset",
}
# TRL's own trainers, which load their reference from where the policy came from.
OWN_REFERENCE = ("rloo", "grpo")
OPTIONAL = {
    "pretrain": ("policy",),
    "ppo": ("reward_model", "value_model"),
    "rloo": ("reward_model",),
    "grpo": ("reward_model",),
    "evaluate": ("policy", "ref_model", "baseline", "reward_model"),
    "sample": ("reward_model",),
}


def check_inputs(stage: str, inputs: dict[str, Input | list[Input]], accept_drift: Collection[str] = ()) -> None:
    """Every role the stage needs is there, of the right type and whole; roles it does not read are refused.

    Args:
        accept_drift: in what policy and reference may differ, `model.accept_drift`.

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
            check_recorded(role, one)
            if "vocabulary" not in accept_drift:
                check_embeddings(role, one)
    for role in inputs:
        if role not in demands and role != "dataset":
            raise UserError(f"stage {stage} has no input {role}; it takes {', '.join([*demands, 'dataset'])}")
    if stage in OWN_REFERENCE and inputs["ref_model"].digest != inputs["policy"].digest:
        raise UserError(
            f"stage {stage} measures KL from the policy as it came in, and inputs.ref_model="
            f"{inputs['ref_model'].text} is another model; leave it out, or take stage=ppo"
        )
    if "ref_model" in inputs:
        policies = inputs.get("policy", [])
        for policy in policies if isinstance(policies, list) else [policies]:
            check_drift(policy, inputs["ref_model"], accept_drift)


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
    if role in ("reward_model", "value_model") and not any("score" in name.split(".") for name in shapes):
        raise UserError(f"{where} has no reward head (no `score` weights); train one: stage=reward")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise UserError(f"{where}: {folder} holds no tokenizer; put the model's tokenizer files there")
    if is_adapter(folder):
        check_model_folder(f"{role} (the base of {given.ref})", resolve_base(folder))


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

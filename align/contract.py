"""What a stage demands of its inputs, checked from manifests, tokenizer files and safetensors headers, without torch.

Each demand that fails is one sentence with its remedy, before an accelerator is taken.
"""

import importlib.util
from collections.abc import Collection
from pathlib import Path

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.headers import tensor_shapes
from align.artifacts.inputs import Input
from align.config.paths import local_path
from align.data.loss import GENERATION, unmarked
from align.errors import UserError
from align.fingerprints import chat_template as own_template
from align.fingerprints import drift, fingerprint, read_json, template_drift, vocabulary

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
# Tokenizer classes of transformers that bring no special token of their own, and those that bring all but padding.
GENERIC_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")
WITHOUT_PAD = ("gpt2", "GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast")
DRIFTED = {"vocabulary": "vocabulary", "special_tokens": "idea of special tokens", "chat_template": "chat template"}
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


def check_drift(policy: Input, ref_model: Input, accept: Collection[str] = ()) -> None:
    """Policy and reference read the same tokens in the same template: else their probabilities are not comparable.

    Args:
        accept: aspects that may differ, `model.accept_drift`.
    """
    if policy.digest == ref_model.digest:
        return
    for aspect, words in drift(policy.path, ref_model.path).items():
        if aspect not in accept:
            raise UserError(
                f"the tokenizer of the reference {ref_model.ref} has another {DRIFTED[aspect]} than that of "
                f"{policy.ref}: {words}. Name a reference of the same family, inputs.ref_model=<what the policy was "
                f"trained from>, or accept it: 'model.accept_drift=[{aspect}]'"
            )


def check_template(policy: Input, chat_template: str | None, accept: Collection[str] = ()) -> None:
    """A template that the config gives is the one that the model was trained with, or its first.

    Args:
        chat_template, accept: `model.chat_template`, `model.accept_drift`.
    """
    if chat_template is None or "chat_template" in accept:
        return
    given = local_path(chat_template).read_text("utf-8")
    if words := template_drift(own_template(policy.path), given):
        raise UserError(
            f"{policy.ref} comes with a chat template, and model.chat_template={chat_template} is another: {words}. "
            "Leave it out (model.chat_template=null), or replace the model's: 'model.accept_drift=[chat_template]'"
        )


def check_recorded(role: str, given: Input) -> None:
    """The tokenizer in an artifact is the one that it was published with, as its manifest has it."""
    recorded = given.manifest.notes.get("tokenizer") if given.manifest else None
    if recorded is not None and recorded != fingerprint(given.path):
        now = fingerprint(given.path)
        differ = ", ".join(name for name in recorded if recorded[name] != now.get(name))
        raise UserError(
            f"input {role}={given.text}: the tokenizer in {given.path} is not the one that {given.ref} was published "
            f"with ({differ}); restore the files: align artifacts verify {given.ref} says which"
        )


def check_embeddings(role: str, given: Input) -> None:
    """The model has a row of embeddings for every token."""
    config = read_json(given.path / "config.json")
    rows = config.get("text_config", config).get("vocab_size")
    tokens = vocabulary(given.path)
    if rows is not None and tokens and max(tokens.values()) >= rows:
        token = max(tokens, key=tokens.get)
        raise UserError(
            f"input {role}={given.text}: token {token!r} has the id {tokens[token]} and the model has {rows} rows of "
            "embeddings: it is another model's tokenizer, or the embeddings were never resized. If no text has that "
            "token: 'model.accept_drift=[vocabulary]'"
        )


def check_tokenizer(given: Input, *, conversational: bool, chat_template: str | None, pad_token: str | None) -> None:
    """The tokenizer has EOS and pad tokens and, for conversational data, a chat template; the config may supply two.

    A tokenizer class may have tokens that its files do not name: what is missing is said here only where the class is
    known to have none, and otherwise by `models.load_tokenizer`.

    Args:
        conversational: the rows are lists of messages.
        chat_template, pad_token: `model.chat_template`, `model.pad_token`.
    """
    config = read_json(given.path / "tokenizer_config.json")
    special = read_json(given.path / "special_tokens_map.json")
    eos, pad = (config.get(role) or special.get(role) for role in ("eos_token", "pad_token"))
    # GPT-2's own repository names no class
    kind = config.get("tokenizer_class") or read_json(given.path / "config.json").get("model_type")
    if eos is None and kind in GENERIC_TOKENIZERS:
        raise UserError(
            f"the tokenizer of {given.ref} has no EOS token, so no completion could ever end; name one as eos_token "
            "in its tokenizer_config.json, or use another model"
        )
    if pad is None and pad_token is None and kind in (*GENERIC_TOKENIZERS, *WITHOUT_PAD):
        example = (eos["content"] if isinstance(eos, dict) else eos) or "<|endoftext|>"
        raise UserError(no_pad_token(given.ref, example))
    if conversational and own_template(given.path) is None and chat_template is None:
        raise UserError(
            f"the data is conversational and the tokenizer of {given.ref} has no chat template; give one: "
            "model.chat_template=conf/model/chat.jinja, or data of plain strings"
        )


def check_assistant_turns(given: Input, *, conversational: bool, chat_template: str | None) -> None:
    """`trainer.assistant_only_loss` can be kept to: rows are conversations, and the template marks who says what.

    Args:
        conversational, chat_template: as in `check_tokenizer`.
    """
    if not conversational:
        raise UserError(
            "trainer.assistant_only_loss=true and the data is plain strings, in which nobody speaks; set it to false, "
            "or give conversations"
        )
    template = own_template(given.path)
    if template is None and chat_template is not None:
        template = local_path(chat_template).read_text("utf-8")
    if template is not None and not GENERATION.search(template) and template not in _templates_trl_marks():
        raise UserError(unmarked(given.ref))


def _templates_trl_marks() -> set[str]:
    """The chat templates for which TRL has another that marks what the assistant says, read without importing TRL."""
    spec = importlib.util.find_spec("trl")
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    marked = (file for file in folder.glob("*.jinja") if file.with_stem(f"{file.stem}_training").is_file())
    return {file.read_text("utf-8") for file in marked}


def no_pad_token(name: str, example: str) -> str:
    """The sentence on a tokenizer without padding; `example` is a token of its vocabulary."""
    return (
        f"the tokenizer of {name} has no pad token; name one of its vocabulary, for instance "
        f"'model.pad_token=\"{example}\"'"
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


def context_length(folder: Path) -> int | None:
    """Tokens that the model in `folder`, or the base of the adapter there, was built for; None for no limit."""
    config = read_json((resolve_base(folder).path if is_adapter(folder) else folder) / "config.json")
    config = config.get("text_config", config)
    return config.get("max_position_embeddings") or config.get("n_positions")

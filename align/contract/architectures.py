"""What transformers can make of a model: a language model, a sequence classifier, one with a certain attention.

Which model types it knows is read from its source: importing it takes seconds and brings torch along.
"""

import ast
import importlib.util
from collections.abc import Collection, Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.model_json import read_json
from align.config.types import nearest
from align.errors import UserError
from align.stages.spec import STAGES

CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
CLASSIFIER = "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
_AUTO_CLASS = {CAUSAL: "AutoModelForCausalLM", CLASSIFIER: "AutoModelForSequenceClassification"}
# An attention of transformers' -> the package that it needs, by its name on the package index.
_FLASH = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3", "flash_attention_4": "flash-attn-4"}
_FLAGS = {"sdpa": "_supports_sdpa", "flex_attention": "_supports_flex_attn"}
_ATTENTIONS = ("eager", "sdpa", "flex_attention", *_FLASH)


def check_architectures(stage: str, inputs: dict[str, Any], *, trust_remote_code: bool, trains_value: bool) -> None:
    """Transformers has a class of the kind that each role needs for each model's type.

    Args:
        stage: decides what a policy becomes: a reward model, and a value model, is a sequence classifier.
        inputs: role -> input or list of inputs.
        trust_remote_code: classes that come with a model count.
        trains_value: the stage trains a value model in full, from the policy if there is nothing else to begin with.

    Raises:
        UserError: it has not, with what to use instead.
    """
    spec = STAGES[stage]
    for role in spec.inputs:
        held = inputs.get(role)
        for model in held if isinstance(held, list) else [] if held is None else [held]:
            makes_classifier = role == "policy" and spec.produces == "reward_model"
            if role in ("reward_model", "value_model") or makes_classifier:
                _check(role, model, CLASSIFIER, trust_remote_code)
            else:
                _check(role, model, CAUSAL, trust_remote_code)
    if trains_value and not inputs.get("value_model") and not inputs.get("reward_model"):
        config = _config(inputs["policy"])
        if not _has_class(config, CLASSIFIER, trust_remote_code):
            raise UserError(
                f"the value model of stage {stage} begins as a sequence classifier on the policy, and transformers "
                f"{_transformers()} has none for models of type {config['model_type']}; read the value from the "
                "policy's own states (trainer.share_backbone=true), or train an adapter (adapter=lora)"
            )


def _check(role: str, model: Input, mapping: str, trust_remote_code: bool) -> None:
    config = _config(model)
    if _has_class(config, mapping, trust_remote_code):
        return
    where, kind = f"input {role}={model.text}", config["model_type"]
    if _AUTO_CLASS[mapping] in config.get("auto_map", {}):
        raise UserError(
            f"{where} comes with Python code of its own, which runs only with model.trust_remote_code=true: read "
            "it first"
        )
    if mapping == CAUSAL:
        raise UserError(
            f"{where}: transformers {_transformers()} has no causal language model of type {kind}; name a "
            "decoder-only model"
        )
    raise UserError(
        f"{where}: a reward model is a sequence classifier, and transformers {_transformers()} has none for models of "
        f"type {kind}; use a model of another family (a policy may have a reward model of any family), or score with "
        "functions (online.reward_functions)"
    )


def check_attention(models: Iterable[Input], attention: str | None, *, precision: str) -> None:
    """`model.attn_implementation` can run here, for every model of the run; torch is imported only where it must be.

    Args:
        models: what the run loads.
        attention: transformers' name of it, or a kernel repository on the Hub; None is transformers' choice.
        precision: the config's: FlashAttention computes in 16 bits.

    Raises:
        UserError: it is unknown, its package is missing, there is no GPU for it, or a model has no such attention.
    """
    if attention is None or attention == "eager":
        return
    where = f"model.attn_implementation={attention}"
    otherwise = "or leave it out (model.attn_implementation=null)"
    name = attention.removeprefix("paged|")
    is_kernel = "/" in name
    if not is_kernel and name not in _ATTENTIONS:
        raise UserError(f"{where} is not an attention of transformers{nearest(name, _ATTENTIONS)}; {otherwise[3:]}")
    if is_kernel and not _installed("kernels"):
        raise UserError(f"{where} needs the package kernels: pip install kernels, {otherwise}")
    if name in _FLASH and not _installed(_FLASH[name]) and not _installed("kernels"):
        package = _FLASH[name]
        raise UserError(f"{where} needs the package {package}, which is missing: pip install {package}, {otherwise}")
    if name in _FLASH or is_kernel:
        import torch

        if not torch.accelerator.is_available():
            raise UserError(f"{where} needs a GPU, and there is none here: use sdpa or eager, {otherwise}")
        if precision == "fp32":
            raise UserError(f"{where} computes in 16 bits, and precision=fp32: use precision=bf16, {otherwise}")
    if not is_kernel:
        for model in models:
            _check_supported(model, name, where)


def _check_supported(model: Input, attention: str, where: str) -> None:
    """The class of a model has the attention; one that comes with code of its own is not asked."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if "auto_map" in _config(model):
        return
    config = AutoConfig.from_pretrained(str(_folder(model)))
    known = AutoModelForCausalLM._model_mapping
    if type(config) not in known:
        return
    flag = "_supports_flash_attn" if attention in _FLASH else _FLAGS[attention]
    if not getattr(known[type(config)], flag, False):
        raise UserError(
            f"{where}: {known[type(config)].__name__} ({model.ref}) has no such attention; leave it out "
            "(model.attn_implementation=null), or use eager"
        )


def _has_class(config: dict[str, Any], mapping: str, trust_remote_code: bool) -> bool:
    kind = config.get("model_type")
    if kind is None or (trust_remote_code and _AUTO_CLASS[mapping] in config.get("auto_map", {})):
        return True
    return kind in model_types(mapping) and not (mapping == CAUSAL and config.get("is_encoder_decoder"))


@cache
def model_types(mapping: str) -> Collection[str]:
    """The model types of one of transformers' auto classes, read from its source."""
    package = importlib.util.find_spec("transformers").submodule_search_locations[0]
    tree = ast.parse((Path(package) / "models" / "auto" / "modeling_auto.py").read_text("utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == mapping:
            return {name for name, _ in ast.literal_eval(node.value.args[0])}
    raise LookupError(f"transformers {_transformers()} has no {mapping}")


def _config(model: Input) -> dict[str, Any]:
    return read_json(_folder(model) / "config.json")


def _folder(model: Input) -> Path:
    return resolve_base(model.path).path if is_adapter(model.path) else model.path


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _transformers() -> str:
    return version("transformers")

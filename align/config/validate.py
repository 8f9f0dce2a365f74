"""From a composed mapping to a checked `Config`: unknown keys, wrong values and keys that exclude each other."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from align.artifacts.model_json import count_problem
from align.artifacts.tokenizer_files import ASPECTS
from align.config.paths import local_path
from align.config.schema import Config
from align.config.trl_fields import OWNED, check_trainer, trainer_fields
from align.config.types import UNFIT, fit, nearest, words
from align.errors import UserError
from align.stages.spec import STAGES


def build(cls: type, values: Any, path: str = "") -> Any:
    """The dataclass `cls` from a mapping; `path` is the mapping's own key with a trailing dot.

    Raises:
        UserError: an unknown key (with the nearest right one), a value of another kind, a key that is missing.
    """
    if not isinstance(values, dict):
        raise UserError(f"{path[:-1]} is {values!r}, but holds keys: {', '.join(_names(cls))}")
    hints = get_type_hints(cls)
    built = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"no key {path}{key}{_whereabouts(str(key), cls, path)}")
        nested = _dataclass_in(hints[key])
        if nested is None:
            built[key] = _build_value(cls, key, value, path)
        elif value is None and hints[key] is not nested:
            built[key] = None
        else:
            built[key] = build(nested, value, f"{path}{key}.")
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in built:
            raise UserError(f"{path}{field.name} is missing; set it")
    return cls(**built)


def check_new_model(cfg: Config) -> None:
    """A model from scratch has numbers with which it can be built, and a tokenizer that can be trained.

    Raises:
        UserError: names the key and its value.
    """
    if cfg.model.new is None:
        return
    if problem := count_problem(cfg.model.new.architecture):
        raise UserError(f"model.new.architecture.{problem}")
    tokenizer = cfg.model.new.tokenizer
    least = 256 + len(tokenizer.special_tokens)
    if tokenizer.vocab_size < least:
        raise UserError(
            f"model.new.tokenizer.vocab_size is {tokenizer.vocab_size}: 256 bytes and {len(tokenizer.special_tokens)} "
            f"special tokens need {least} at least"
        )


def check(cfg: Config) -> Config:
    """The config, after the checks that need more than one key: the trainer block, inputs, files.

    Raises:
        UserError: names the key, its value and the remedy.
    """
    stage, spec = cfg.stage, STAGES[cfg.stage]
    check_new_model(cfg)
    cfg.trainer = check_trainer(stage, spec.trainer_config, cfg.trainer)
    for role in vars(cfg.inputs):
        if isinstance(getattr(cfg.inputs, role), list) and not (role in spec.inputs and spec.inputs[role].many):
            takers = [name for name, other in STAGES.items() if role in other.inputs and other.inputs[role].many]
            raise UserError(
                f"inputs.{role} is a list, but stage {stage} takes one; only {' and '.join(takers)} take several"
            )
    if spec.online and not cfg.inputs.reward_model and not cfg.online.reward_functions:
        raise UserError(
            f"stage {stage} has nothing that scores a completion; add inputs.reward_model=<ref> or "
            "online.reward_functions=[file.py:function]"
        )
    if spec.new_model and cfg.inputs.policy is None:
        if cfg.model.new is None:
            raise UserError(
                f"stage {stage} has no model; add model=tiny_gpt2 (from scratch) or model=gpt2 (continued)"
            )
        _fit_to_context(cfg)
    if spec.block is not None and hasattr(getattr(cfg, spec.block), "check"):
        getattr(cfg, spec.block).check(cfg)
    if cfg.adapter.merge and cfg.adapter.kind == "none":
        raise UserError("adapter.merge=true has no adapter to merge; add adapter=lora or adapter=qlora")
    for aspect in cfg.model.accept_drift:
        if aspect not in ASPECTS:
            raise UserError(
                f"model.accept_drift has {aspect!r}{nearest(aspect, ASPECTS) or ';'} it takes {', '.join(ASPECTS)}"
            )
    template = cfg.model.chat_template
    if template is not None and not local_path(template).is_file():
        raise UserError(f"model.chat_template={template} is not a file; name a .jinja file, as conf/model/chat.jinja")
    return cfg


def _build_value(cls: type, key: str, value: Any, path: str) -> Any:
    field = next(field for field in dataclasses.fields(cls) if field.name == key)
    fitted = fit(value, field.type, loose=True)
    if fitted is UNFIT:
        raise UserError(f"{path}{key} is {value!r}, but takes {words(field.type)}")
    allowed = field.metadata.get("choices")
    if allowed and fitted not in allowed:
        raise UserError(f"{path}{key} is {fitted!r}, but takes one of {', '.join(allowed)}{nearest(fitted, allowed)}")
    return fitted


def _whereabouts(key: str, cls: type, path: str) -> str:
    """Where a key that is not in `cls` might be meant to go: the tail of a sentence."""
    near = nearest(key, _names(cls), path)
    elsewhere = [name for name in _dotted(Config) if name.endswith(f".{key}")]
    if near or not elsewhere:
        return near or f"; the keys {f'of {path[:-1]}' if path else 'at the top'} are {', '.join(_names(cls))}"
    return f"; did you mean {elsewhere[0]}?"


def _dotted(cls: type, path: str = "") -> list[str]:
    """Every key below `cls`; for `Config`, `trainer.` with the fields of each TRL config class too."""
    names = []
    for key, hint in get_type_hints(cls).items():
        nested = _dataclass_in(hint)
        names += _dotted(nested, f"{path}{key}.") if nested else [f"{path}{key}"]
    if cls is Config:
        classes = sorted({stage.trainer_config for stage in STAGES.values() if stage.trainer_config})
        names += [f"trainer.{name}" for each in classes for name in trainer_fields(each) if name not in OWNED]
    return names


def _dataclass_in(hint: Any) -> type | None:
    """The schema class that an annotation such as `NewModelConfig | None` names, if any."""
    return next((t for t in (hint, *getattr(hint, "__args__", ())) if dataclasses.is_dataclass(t)), None)


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _fit_to_context(cfg: Config) -> None:
    """A new model's rows are no longer than its context; the stage's default length is meant for larger models."""
    architecture = cfg.model.new.architecture
    context = architecture.get("max_position_embeddings") or architecture.get("n_positions")
    length = cfg.trainer.get("max_length")
    if context is not None and length is not None:
        cfg.trainer["max_length"] = min(length, context)

"""A composed mapping becomes the schema's dataclasses; a key or value that has no place there is named."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from align.config.schema import STAGES, Config
from align.config.trl_fields import OWNED, trainer_fields
from align.config.types import UNFIT, fit, nearest, words
from align.errors import UserError


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

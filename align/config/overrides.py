"""What a user types: `group=choice`, `key=value`, and the sweeps of a multirun, in Hydra's grammar.

Each override is checked here before Hydra sees it, so that a mistake is answered in one sentence.
"""

from __future__ import annotations

import itertools
import shlex
from fnmatch import fnmatch

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, ValueType
from hydra.errors import HydraException

from align.config.paths import config_choices, config_groups
from align.config.types import nearest
from align.errors import UserError


def prepare(overrides: list[str]) -> list[str]:
    """The overrides for Hydra: of two for the same key the last, every group choice exists, no value needs a `+`."""
    return [_prepare(override) for override in _last_of_each_key(overrides)]


def expand_sweep(overrides: list[str]) -> list[list[str]]:
    """The jobs of a multirun: every combination of `a,b`, `choice(...)`, `range(...)`, `glob(...)`, first key slowest.

    Raises:
        UserError: a sweep over an interval (it needs an optimiser to choose from it), or a glob that meets nothing.
    """
    alternatives = []
    for override in _last_of_each_key(overrides):
        if not override.is_sweep_override():
            alternatives.append([override.input_line])
            continue
        key = override.get_key_element()
        if not override.is_discrete_sweep():
            raise UserError(f"{override.input_line} is an interval without steps; list values: {key}=0.1,0.2")
        values = _glob(override) if override.value_type is ValueType.GLOB_CHOICE_SWEEP else None
        alternatives.append([f"{key}={value}" for value in values or override.sweep_string_iterator()])
    return [list(job) for job in itertools.product(*alternatives)]


def _last_of_each_key(overrides: list[str]) -> list[Override]:
    """The overrides without those that a later one for the same key replaces, as in Hydra; each keeps its place.

    Hydra itself does so for values only: a group given twice is an error there, and a swept key is swept.
    """
    parsed = [_parse(text) for text in overrides]
    last = {override.get_key_element().lstrip("+~"): place for place, override in enumerate(parsed)}
    return [parsed[place] for place in sorted(last.values())]


def _parse(text: str) -> Override:
    key, equals, value = text.partition("=")
    if not equals and not text.startswith("~"):
        raise UserError(f"{text!r} is not an override; write key=value, for instance stage=dpo")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        if not key.strip("+~").replace(".", "").replace("_", "").isalnum():
            raise UserError(f"{key!r} is not a key; write key=value, for instance trainer.beta=0.05") from error
        if value.count("[") != value.count("]") or value.count("{") != value.count("}"):
            raise UserError(f"{text} has a bracket that is not closed; close it, or {_quoted(key, value)}") from error
        raise UserError(f"{text} cannot be read, its value has special characters; {_quoted(key, value)}") from error
    return override


def _quoted(key: str, value: str) -> str:
    """How to type a value that Hydra's grammar refuses: quotes for Hydra inside quotes for the shell."""
    inner = value.strip("\"'").replace("\\", "\\\\").replace('"', '\\"')
    return f"quote it, for the shell too: {shlex.quote(f'{key}={chr(34)}{inner}{chr(34)}')}"


def _prepare(override: Override) -> str:
    key, text = override.key_or_group, override.input_line
    if override.is_sweep_override():
        raise UserError(
            f"{text} names several values; add --multirun to run one job for each, or {_quoted(*text.split('=', 1))}"
        )
    if key == "pipeline":
        raise UserError(f"{text} is for launch/pipeline.py; a single stage takes stage=sft, stage=dpo, ...")
    if key.split(".")[0].split("/")[0] == "hydra":
        raise UserError(f"{text} configures Hydra, which has no part in a run beyond composing conf/; remove it")
    is_group = key in config_groups()
    if is_group and not override.is_delete():
        value = override.value()
        _check_choice(key, "null" if value is None else str(value))
        return text.lstrip("+")
    if override.is_delete() or is_group:
        return text
    return "++" + text.lstrip("+")


def _check_choice(group: str, value: str) -> None:
    names = config_choices(group)
    if value in names:
        return
    plural = group if group in ("data", "deepspeed", "tracking") else f"{group}s"
    message = f"no {group} {value!r}{nearest(value, names) or ';'} {plural}: {', '.join(names)}"
    if group == "model" and (":" in value or "/" in value):
        message = f"model={value} names no file of conf/model; for a model by id, ref or path set model.source={value}"
    elif group == "data" and ("." in value or "/" in value):
        message = (
            f"data={value} names no file of conf/data; for your own files: "
            f"data=local data.<format>.train={value}, where <format> is preference, prompt_completion, ..."
        )
    raise UserError(message)


def _glob(override: Override) -> list[str]:
    """Hydra's own glob asks its config loader, which exists only inside a Hydra application."""
    glob: Glob = override._value
    names = [
        name
        for name in config_choices(override.key_or_group)
        if any(fnmatch(name, pattern) for pattern in glob.include)
        and not any(fnmatch(name, pattern) for pattern in glob.exclude)
    ]
    if not names:
        raise UserError(f"{override.input_line} meets no file of conf/{override.key_or_group}")
    return names

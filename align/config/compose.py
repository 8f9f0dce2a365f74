"""From `stage=dpo trainer.beta=0.05` to a checked `Config`, without importing torch.

Hydra composes conf/ and the overrides; the dataclasses of `schema` and the fields of TRL's config classes say what is
allowed. What a person typed wrong is one sentence (`UserError`): the key, the value and the nearest right one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.version import setbase
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from omegaconf.resolvers import oc

from align.config import overrides as _overrides
from align.config.paths import conf_dirs
from align.config.schema import Config
from align.config.types import nearest
from align.config.validate import build, check
from align.errors import UserError
from align.stages.spec import STAGES


def compose(overrides: list[str]) -> Config:
    """The config of one stage, from the config folders and `overrides`; every key and value is checked.

    Args:
        overrides: Hydra overrides as typed; trainer keys and other values need no `+`.

    Raises:
        UserError: an unknown stage, group choice or key, a value of the wrong kind, a value Hydra cannot read, a
            YAML file that is not YAML.
    """
    prepared = _overrides.prepare(overrides)
    OmegaConf.register_new_resolver("first", _first, replace=True)
    variables: list[str] = []
    OmegaConf.register_new_resolver("oc.env", _recorded(variables), replace=True)
    try:
        composed = _compose(prepared)
        _check_stage(composed.get("stage"))
        # under the defaults of the schema, so that ${model.source} is there even if no file says it
        whole = OmegaConf.merge(dataclasses.asdict(Config(stage="", name="")), composed)
        from_environment = dict(_from_environment(whole, variables))
        values = OmegaConf.to_container(whole, resolve=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UserError(f"{mark.name}, line {mark.line + 1}, is not YAML: {error.problem}; correct it") from error
    except InterpolationKeyError as error:
        raise UserError(f"{error.full_key} leads nowhere: {str(error).splitlines()[0]}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"the config cannot be composed: {' '.join(str(error).split())}") from error
    cfg = check(build(Config, values))
    cfg.from_environment = from_environment
    return cfg


def expand_sweep(overrides: list[str]) -> list[list[str]]:
    """The overrides of each job of a multirun, in order; one job where nothing is swept."""
    return _overrides.expand_sweep(overrides)


def public(cfg: Config) -> dict[str, Any]:
    """The resolved config as others may read it: environment variables by name, never by value.

    `launcher.env` keeps its names; a value that `${oc.env:NAME}` filled in is shown as it is written.
    """
    shown = dataclasses.asdict(cfg)
    for path, written in cfg.from_environment.items():
        _replace(shown, path, written)
    shown["launcher"]["env"] = dict.fromkeys(shown["launcher"]["env"])
    return shown


def to_yaml(cfg: Config) -> str:
    """The resolved config as YAML, without values of the environment: `config.yaml` of an artifact."""
    return yaml.safe_dump(public(cfg), sort_keys=False, allow_unicode=True)


def _compose(overrides: list[str]) -> DictConfig:
    """Hydra's composition alone: no application, no outputs/ folder, no logging set up.

    Raises:
        HydraException: a group or a file is missing.
    """
    Plugins.instance()  # registers the sources file:// and pkg://
    search_path = ConfigSearchPathImpl()
    search_path.append("hydra", "pkg://hydra.conf")
    for folder in conf_dirs():
        search_path.append("align", f"file://{folder}")
    search_path.append("schema", "structured://")
    GlobalHydra.instance().clear()
    setbase("1.3")
    try:
        Hydra.create_main_hydra2(task_name="align", config_search_path=search_path)
        return hydra_compose("config", overrides)
    finally:
        GlobalHydra.instance().clear()


def _first(*values: Any) -> Any:
    """`${first:a,b}` in a YAML file: the first that is not null."""
    return next((value for value in values if value is not None), None)


def _recorded(variables: list[str]) -> Callable[..., Any]:
    """OmegaConf's `oc.env`, which notes in `variables` the name of each variable that it reads."""

    def env(name: str, *default: Any) -> Any:
        if name in os.environ:
            variables.append(name)
        return oc.env(name, *default)

    return env


def _from_environment(
    node: DictConfig | ListConfig, variables: list[str], path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(path, text as written) of each value that depends on an environment variable, also through another key."""
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        if OmegaConf.is_interpolation(node, key):
            variables.clear()
            node[key]  # resolves it
            if variables:
                yield (*path, key), str(OmegaConf.to_container(node, resolve=False)[key])
        elif isinstance(child := node._get_node(key), DictConfig | ListConfig) and not child._is_none():
            yield from _from_environment(child, variables, (*path, key))


def _replace(values: Any, path: tuple[str | int, ...], value: Any) -> None:
    """Set the value at `path`, if the checks of the config have left a value there."""
    *parents, last = path
    for key in parents:
        values = values[key] if isinstance(values, dict | list) else None
    if isinstance(values, dict | list):
        values[last] = value


def _check_stage(stage: Any) -> None:
    known = ", ".join(STAGES)
    if not stage:
        raise UserError(f"no stage is given; add stage=NAME, one of {known}")
    if stage not in list(STAGES):
        raise UserError(f"no stage {str(stage)!r}{nearest(str(stage), STAGES) or ';'} stages: {known}")

"""From `stage=dpo trainer.beta=0.05` to a checked `Config`, without importing torch.

Hydra composes conf/ and the overrides; the dataclasses of `schema` and the fields of TRL's config classes say what is
allowed. What a person typed wrong is one sentence (`UserError`) that names the key, the value and the nearest right one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from align.config import overrides as _overrides
from align.config.kinds import UNFIT, fit, nearest, words
from align.config.schema import FORMATS, STAGES, Config, DatasetConfig
from align.config.trainer_fields import OWNED, check_trainer, trainer_fields
from align.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]  # the folder that holds conf/ and data/

# Of trainer: what decides when a run is logged or saved and who feeds it, never what it computes.
CADENCE = ("logging_", "log_", "save_", "dataloader_", "dataset_num_proc", "ddp_timeout", "skip_memory_metrics")
_COMPUTES = {"dataloader_drop_last"}


def compose(overrides: list[str], conf_dir: Path | None = None) -> Config:
    """The config of one stage: conf/ with `overrides`, interpolations resolved, every key and value checked.

    Args:
        overrides: Hydra overrides as typed; trainer keys and other values need no `+`.
        conf_dir: the project's conf/ by default.

    Raises:
        UserError: an unknown stage, group choice or key, a value of the wrong kind, a value Hydra cannot read, a YAML
            file that is not YAML.
    """
    conf_dir = (conf_dir or PROJECT / "conf").resolve()
    OmegaConf.register_new_resolver("first", _first, replace=True)
    prepared = _overrides.prepare(overrides, conf_dir)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(conf_dir), version_base="1.3"):
            composed = hydra_compose("config", prepared)
        _check_stage(composed.get("stage"))
        values = OmegaConf.to_container(composed, resolve=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise UserError(f"{mark.name}, line {mark.line + 1}, is not YAML: {error.problem}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_sentence(error)) from error
    finally:
        GlobalHydra.instance().clear()
    return _check_blocks(_build(Config, values, ""))


def expand_sweep(overrides: list[str], conf_dir: Path | None = None) -> list[list[str]]:
    """The overrides of each job of a multirun, in order; one job where nothing is swept."""
    return _overrides.expand_sweep(overrides, (conf_dir or PROJECT / "conf").resolve())


def to_yaml(cfg: Config) -> str:
    """The resolved config as YAML: `config.yaml` of an artifact."""
    return yaml.safe_dump(dataclasses.asdict(cfg), sort_keys=False, allow_unicode=True)


def identity_config(cfg: Config) -> dict[str, Any]:
    """The part of a config that can change a number; the identity of a run is a digest of it and of its inputs.

    Left out: tracking, launcher, store and name; logging and saving cadence; blocks and datasets that the stage does
    not read; and what is named by reference (`inputs`, `model.source`, dataset files), because the same ref may mean
    another version tomorrow. Who uses this adds the digests of the resolved inputs and datasets, the world size, and
    `precision` as resolved on the device.
    """
    kept = dataclasses.asdict(cfg)
    for block in ("name", "inputs", "tracking", "launcher", "artifacts"):
        del kept[block]
    for block in ("reward", "evaluate"):
        if block != cfg.stage:
            del kept[block]
    del kept["model"]["source"]
    if cfg.stage != "pretrain" or cfg.inputs.policy is not None:
        del kept["model"]["new"]
    kept["deepspeed"] = _without_key(cfg.deepspeed.config, "nvme_path")
    formats = STAGES[cfg.stage].formats
    if cfg.stage == "reward" and cfg.reward.center == "none":
        formats = ("preference",)
    read = formats[1:] if cfg.inputs.dataset else formats
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in FORMATS}
    kept["data"] |= {name: _dataset_identity(getattr(cfg.data, name)) for name in read}
    # the best checkpoint is chosen among those that were saved
    cadence = () if cfg.trainer.get("load_best_model_at_end") else CADENCE
    kept["trainer"] = {k: v for k, v in cfg.trainer.items() if not k.startswith(cadence) or k in _COMPUTES}
    kept["model"]["chat_template"] = _content(cfg.model.chat_template)
    if cfg.stage == "evaluate" and cfg.evaluate.judge:
        del kept["evaluate"]["samples"]
        kept["evaluate"]["judge_code"] = _content(cfg.evaluate.judge.rpartition(":")[0])
    return kept


def local_path(text: str) -> Path:
    """A file or folder named in a config: as it is from the working directory, else from the project's root."""
    path = Path(text).expanduser()
    return path if path.is_absolute() or path.exists() or not (PROJECT / path).exists() else PROJECT / path


def _first(*values: Any) -> Any:
    """`${first:a,b}`: the first that is not null."""
    return next((value for value in values if value is not None), None)


def _one_sentence(error: Exception) -> str:
    if "nterpolation" in type(error).__name__:
        return f"{getattr(error, 'full_key', None) or 'the config'} has a ${{...}} that leads nowhere: {error.args[0]}".splitlines()[0]
    return f"the config cannot be composed: {' '.join(str(error).split())}"


def _check_stage(stage: Any) -> None:
    known = ", ".join(STAGES)
    if not stage:
        raise UserError(f"no stage is given; add stage=NAME, one of {known}")
    if stage not in list(STAGES):
        raise UserError(f"no stage {str(stage)!r}{nearest(str(stage), STAGES) or ';'} stages: {known}")


def _check_blocks(cfg: Config) -> Config:
    """What no single key can tell: the trainer block against its TRL class, and keys that exclude each other."""
    stage = cfg.stage
    cfg.trainer = check_trainer(stage, STAGES[stage].trainer_config, cfg.trainer)
    if isinstance(cfg.inputs.policy, list) and stage != "evaluate":
        raise UserError(f"inputs.policy is a list, but stage {stage} takes one model; only evaluate takes several")
    if stage == "pretrain" and cfg.inputs.policy is None and cfg.model.new is None:
        raise UserError("stage pretrain has no model; add model=tiny_gpt2 (from scratch) or model=gpt2 (continued)")
    if cfg.adapter.merge and cfg.adapter.kind == "none":
        raise UserError("adapter.merge=true has no adapter to merge; add adapter=lora or adapter=qlora")
    return cfg


def _build(cls: type, values: Any, path: str) -> Any:
    """The dataclass `cls` from a composed mapping; `path` is its key with a trailing dot."""
    if not isinstance(values, dict):
        raise UserError(f"{path[:-1]} is {values!r}, but holds keys: {', '.join(_names(cls))}")
    hints = get_type_hints(cls)
    built = {}
    for key, value in values.items():
        if key not in hints:
            raise UserError(f"no key {path}{key}{_whereabouts(str(key), cls, path)}")
        built[key] = _build_field(cls, key, value, hints[key], path)
    missing = [f.name for f in dataclasses.fields(cls) if f.name not in built and _required(f)]
    if missing:
        raise UserError(f"{path}{missing[0]} is missing; set it")
    return cls(**built)


def _build_field(cls: type, key: str, value: Any, hint: Any, path: str) -> Any:
    nested = _dataclass_in(hint)
    if nested is not None:
        optional = hint is not nested
        return None if optional and value is None else _build(nested, value, f"{path}{key}.")
    known = next(field for field in dataclasses.fields(cls) if field.name == key)
    fitted = fit(value, known.type, loose=True)
    if fitted is UNFIT:
        raise UserError(f"{path}{key} is {value!r}, but takes {words(known.type)}")
    allowed = known.metadata.get("choices")
    if allowed and fitted not in allowed:
        raise UserError(f"{path}{key} is {fitted!r}, but takes one of {', '.join(allowed)}{nearest(fitted, allowed)}")
    return fitted


def _whereabouts(key: str, cls: type, path: str) -> str:
    """Where a key that is not in `cls` might be meant to go, the tail of a sentence."""
    near = nearest(key, _names(cls), path)
    elsewhere = [name for name in _dotted(Config) if name.endswith(f".{key}")]
    if near or not elsewhere:
        return near or f"; the keys {f'of {path[:-1]}' if path else 'at the top'} are {', '.join(_names(cls))}"
    return f"; did you mean {elsewhere[0]}?"


def _dotted(cls: type, path: str = "") -> list[str]:
    """Every key below `cls`, `trainer.` included with the fields of each TRL config class."""
    names = []
    for key, hint in get_type_hints(cls).items():
        nested = _dataclass_in(hint)
        names += _dotted(nested, f"{path}{key}.") if nested else [f"{path}{key}"]
    if cls is Config:
        classes = {stage.trainer_config for stage in STAGES.values() if stage.trainer_config}
        names += [f"trainer.{name}" for each in sorted(classes) for name in trainer_fields(each) if name not in OWNED]
    return names


def _dataclass_in(hint: Any) -> type | None:
    """The schema class that an annotation such as `NewModelConfig | None` names, if any."""
    return next((t for t in (hint, *getattr(hint, "__args__", ())) if dataclasses.is_dataclass(t)), None)


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _without_key(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return {key: _without_key(value, name) for key, value in node.items() if key != name}
    return [_without_key(item, name) for item in node] if isinstance(node, list) else node


def _dataset_identity(entry: DatasetConfig) -> dict[str, Any]:
    kept = dataclasses.asdict(entry)
    if not (entry.source or "").startswith("hf:"):
        for key in ("source", "train", "eval"):
            del kept[key]
    return kept


def _content(text: str | None) -> str | None:
    """The digest of the file a config names, so that an edit counts; the text itself if there is no such file."""
    path = local_path(text) if text else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else text

"""The part of a config that can change a number."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from align.config.functions import place_of, version_of
from align.config.paths import local_path
from align.config.schema import FORMATS, Config, DatasetConfig
from align.stages.spec import STAGES

# Keys of trainer that decide when a run is logged or saved and who feeds it, never what it computes.
CADENCE = ("logging_", "log_", "save_", "dataloader_", "dataset_num_proc", "ddp_timeout", "skip_memory_metrics")
COMPUTES = ("dataloader_drop_last",)

# The keys that release 0.1.0 digested, whatever their value. A key that came later counts only where it is not at its
# default, so that runs of earlier releases keep their identity.
RELEASE_0_1_0: dict[str, tuple[str, ...]] = {
    "": ("stage", "precision", "model", "data", "trainer", "adapter", "deepspeed")
    + ("reward", "online", "evaluate", "sample", "score"),
    "model": (
        "dtype",
        "attn_implementation",
        "trust_remote_code",
        "chat_template",
        "pad_token",
        "accept_drift",
        "new",
    ),
    "model.new": ("architecture", "tokenizer"),
    "model.new.tokenizer": ("vocab_size", "special_tokens"),
    "data": ("on_bad_rows", "fix", "drop", "overlong", *FORMATS),
    **{
        f"data.{format}": ("source", "config", "train", "eval", "layout", "columns", "labels", "roles")
        + ("eval_fraction", "max_rows")
        for format in FORMATS
    },
    "adapter": ("kind", "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora")
    + ("modules_to_save", "merge"),
    "deepspeed": ("config", "nvme_path"),
    "reward": ("center",),
    "online": ("reward_functions", "reward_max_length"),
    "evaluate": ("judge", "max_prompts", "max_rows", "max_length", "max_new_tokens", "temperature", "top_p")
    + ("batch_size", "samples", "bootstrap", "seed"),
    "sample": ("split", "max_prompts", "answers", "max_new_tokens", "temperature", "top_p", "batch_size", "seed"),
    "score": ("max_length", "batch_size"),
}


def identity_config(cfg: Config) -> dict[str, Any]:
    """What the identity of a run digests of its config.

    Left out: tracking, launcher, store, name and force; logging and saving cadence; blocks and datasets that the
    stage does not read; keys at their default that release 0.1.0 did not have; and whatever is named by reference
    (`inputs`, `model.source`, dataset files), because the same name may mean other bytes tomorrow. The caller adds
    the digests of the resolved inputs and datasets, the world size, and the versions of packages.
    """
    spec = STAGES[cfg.stage]
    kept = _digested(cfg)
    for key in ("name", "force", "inputs", "tracking", "launcher", "artifacts"):
        kept.pop(key, None)
    for block in {other.block for other in STAGES.values() if other.block} - {spec.block}:
        kept.pop(block, None)
    kept["model"].pop("source", None)
    if not spec.new_model or cfg.inputs.policy is not None:
        del kept["model"]["new"]
    kept["model"]["chat_template"] = _content(cfg.model.chat_template)
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in (*FORMATS, "refuse")}
    kept["data"] |= {name: _dataset_identity(getattr(cfg.data, name), name) for name in formats_read(cfg)}
    # the best checkpoint is chosen among those that were saved
    cadence = () if cfg.trainer.get("load_best_model_at_end") else CADENCE
    kept["trainer"] = {k: v for k, v in cfg.trainer.items() if not k.startswith(cadence) or k in COMPUTES}
    kept["deepspeed"] = _without_key(cfg.deepspeed.config, "nvme_path")
    if spec.block is not None:
        kept[spec.block] |= _code(getattr(cfg, spec.block))
    return kept


def counts(key: str) -> bool:
    """Whether the config key, such as `data.unnamed`, can be part of an identity; its block may still be left out."""
    node: Any = Config(stage="", name="")
    *blocks, name = key.split(".")
    for block in blocks:
        node = getattr(node, block, None)
    fields = {field.name: field for field in dataclasses.fields(node)} if dataclasses.is_dataclass(node) else {}
    return name not in fields or fields[name].metadata.get("identity", True)


def formats_read(cfg: Config) -> tuple[str, ...]:
    """The blocks of `data` that this run reads: those of its stage that `inputs.dataset` does not replace."""
    spec = STAGES[cfg.stage]
    formats = tuple(format for format in spec.formats if is_asked_for(cfg, format))
    if cfg.inputs.dataset is None:
        return formats
    # what trains takes the dataset in place of its main data; what measures takes nothing else
    return formats[1:] if spec.trainer_config is not None else ()


def is_asked_for(cfg: Config, format: str) -> bool:
    """Whether the run reads a format of its stage: an optional one only if the key that asks for it is set."""
    key = STAGES[cfg.stage].optional_formats.get(format)
    if key is None:
        return True
    block, _, name = key.partition(".")
    value = cfg.trainer.get(name) if block == "trainer" else getattr(getattr(cfg, block), name)
    return bool(value) and value != "none"


def _digested(block: Any, path: str = "") -> dict[str, Any]:
    """A block's keys and values, without those that say they do not count and new ones at their default."""
    known = RELEASE_0_1_0.get(path, ())
    kept = {}
    for field in dataclasses.fields(block):
        value, inner = getattr(block, field.name), f"{path}.{field.name}" if path else field.name
        if not field.metadata.get("identity", True):
            continue
        if dataclasses.is_dataclass(value):
            value = _digested(value, inner)
            if not value and field.name not in known:
                continue
        elif field.name not in known and value == _default(field):
            continue
        kept[field.name] = value
    return kept


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _code(block: Any) -> dict[str, Any]:
    """The digests of the files of functions that a block names, under the keys that its fields' metadata give."""
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(block):
        key, value = field.metadata.get("code"), getattr(block, field.name)
        if key is not None and isinstance(value, list):
            kept[key] = [_function_code(spec) for spec in value]
        elif key is not None and value:
            kept[key] = _function_code(value)
    return kept


def _function_code(spec: str | dict[str, Any]) -> str | None:
    """What stands for the code of a function that the config names."""
    code = _content(place_of(spec))
    return f"{code} {version}" if (version := version_of(spec)) else code


def _dataset_identity(entry: DatasetConfig, format: str) -> dict[str, Any]:
    kept = _digested(entry, f"data.{format}")
    if not (entry.source or "").startswith("hf:"):
        for key in ("source", "train", "eval"):
            kept.pop(key, None)
    return kept


def _content(text: str | None) -> str | None:
    """The digest of the file a config names, so that an edit counts; the text itself if there is no such file."""
    path = local_path(text) if text else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else text


def _without_key(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return {key: _without_key(value, name) for key, value in node.items() if key != name}
    return [_without_key(item, name) for item in node] if isinstance(node, list) else node

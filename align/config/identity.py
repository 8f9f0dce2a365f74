"""The part of a config that can change a number."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

from align.config.paths import local_path
from align.config.schema import FORMATS, STAGES, Config, DatasetConfig

# Keys of trainer that decide when a run is logged or saved and who feeds it, never what it computes.
CADENCE = ("logging_", "log_", "save_", "dataloader_", "dataset_num_proc", "ddp_timeout", "skip_memory_metrics")
COMPUTES = ("dataloader_drop_last",)


def identity_config(cfg: Config) -> dict[str, Any]:
    """What the identity of a run digests of its config.

    Left out: tracking, launcher, store, name and force; logging and saving cadence; blocks and datasets that the
    stage does not read; and whatever is named by reference (`inputs`, `model.source`, dataset files), because the
    same name may mean other bytes tomorrow. Who digests this adds the digests of the resolved inputs and datasets,
    the world size, and the versions of packages.
    """
    kept = dataclasses.asdict(cfg)
    for block in ("name", "force", "inputs", "tracking", "launcher", "artifacts"):
        del kept[block]
    for block in ("reward", "evaluate", "sample", "score", "online"):
        if block != ("online" if STAGES[cfg.stage].online else cfg.stage):
            del kept[block]
    del kept["model"]["source"]
    if cfg.stage != "pretrain" or cfg.inputs.policy is not None:
        del kept["model"]["new"]
    kept["model"]["chat_template"] = _content(cfg.model.chat_template)
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in (*FORMATS, "refuse")}
    kept["data"] |= {name: _dataset_identity(getattr(cfg.data, name)) for name in formats_read(cfg)}
    # the best checkpoint is chosen among those that were saved
    cadence = () if cfg.trainer.get("load_best_model_at_end") else CADENCE
    kept["trainer"] = {k: v for k, v in cfg.trainer.items() if not k.startswith(cadence) or k in COMPUTES}
    kept["deepspeed"] = _without_key(cfg.deepspeed.config, "nvme_path")
    if cfg.stage == "evaluate" and cfg.evaluate.judge:
        kept["evaluate"]["judge_code"] = _content(cfg.evaluate.judge.rpartition(":")[0])
    if STAGES[cfg.stage].online:
        del kept["online"]["reward_batch_size"]
        named = cfg.online.reward_functions
        kept["online"]["reward_code"] = [_content(name.rpartition(":")[0]) for name in named]
    return kept


def formats_read(cfg: Config) -> tuple[str, ...]:
    """The blocks of `data` that this run reads: those of its stage that `inputs.dataset` does not replace."""
    formats = STAGES[cfg.stage].formats
    if cfg.stage == "reward" and cfg.reward.center == "none":
        formats = ("preference",)
    if cfg.stage == "ppo" and not cfg.trainer.get("ptx_coef"):
        formats = ("prompt_only",)
    if cfg.inputs.dataset is None:
        return formats
    return () if cfg.stage == "evaluate" else formats[1:]


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


def _without_key(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return {key: _without_key(value, name) for key, value in node.items() if key != name}
    return [_without_key(item, name) for item in node] if isinstance(node, list) else node

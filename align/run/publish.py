"""Publishing: what a stage left in its output folder becomes a version of the store."""

import shutil
from pathlib import Path
from typing import Any

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.manifest import json_digest
from align.artifacts.provenance import git_commit, packages
from align.artifacts.remote_code import leave_code
from align.artifacts.store import Store
from align.artifacts.tokenizer_files import fingerprint
from align.artifacts.version import Version
from align.config.compose import public, to_yaml
from align.config.paths import PROJECT
from align.data.build.publish import described
from align.run.plan import Plan, find_published
from align.stages.spec import STAGES

TRAINER_SEED = 42  # transformers' default for `trainer.seed`


def publish(
    plan: Plan,
    store: Store,
    run_dir: Path,
    output_dir: Path,
    metrics: dict[str, Any],
    started: str,
    wandb: dict[str, Any] | None,
) -> Version:
    """Move the stage's output into the store as the next version of `cfg.name`; a value model is one of its own."""
    from align.models.adapters import name_base

    cfg = plan.cfg
    model_dir = output_dir / "model"
    adapters: dict[str, dict[str, Any]] = {}
    for part in ("model", "value_model"):
        if is_adapter(output_dir / part):
            base = base_of(plan)
            name_base(output_dir / part, base, store.root / cfg.name / "version" / "model")
            adapters[part] = {"kind": cfg.adapter.kind, "base": base.to_manifest()}
    if cfg.model.trust_remote_code and "policy" in plan.inputs and model_dir.is_dir() and "model" not in adapters:
        leave_code(model_dir, plan.inputs["policy"])
    notes = {"stage": cfg.stage, "world_size": plan.world_size}
    format = None
    if STAGES[cfg.stage].produces == "dataset":
        format, told = described(output_dir, plan.inputs["dataset"])
        notes |= told
    facts = {
        "inputs": plan.to_manifest(),
        "identity": plan.identity,
        "config_digest": json_digest(public(cfg)),
        "packages": packages(),
        "git_commit": git_commit(PROJECT),
        "seed": getattr(getattr(cfg, cfg.stage, None), "seed", cfg.trainer.get("seed", TRAINER_SEED)),
        "started": started,
        "wandb": wandb,
        "notes": notes,
    }
    name = f"{cfg.name}-value"
    if (output_dir / "value_model").is_dir() and len(find_published(store, plan.identity, name)) > len(plan.published):
        shutil.rmtree(output_dir / "value_model")  # published before the run died between the two
    if (output_dir / "value_model").is_dir():
        facts["notes"] = notes | {"tokenizer": fingerprint(output_dir / "value_model")}
        folder = store.stage(name)
        (output_dir / "value_model").rename(folder / "model")
        adapter = adapters.get("value_model")
        version = store.publish(folder, name=name, type="value_model", adapter=adapter, **facts)
        print(f"published {version.ref}  ({version.path})", flush=True)
    if model_dir.is_dir():
        facts["notes"] = notes | {"tokenizer": fingerprint(model_dir)}
    folder = store.stage(cfg.name)
    for item in output_dir.iterdir():
        item.rename(folder / item.name)
    (folder / "config.yaml").write_text(to_yaml(cfg), "utf-8")
    for record in ("metrics.jsonl", "samples.jsonl"):
        if (run_dir / record).exists():
            shutil.copy(run_dir / record, folder / record)
    return store.publish(
        folder,
        name=cfg.name,
        type=STAGES[cfg.stage].produces,
        format=format,
        metrics=metrics,
        adapter=adapters.get("model"),
        **facts,
    )


def base_of(plan: Plan) -> Input:
    """The model that this run's adapter belongs on: the policy, or the base of the policy's own adapter."""
    policy = plan.inputs["policy"]
    return resolve_base(policy.path) if is_adapter(policy.path) else policy

"""One stage, from a command line to a published artifact: compose, resolve, check, run, publish.

deepspeed launch/run.py stage=dpo inputs.policy=sft:v2 trainer.beta=0.05
python    launch/run.py stage=dpo                 # one process, same config
python    launch/run.py --multirun stage=dpo trainer.beta=0.05,0.1,0.3
"""

import argparse
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from align import config, distributed
from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.manifest import json_digest
from align.artifacts.store import Store, Version, utc_now
from align.config import PROJECT, Config
from align.errors import UserError
from align.plan import Plan, check_data, make_plan, output_type
from align.provenance import git_commit, packages, process

TRAINER_SEED = 42  # transformers' default for `trainer.seed`
INTERRUPTED = 130  # the shell's exit code for Ctrl-C

# Telemetry of libraries is off unless the user has said otherwise, and a trainer's own progress bars with it.
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_ERROR_REPORTING": "false",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


def main(argv: list[str] | None = None) -> int:
    """The command line of `launch/run.py`; returns the exit code.

    0 published, or nothing to do; 2 the user's mistake, told in a sentence; 130 interrupted. A bug raises.
    """
    parser = argparse.ArgumentParser(
        prog="run.py", description="Run one stage.", epilog="Overrides are Hydra's: stage=dpo trainer.beta=0.05"
    )
    parser.add_argument("overrides", nargs="*", help="group=choice or key=value")
    parser.add_argument("-m", "--multirun", action="store_true", help="one fresh process for each combination of a,b")
    parser.add_argument("--cfg", action="store_true", help="print the composed config and stop")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher puts it in front
    asked = parser.parse_args(argv)
    try:
        if asked.multirun:
            return sweep(asked.overrides)
        cfg = config.compose(asked.overrides)
        if asked.cfg:
            print(config.to_yaml(cfg), end="")
            return 0
        return run(cfg)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        if distributed.is_main():
            print(
                "interrupted: nothing was published; the same command goes on from the last checkpoint",
                file=sys.stderr,
            )
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" for {error.filename}" if error.filename else ""
        print(f"error: no space left on disk{place}; free some and give the same command again", file=sys.stderr)
        return 2


def sweep(overrides: list[str]) -> int:
    """Run every combination of a multirun, each in a fresh process; the first failure's exit code, or 0.

    Raises:
        UserError: under a launcher, whose ranks would each start all jobs.
    """
    if distributed.is_launched():
        raise UserError(
            "--multirun starts a process for each job and cannot itself run under the deepspeed launcher; "
            "start it with python launch/run.py --multirun"
        )
    jobs = config.expand_sweep(overrides)
    for job in jobs:
        config.compose(job)
    failed = 0
    for number, job in enumerate(jobs, start=1):
        print(f"[{number}/{len(jobs)}] {' '.join(job)}", flush=True)
        code = subprocess.run([sys.executable, str(PROJECT / "launch" / "run.py"), *job], check=False).returncode
        failed = failed or code
    return failed


def run(cfg: Config) -> int:
    """Run one stage on this process, which may be one rank of many."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    distributed.end_with_launcher()
    store = Store.open(cfg.artifacts.root)
    plan = None
    if distributed.is_main():
        plan = make_plan(cfg, store, world_size=distributed.world_size())
        if not plan.published:
            check_data(plan)
            check_space(plan, store)
    if distributed.world_size() == 1 and plan.published:
        return say_done(plan)
    distributed.join(deepspeed=cfg.deepspeed.config is not None)
    plan = distributed.share(plan)
    if plan.published:
        distributed.leave()
        return say_done(plan)
    version = execute(plan, store)
    distributed.leave()
    if version is not None:
        print(f"published {version.ref}  ({version.path})", flush=True)
    return 0


def execute(plan: Plan, store: Store) -> Version | None:
    """Run the stage and publish what it made; the version on the main process, None on the others."""
    from transformers.utils import logging

    from align.tracking import Tracker

    logging.disable_progress_bar()
    cfg = plan.cfg
    run_dir = store.run_dir(plan.identity)
    output_dir = run_dir / "output"
    started = utc_now()
    if distributed.is_main():
        shutil.rmtree(output_dir, ignore_errors=True)
        output_dir.mkdir(parents=True)
        write_record(run_dir, plan, started)
    distributed.barrier()
    tracker = Tracker(
        run_dir,
        run_id=plan.identity[:32],
        wandb=cfg.tracking.wandb,
        project=cfg.tracking.project,
        entity=cfg.tracking.entity,
        group=cfg.tracking.group,
        job_type=cfg.stage,
        tags=cfg.tracking.tags,
        config={**asdict(cfg), "inputs": plan.to_manifest(), "identity": plan.identity},
    )
    stage = importlib.import_module(f"align.stages.{cfg.stage}")
    metrics = stage.run(cfg, plan.inputs, output_dir, tracker)
    version = None
    if distributed.is_main():
        version = publish(plan, store, run_dir, output_dir, metrics, started, tracker.wandb_run)
        tracker.finish({**metrics, "artifact": version.ref})
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    distributed.barrier()
    return version


def publish(
    plan: Plan,
    store: Store,
    run_dir: Path,
    output_dir: Path,
    metrics: dict[str, Any],
    started: str,
    wandb: dict[str, Any] | None,
) -> Version:
    """Move the stage's output into the store as the next version of `cfg.name`."""
    from align.adapters import name_base

    cfg = plan.cfg
    adapter = None
    model_dir = output_dir / "model"
    if is_adapter(model_dir):
        base = base_of(plan)
        name_base(model_dir, base)
        adapter = {"kind": cfg.adapter.kind, "base": base.to_manifest()}
    folder = store.stage(cfg.name)
    for item in output_dir.iterdir():
        item.rename(folder / item.name)
    (folder / "config.yaml").write_text(config.to_yaml(cfg), "utf-8")
    if (run_dir / "metrics.jsonl").exists():
        shutil.copy(run_dir / "metrics.jsonl", folder / "metrics.jsonl")
    return store.publish(
        folder,
        name=cfg.name,
        type=output_type(cfg.stage),
        inputs=plan.to_manifest(),
        identity=plan.identity,
        config_digest=json_digest(asdict(cfg)),
        packages=packages(),
        git_commit=git_commit(PROJECT),
        seed=cfg.evaluate.seed if cfg.stage == "evaluate" else cfg.trainer.get("seed", TRAINER_SEED),
        metrics=metrics,
        started=started,
        wandb=wandb,
        adapter=adapter,
        notes={"stage": cfg.stage, "world_size": plan.world_size},
    )


def say_done(plan: Plan) -> int:
    """Tell that there is nothing to do, and mend `latest` if the run died between publishing and pointing."""
    if distributed.is_main():
        newest = plan.published[-1]
        Store.open(plan.cfg.artifacts.root).point(newest)
        print(f"nothing to do: {newest.ref} is this run's result  ({newest.path})", flush=True)
    return 0


def check_space(plan: Plan, store: Store) -> None:
    """There is room for the model, and for its checkpoints: weights in fp32 and two optimizer moments each.

    Raises:
        UserError: there is not, with how much is missing.
    """
    if "policy" not in plan.inputs or plan.cfg.stage == "evaluate":
        return
    weights = sum(file.stat().st_size for file in plan.inputs["policy"].path.glob("*.safetensors"))
    trains_whole = plan.cfg.adapter.kind == "none"
    keeps = plan.cfg.trainer.get("save_total_limit") or 1
    saves = plan.cfg.trainer.get("save_strategy", "steps") != "no"
    need = weights * (1 + (3 * (keeps + 1) if saves and trains_whole else 0))
    store.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store.root).free
    if free < need:
        raise UserError(
            f"the store {store.root} has {free / 1e9:.1f} GB free and this run may write {need / 1e9:.1f} GB "
            "(weights, checkpoints with optimizer state); free some, set trainer.save_strategy=no or "
            "trainer.save_total_limit=1, or name another place: artifacts.root=<folder>"
        )


def base_of(plan: Plan) -> Input:
    """The model that this run's adapter belongs on: the policy, or the base of the policy's own adapter."""
    policy = plan.inputs["policy"]
    return resolve_base(policy.path) if is_adapter(policy.path) else policy


def write_record(run_dir: Path, plan: Plan, started: str) -> None:
    """Leave word of who runs what, since when, beside the run's checkpoints."""
    cfg = plan.cfg
    record = {"stage": cfg.stage, "name": cfg.name, "identity": plan.identity, "started": started, **process()}
    (run_dir / "run.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (run_dir / "config.yaml").write_text(config.to_yaml(cfg), "utf-8")

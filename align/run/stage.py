"""One stage, from a command line to a published artifact: compose, resolve, check, run, publish.

deepspeed launch/run.py stage=dpo inputs.policy=sft:v2 trainer.beta=0.05
python    launch/run.py stage=dpo                 # one process, same config
python    launch/run.py --multirun stage=dpo trainer.beta=0.05,0.1,0.3
"""

import argparse
import contextlib
import importlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

from align.artifacts import run_lock
from align.artifacts.disk import is_full, remove_tree
from align.artifacts.provenance import process
from align.artifacts.store import Store, Version, utc_now
from align.config.compose import compose, public, to_yaml
from align.config.schema import STAGES, Config
from align.distributed import preemption, ranks
from align.distributed.preemption import STOPPED, Stopped
from align.errors import UserError
from align.run.library_logging import hush
from align.run.multirun import run_all
from align.run.plan import Plan, check_data, make_plan
from align.run.publish import publish
from align.training.tracking import Tracker, check_wandb

INTERRUPTED = 130  # the shell's exit code for Ctrl-C
RANKS_WAIT = 5.0  # seconds; the deepspeed launcher looks after its processes every second


def main(argv: list[str] | None = None) -> int:
    """The command line of `launch/run.py`; returns the exit code.

    0 published, or nothing to do; 2 the user's mistake, told in a sentence; 75 stopped by SIGTERM, the same command
    goes on; 130 interrupted. A bug raises.
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
            return run_all(asked.overrides)
        cfg = compose(asked.overrides)
        if asked.cfg:
            print(to_yaml(cfg), end="")
            return 0
        if not ranks.is_launched():
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process, one device
        return run(cfg)
    except UserError as error:
        if not ranks.is_main():
            # A mistake that every rank meets is told once: the launcher ends the others when the main one has ended.
            time.sleep(RANKS_WAIT)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        if ranks.is_main():
            print(
                "interrupted: nothing was published; the same command goes on from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
        return INTERRUPTED
    except Stopped as stop:
        if ranks.is_main():
            print(stop_notice(stop), file=sys.stderr, flush=True)
        return STOPPED


def stop_notice(stop: Stopped) -> str:
    """What is said of a run that was asked to stop."""
    wrote = "the same command goes on from the last checkpoint, if there is one"
    if stop.step is not None:
        wrote = f"a checkpoint is written after step {stop.step}, and the same command goes on from there"
    return f"stopped by SIGTERM: nothing was published; {wrote} (exit code {STOPPED})"


def run(cfg: Config) -> int:
    """Run one stage on this process, which may be one rank of many."""
    with preemption.stoppable(), contextlib.ExitStack() as held:
        hush()
        ranks.divide_cores()
        ranks.end_with_launcher()
        store = Store.open(cfg.artifacts.root)
        plan = hold = None
        if ranks.is_main():
            plan = make_plan(cfg, store, world_size=ranks.world_size())
            if not plan.is_done:
                hold = held.enter_context(run_lock.Hold(store.run_dir(plan.identity)))
                plan = plan.again(store)  # it may have been published while this process looked
            if not plan.is_done:
                check_data(plan)
                check_wandb(cfg.tracking.wandb)
                check_space(plan, store)
        if ranks.world_size() == 1 and plan.is_done:
            return say_done(plan)
        ranks.join(deepspeed=cfg.deepspeed.config is not None)
        plan = ranks.share(plan)
        if plan.is_done:
            ranks.leave()
            return say_done(plan)
        try:
            version = execute(plan, store, hold)
        except Exception as error:
            if is_full(error, store.root):
                raise UserError(
                    f"no space left on the disk of {getattr(error, 'filename', None) or store.root}; free some and "
                    "give the same command again, it goes on from the last checkpoint"
                ) from error
            raise
        ranks.leave()
        if version is not None:
            print(f"published {version.ref}  ({version.path})", flush=True)
        return 0


def execute(plan: Plan, store: Store, hold: run_lock.Hold | None) -> Version | None:
    """Run the stage and publish what it made; the version on the main process, None on the others.

    Args:
        hold: the main process's hold on the run.
    """
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    disable_progress_bars()
    cfg = plan.cfg
    run_dir = store.run_dir(plan.identity)
    output_dir = run_dir / "output"
    started = utc_now()
    if ranks.is_main():
        shutil.rmtree(output_dir, ignore_errors=True)
        output_dir.mkdir(parents=True)
        write_record(run_dir, plan, started)
    ranks.barrier()
    with Tracker(
        run_dir,
        run_id=wandb_id(plan),
        wandb=cfg.tracking.wandb,
        project=cfg.tracking.project,
        entity=cfg.tracking.entity,
        group=cfg.tracking.group,
        job_type=cfg.stage,
        tags=cfg.tracking.tags,
        config={**public(cfg), "inputs": plan.to_manifest(), "identity": plan.identity},
    ) as tracker:
        stage = importlib.import_module(f"align.stages.{cfg.stage}")
        try:
            metrics = stage.run(cfg, plan.inputs, output_dir, tracker)
        except Stopped as stop:
            if hold is not None:
                hold.note(state=run_lock.STOPPED, step=stop.step)
            raise
        version = None
        if ranks.is_main():
            with preemption.wait():
                version = publish(plan, store, run_dir, output_dir, metrics, started, tracker.wandb_run)
                hold.note(state=run_lock.PUBLISHED, published=version.ref)
            tracker.finish({**metrics, "artifact": version.ref})
            remove_tree(run_dir / "checkpoints")
    ranks.barrier()
    return version


def wandb_id(plan: Plan) -> str:
    """The run's id in W&B: the same after a resume, another for each version that `force` adds."""
    return plan.identity[:32] + (f"-{len(plan.published) + 1}" if plan.published else "")


def say_done(plan: Plan) -> int:
    """Tell that there is nothing to do, and mend `latest` if the run died between publishing and pointing."""
    if ranks.is_main():
        newest = plan.published[-1]
        store = Store.open(plan.cfg.artifacts.root)
        store.point(newest)
        run_dir = store.runs_root / plan.identity
        if (run_dir / "checkpoints").is_dir() and not run_lock.is_held(run_dir):
            remove_tree(run_dir / "checkpoints")  # of a run that died before it was tidy
        print(f"nothing to do: {newest.ref} is this run's result  ({newest.path})", flush=True)
    return 0


def check_space(plan: Plan, store: Store) -> None:
    """There is room for the model, and for its checkpoints: weights in fp32 and two optimizer moments each.

    Raises:
        UserError: there is not, with how much is missing.
    """
    if "policy" not in plan.inputs or STAGES[plan.cfg.stage].trainer_config is None:
        return
    weights = sum(file.stat().st_size for file in plan.inputs["policy"].path.glob("*.safetensors"))
    trains_whole = plan.cfg.adapter.kind == "none"
    keeps = plan.cfg.trainer.get("save_total_limit") or 1
    saves = plan.cfg.trainer.get("save_strategy", "steps") != "no"
    need = weights * (1 + (3 * (keeps + 1) if saves and trains_whole else 0))
    free = shutil.disk_usage(store.root).free
    if free < need:
        raise UserError(
            f"the store {store.root} has {free / 1e9:.1f} GB free and this run may write {need / 1e9:.1f} GB "
            "(weights, checkpoints with optimizer state); free some, set trainer.save_strategy=no or "
            "trainer.save_total_limit=1, or name another place: artifacts.root=<folder>"
        )


def write_record(run_dir: Path, plan: Plan, started: str) -> None:
    """Leave word of who runs what, since when, beside the run's checkpoints."""
    cfg = plan.cfg
    record = {"stage": cfg.stage, "name": cfg.name, "identity": plan.identity, "started": started, **process()}
    record["inputs"] = plan.to_manifest()  # what gc must keep until this run has published
    (run_dir / "run.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    (run_dir / "config.yaml").write_text(to_yaml(cfg), "utf-8")

"""One stage, from a command line to a published artifact: compose, resolve, check, run, publish.

deepspeed launch/run.py stage=dpo inputs.policy=sft:v2 trainer.beta=0.05
python    launch/run.py stage=dpo                 # one process, same config
python    launch/run.py --multirun stage=dpo trainer.beta=0.05,0.1,0.3
"""

import argparse
import contextlib
import errno
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

from align.artifacts import checkpoints, run_lock
from align.artifacts.claims import claim_inputs, release_run
from align.artifacts.disk import check_kinds, explain_disk_errors, is_full, remove_tree, write_durably
from align.artifacts.provenance import process
from align.artifacts.store import Store, utc_now
from align.artifacts.text import human_size
from align.artifacts.version import Version
from align.config.compose import compose, public, to_yaml
from align.config.paths import CONFIG_DIR_HELP, add_conf_dir
from align.config.schema import Config
from align.distributed import cpu, preemption, ranks
from align.distributed.console import unbroken_output
from align.distributed.preemption import Stopped
from align.errors import ExitCode, UserError
from align.models.memory import is_out_of_memory
from align.run.library_logging import hush
from align.run.memory import check_memory, out_of_memory
from align.run.multirun import run_all
from align.run.nodes import agree
from align.run.plan import Plan, make_plan
from align.run.preflight import preflight
from align.run.publish import publish
from align.runs.progress import PROGRESS_FILE
from align.runs.record import ERRORS, RECORD_FILE
from align.stages.spec import STAGES, module_of
from align.training.tracking import Tracker, check_wandb

RANKS_WAIT = 5.0  # seconds; the deepspeed launcher looks after its processes every second


@unbroken_output()
def main(argv: list[str] | None = None, prog: str = "run.py") -> int:
    """The command line of `launch/run.py` and `align run`; returns the exit code.

    0: published, or nothing to do; 2: the user's mistake, said in one sentence; 75: stopped by SIGTERM, and the same
    command resumes; 130: interrupted. A bug raises.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description="Run one stage.", epilog="Overrides are Hydra's: stage=dpo trainer.beta=0.05"
    )
    parser.add_argument("overrides", nargs="*", help="group=choice or key=value")
    parser.add_argument("-m", "--multirun", action="store_true", help="one fresh process for each combination of a,b")
    parser.add_argument(
        "--metric",
        metavar="NAME[:min|:max]",
        help="with --multirun: what the table of the jobs is sorted by (default: what the stage declares)",
    )
    parser.add_argument("--cfg", action="store_true", help="print the composed config and stop")
    parser.add_argument("--config-dir", metavar="DIR", help=CONFIG_DIR_HELP)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher puts it in front
    arguments = parser.parse_args(argv)
    try:
        add_conf_dir(arguments.config_dir)
        if arguments.multirun:
            return run_all(arguments.overrides, arguments.metric)
        if arguments.metric:
            raise UserError(f"--metric {arguments.metric} sorts the jobs of a sweep; add --multirun")
        cfg = compose(arguments.overrides)
        if arguments.cfg:
            print(to_yaml(cfg), end="")
            return 0
        if not ranks.is_launched() and STAGES[cfg.stage].trainer_config is not None:
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # transformers' trainer would take them all
        return run(cfg)
    except UserError as error:
        if not ranks.is_main():
            # A mistake that every rank meets is told once: the launcher ends the others when the main one has ended.
            time.sleep(RANKS_WAIT)
        print(f"error: {error}", file=sys.stderr, flush=True)
        return ExitCode.MISTAKE
    except KeyboardInterrupt as stop:
        if ranks.is_main():
            print(f"interrupted: {outcome(stop)}", file=sys.stderr, flush=True)
        return ExitCode.INTERRUPTED
    except Stopped as stop:
        if ranks.is_main():
            print(f"stopped by SIGTERM: {outcome(stop)} (exit code {ExitCode.STOPPED})", file=sys.stderr, flush=True)
        return ExitCode.STOPPED


def outcome(stop: BaseException) -> str:
    """What a run that was interrupted or stopped leaves, as `run` noted it; before a run is known, nothing."""
    return "; ".join(getattr(stop, "__notes__", ["nothing was published"]))


def what_is_left(run_dir: Path, holder: run_lock.Holder) -> str:
    """What a run that ends before its time has published, or where the same command would resume it."""
    if holder.published:
        return f"{holder.published} was published before"
    whole = checkpoints.all_whole(run_dir / "checkpoints")
    resumes = f"resumes after step {max(whole)}" if whole else "starts from the beginning: there is no checkpoint"
    return f"nothing was published; the same command {resumes}"


def run(cfg: Config) -> int:
    """Run one stage on this process, which may be one rank of many."""
    with preemption.stoppable(), contextlib.ExitStack() as held:
        hush()
        cpu.set_threads()
        ranks.end_with_launcher()
        store = Store.open(cfg.artifacts.root)
        plan = hold = None
        if ranks.is_main():
            plan = make_plan(cfg, store, world_size=ranks.world_size())
            if not plan.is_done:
                hold = held.enter_context(run_lock.Hold(store.run_dir(plan.identity)))
                plan = plan.again(store)  # it may have been published while this process looked
            if not plan.is_done:
                write_record(hold.run_dir, plan)
                preflight(plan)
                check_wandb(cfg.tracking.wandb)
                check_space(plan, store)
                check_memory(plan)
        if ranks.world_size() == 1 and plan.is_done:
            return say_done(plan)
        ranks.join(deepspeed=cfg.deepspeed.config)
        plan = ranks.share(plan)
        if plan.is_done:
            ranks.leave()
            return say_done(plan)
        plan, store = agree(plan, store)
        try:
            version = execute(plan, store, hold)
        except (KeyboardInterrupt, Stopped) as stop:
            if hold is not None:
                stop.add_note(what_is_left(hold.run_dir, hold.holder))
            raise
        except Exception as error:
            leave_error(store.runs_root / plan.identity, error)
            if not isinstance(error, UserError) and is_out_of_memory(error):
                raise UserError(out_of_memory(error, cfg)) from error
            if sentence := disk_trouble(error, store.root):
                left = f": {what_is_left(hold.run_dir, hold.holder)}" if hold is not None else ""
                raise UserError(f"{sentence} and give the same command again{left}") from error
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
        stage = importlib.import_module(module_of(cfg.stage))
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
            release_run(store.root, plan.identity)
    ranks.barrier()
    return version


def disk_trouble(error: Exception, root: Path) -> str | None:
    """A disk that is full, or a store that may not be written, as a sentence that says what to do first."""
    if is_full(error, root):
        return f"no space left on the disk of {getattr(error, 'filename', None) or root}; free some"
    if not isinstance(error, OSError) or error.filename is None:
        return None
    inside = Path(error.filename).absolute().is_relative_to(root.absolute())
    if error.errno == errno.EROFS or (inside and error.errno in (errno.EACCES, errno.EPERM)):
        return f"{error.filename} may not be written ({os.strerror(error.errno)}); allow it"
    return None


def wandb_id(plan: Plan) -> str:
    """The run's id in W&B: the same after a resume, another for each version that `force` adds."""
    return plan.identity[:32] + (f"-{len(plan.published) + 1}" if plan.published else "")


def say_done(plan: Plan) -> int:
    """Say that there is nothing to do, and repair `latest` if the run died between publishing and pointing."""
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
            f"the store {store.root} has {human_size(free)} free and this run may write {human_size(need)} "
            "(weights, checkpoints with optimizer state); free some, set trainer.save_strategy=no or "
            "trainer.save_total_limit=1, or name another place: artifacts.root=<folder>"
        )


def write_record(run_dir: Path, plan: Plan) -> None:
    """Record in the run's folder what runs and since when, and its config, and keep its inputs from `gc`."""
    cfg = plan.cfg
    record = {"stage": cfg.stage, "name": cfg.name, "identity": plan.identity, "started": utc_now(), **process()}
    record |= {"group": cfg.tracking.group, "inputs": plan.to_manifest()}
    root = run_dir.parent.parent
    check_kinds(root, folders=(cfg.name, f"{cfg.name}-value"))  # what is published goes there
    with explain_disk_errors("record this run", run_dir):
        remove_tree(run_dir / ERRORS)
        (run_dir / PROGRESS_FILE).unlink(missing_ok=True)
        write_durably(run_dir / RECORD_FILE, (json.dumps(record, indent=2) + "\n").encode())
        write_durably(run_dir / "config.yaml", to_yaml(cfg).encode())
        claim_inputs(root, plan.to_manifest(), plan.identity)


def leave_error(run_dir: Path, error: Exception) -> None:
    """Keep this rank's error in the run's folder: the other ranks, the main one too, are then ended by a signal."""
    text = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):  # the error itself is raised in any case
        (run_dir / ERRORS).mkdir(exist_ok=True)
        (run_dir / ERRORS / f"rank-{ranks.rank()}.txt").write_text(text.rstrip() + "\n", "utf-8")

"""Stages in order, each a fresh process under its launcher; what is done is skipped, what broke is resumed.

    python launch/pipeline.py pipeline=dpo model=qwen3_0_6b launcher=deepspeed sft.trainer.learning_rate=1e-5

An override goes to every step; one that begins with a step's name goes to that step alone. A step hands on the exact
version it published, never an alias. The pipeline keeps no state: whether a step is done is asked of the store.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from align.artifacts import run_lock
from align.artifacts.manifest import json_digest
from align.artifacts.store import Store
from align.artifacts.text import clock, table
from align.artifacts.verification import open_input, read_file
from align.artifacts.version import Version
from align.config.compose import compose
from align.config.paths import CONFIG_DIR_HELP, add_conf_dir
from align.distributed import ranks
from align.distributed.console import unbroken_output
from align.distributed.preemption import Stopped
from align.errors import ExitCode, UserError
from align.evaluation.report import gain
from align.pipeline.dry_run import forecast
from align.pipeline.steps import Step, as_list, check_steps, flatten, load_steps, select, split_name
from align.run.launchers import command, forwarded, launch, terminable, world_size
from align.run.plan import Plan, make_plan, resolve_data
from align.run.preflight import describe_data

LAST_LINES = 8  # of a failing step's log
LEFT_OUT = "left out"
_AGAIN = "the same command skips what has published, and resumes the step that ran if it has a checkpoint"


class StepFailed(Exception):
    """A step ended without publishing; its log has been shown as it came.

    Attributes:
        last_words: of its log, told once more at the end.
    """

    def __init__(self, sentence: str, last_words: str):
        super().__init__(sentence)
        self.last_words = last_words


@unbroken_output()
def main(argv: list[str] | None = None, prog: str = "pipeline.py") -> int:
    """The command line of `launch/pipeline.py` and `align pipeline`; returns the exit code.

    0 every step has published; 1 a step failed; 2 the user's mistake, told before the first step; 75 stopped by
    SIGTERM, as was the step that ran; 130 interrupted.
    """
    parser = argparse.ArgumentParser(prog=prog, description="Run a pipeline of stages.")
    parser.add_argument(
        "overrides", nargs="*", help="pipeline=<name>, and overrides for all steps or <step>.<key>=value"
    )
    parser.add_argument("--from", dest="first", metavar="STEP", help="run no step before this one")
    parser.add_argument("--until", dest="last", metavar="STEP", help="run no step after this one")
    parser.add_argument("--only", metavar="STEP[,STEP]", help="run these steps and no other")
    parser.add_argument("--dry-run", action="store_true", help="tell what would run, and why")
    parser.add_argument("--config-dir", metavar="DIR", help=CONFIG_DIR_HELP)
    asked = parser.parse_intermixed_args(argv)
    try:
        add_conf_dir(asked.config_dir)
        if ranks.is_launched():
            raise UserError(
                "a pipeline starts launchers itself: python launch/pipeline.py pipeline=... launcher=deepspeed"
            )
        name, rest = split_name(asked.overrides)
        steps = load_steps(name, rest)
        chosen = select(steps, first=asked.first, last=asked.last, only=asked.only and asked.only.split(","))
        with terminable():
            return run(name, steps, chosen, dry=asked.dry_run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return ExitCode.MISTAKE
    except KeyboardInterrupt:
        print(f"interrupted; {_AGAIN}", file=sys.stderr, flush=True)
        return ExitCode.INTERRUPTED
    except Stopped:
        print(f"stopped; {_AGAIN}", file=sys.stderr, flush=True)
        return ExitCode.STOPPED


def run(name: str, steps: list[Step], chosen: set[str], *, dry: bool = False) -> int:
    """Run what is not done; print what came of it. 0 if every chosen step has published.

    Args:
        chosen: names of the steps that may run; of the others, what they have published is handed on.
        dry: start nothing, and tell what would run and why.
    """
    eta = Eta()
    check_steps(steps)
    done: dict[str, Version] = {}
    failed: dict[str, str] = {}
    coming: set[str] = set()  # what a dry run would have published by now
    group = group_name(name, steps)
    for number, step in enumerate(steps, start=1):
        head = f"[{number}/{len(steps)}] {step.name}"
        missing = [one for one in flatten(step.given().values()) if one in failed]
        if missing:
            if step.name not in chosen:
                failed[step.name] = LEFT_OUT
            elif coming.issuperset(missing):
                failed[step.name] = f"runs after {', '.join(missing)}"
                coming.add(step.name)
                print(f"{head}: {failed[step.name]}\n    {describe_step(step)}", flush=True)
                continue
            else:
                failed[step.name] = _why_not(step, next(one for one in missing if one not in coming), failed)
            print(f"{head}: {failed[step.name]}", flush=True)
            continue
        overrides = as_list({"tracking.group": group} | _with_inputs(step, done))
        try:
            cfg = compose(overrides)
            store = Store.open(cfg.artifacts.root)
            plan = make_plan(cfg, store, world_size=world_size(cfg.launcher))
            if plan.is_done or (plan.published and step.name not in chosen):
                done[step.name] = plan.published[-1]
                if not dry:
                    store.point(plan.published[-1])
                print(f"{head}: {done[step.name].ref} is there already", flush=True)
            elif dry or step.name not in chosen:
                failed[step.name] = LEFT_OUT if step.name not in chosen else forecast(plan, store)
                coming |= {step.name} & chosen
                print(f"{head}: {failed[step.name]}", flush=True)
                if step.name in chosen:
                    print(f"    {describe_data(plan.cfg, plan.inputs.get('dataset'))}", flush=True)
            else:
                print(f"{head}: starting{eta.told(steps[number - 1 :])}", flush=True)
                with eta.measure(step):
                    done[step.name] = run_step(plan, store, overrides)
        except (StepFailed, UserError) as error:
            failed[step.name] = str(error) + getattr(error, "last_words", "")
            print(f"{head}: {error}", file=sys.stderr, flush=True)
    if dry:
        return 0
    print(f"\n{summary(steps, done)}\n\n{len(done)} of {len(steps)} steps done in {clock(eta.elapsed)}.")
    for step, why in failed.items():
        print(f"{step}: {why}")
    print(where_next(done), flush=True)
    return ExitCode.FAILED if chosen & failed.keys() else ExitCode.DONE


def group_name(name: str, steps: list[Step]) -> str:
    """The W&B group of a pipeline's runs: the same overrides make the same group, values of `launcher.env` apart."""
    described = [
        [step.name, {k: v for k, v in step.overrides.items() if not k.startswith("launcher.env")}] for step in steps
    ]
    return f"{name}-{json_digest(described)[:8]}"


def describe_step(step: Step) -> str:
    """The data of a step whose models are still to be made."""
    cfg = compose(as_list(step.overrides))
    ref = cfg.inputs.dataset
    dataset = open_input(Store.open(cfg.artifacts.root), ref, repo_type="dataset") if ref is not None else None
    resolve_data(cfg, dataset)
    return describe_data(cfg, dataset)


def _why_not(step: Step, needs: str, failed: dict[str, str]) -> str:
    """Why a step does not run that needs one which has published nothing."""
    if failed[needs] == LEFT_OUT:
        role = next(role for role, given in step.given().items() if needs in flatten([given]))
        return (
            f"not run, it needs {needs}, which was left out and has published nothing under this configuration; let "
            f"that one run too, or name a version: {step.name}.inputs.{role}={needs}:latest"
        )
    return f"not run, it needs {needs}"


def run_step(plan: Plan, store: Store, overrides: list[str]) -> Version:
    """Start a step's process and wait for it; the version it published.

    What became of it is asked of the store and of the run's record; a launcher's exit code can lie (DeepSpeed 0.19
    exits 0 after its launch process was killed).

    Raises:
        StepFailed: it has published nothing.
        Stopped: it was asked to stop, which is meant for the pipeline too.
    """
    cfg = plan.cfg
    run_dir = store.run_dir(plan.identity)
    before = run_lock.read_holder(run_dir)
    log = run_dir / "log.txt"
    with forwarded(cfg.launcher) as env:
        code = launch(command(cfg.launcher, overrides), env, log)
    published = plan.again(store).published
    if len(published) > len(plan.published):
        return published[-1]
    holder = run_lock.read_holder(run_dir)
    if holder is not None and holder != before and holder.state == run_lock.STOPPED:
        raise Stopped(holder.step)
    raise StepFailed(f"ended with exit code {code} and published nothing; its log is {log}", last_words(log))


def last_words(log: Path) -> str:
    """The last lines of a log, indented, each after a line break."""
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return "".join(f"\n    {line}" for line in lines[-LAST_LINES:])


class Eta:
    """The time a pipeline has taken, and an estimate of what is left, from the `minutes` of its steps.

    Those were measured on some other machine; the steps run so far say how this one compares.
    """

    def __init__(self):
        self._began = time.monotonic()
        self._took = self._expected = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the pipeline began."""
        return time.monotonic() - self._began

    def told(self, left: list[Step]) -> str:
        """The time, as the first of the steps `left` begins; nothing where the minutes of one are unknown."""
        if any(step.minutes is None for step in left):
            return ""
        speed = self._took / self._expected if self._expected else 1.0
        return f"  ({clock(self.elapsed)} so far, about {clock(speed * 60 * sum(s.minutes for s in left))} left)"

    @contextmanager
    def measure(self, step: Step) -> Iterator[None]:
        """Time a step that really runs."""
        before = self.elapsed
        yield
        self._took += self.elapsed - before
        self._expected += 60 * (step.minutes or 0.0)


def summary(steps: list[Step], done: dict[str, Version]) -> str:
    """A table of every model: version, held-out scores, what it was made from."""
    reports = [version for version in done.values() if version.manifest.type == "report"]
    scores: dict[str, dict[str, Any]] = {}
    for report in reports:
        for row in json.loads(read_file(report, "report.json"))["models"]:
            scores.setdefault(row["model"], {}).update(row)
    headings = ["model", "from", "held-out loss", "accuracy", "gold score", "gain over baseline [95%]", "KL", "tokens"]
    rows = []
    for step in steps:
        version = done.get(step.name)
        if version is None or version in reports:
            continue
        row = scores.get(version.ref, {})
        metrics = version.manifest.metrics
        parents = dict.fromkeys(
            record["ref"] for role, record in version.manifest.each_input() if not role.startswith("data.")
        )
        accuracy = row.get("accuracy", metrics.get("eval_accuracy"))
        rows.append(
            [
                version.ref,
                ", ".join(parents) or "-",
                _number(metrics.get("eval_loss"), ".3f"),
                _number(accuracy, ".3f"),
                _number(row.get("gold"), ".3f"),
                gain(row["gold_gain"]) if "gold_gain" in row else "",
                _number(row.get("kl"), ".2f"),
                _number(row.get("length"), ".1f"),
            ]
        )
    return table(headings, rows, right=headings[2:])


def where_next(done: dict[str, Version]) -> str:
    """Where the reader looks next."""
    lines = []
    for version in done.values():
        if version.manifest.type == "report":
            lines.append(f"report, with sample completions:  {version.path / 'report.md'}")
    last = next((version for version in reversed(done.values()) if version.manifest.type == "model"), None)
    if last is not None:
        root = last.path.parents[1]
        words = [_align(), *(["--artifacts", str(root)] if root != Store.open().root else [])]
        lines.append(f"where a model came from:          {shlex.join([*words, 'artifacts', 'lineage', last.ref])}")
        lines.append(f"a model for any tool:             AutoModelForCausalLM.from_pretrained('{last.model_dir}')")
    return "\n".join(lines)


def _align() -> str:
    """The `align` command as it can be typed here: a virtual environment need not be active."""
    beside = Path(sys.executable).with_name("align")
    if shutil.which("align") or not beside.is_file():
        return "align"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def _with_inputs(step: Step, done: dict[str, Version]) -> dict[str, str]:
    """The step's overrides with its inputs as exact versions; what the command line says stands."""
    chosen = dict(step.overrides)
    for role, given in step.given().items():
        refs = [done[one].ref if one in done else one for one in (given if isinstance(given, list) else [given])]
        chosen[f"inputs.{role}"] = f"[{','.join(refs)}]" if isinstance(given, list) else refs[0]
    return chosen


def _number(value: Any, spec: str) -> str:
    return format(value, spec) if isinstance(value, int | float) else ""

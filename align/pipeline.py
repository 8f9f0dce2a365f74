"""Stages in order, each a fresh process under its launcher; what is done is skipped, what broke is resumed.

    python launch/pipeline.py pipeline=dpo model=qwen3_0_6b launcher=deepspeed sft.trainer.learning_rate=1e-5

An override goes to every step; one that begins with a step's name goes to that step alone. A step hands on the exact
version it published, never an alias. The pipeline keeps no state: whether a step is done is asked of the store.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from align import config, distributed
from align.artifacts import display
from align.artifacts.manifest import json_digest
from align.artifacts.store import Store, Version
from align.clock import clock
from align.config import PROJECT, Config
from align.config.kinds import nearest
from align.config.schema import LauncherConfig
from align.errors import UserError
from align.plan import make_plan
from align.report import gain

GRACE = 15.0  # seconds that an interrupted step has to end by itself


@dataclass(frozen=True)
class Step:
    """One stage of a pipeline.

    Attributes:
        name: also the prefix of overrides meant for this step alone.
        overrides: Hydra overrides, the pipeline file's first, the command line's over them.
        inputs: role -> name of an earlier step or a ref, or a list of those.
    """

    name: str
    overrides: dict[str, str]
    inputs: dict[str, Any] = field(default_factory=dict)


class StepFailed(Exception):
    """A step ended without publishing; its log has been shown as it came."""


def main(argv: list[str] | None = None) -> int:
    """The command line of `launch/pipeline.py`; returns the exit code: 0, 1 a step failed, 2 the user's mistake."""
    parser = argparse.ArgumentParser(prog="pipeline.py", description="Run a pipeline of stages.")
    parser.add_argument(
        "overrides", nargs="+", help="pipeline=<name>, and overrides for all steps or <step>.<key>=value"
    )
    asked = parser.parse_args(argv)
    try:
        if distributed.is_launched():
            raise UserError(
                "a pipeline starts launchers itself: python launch/pipeline.py pipeline=... launcher=deepspeed"
            )
        name, rest = split_name(asked.overrides)
        with terminable():
            return run(name, load_steps(name, rest))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr, flush=True)
        return 130


def split_name(overrides: list[str]) -> tuple[str, list[str]]:
    """The pipeline's name and the other overrides.

    Raises:
        UserError: no pipeline is named, or `stage=` is.
    """
    known = sorted(path.stem for path in (PROJECT / "conf" / "pipeline").glob("*.yaml"))
    names = [text.partition("=")[2] for text in overrides if text.startswith("pipeline=")]
    if len(names) != 1:
        raise UserError(f"name one pipeline: pipeline=<one of {', '.join(known)}>")
    if names[0] not in known:
        raise UserError(f"no pipeline {names[0]!r}{nearest(names[0], known) or ';'} pipelines: {', '.join(known)}")
    return names[0], [text for text in overrides if not text.startswith("pipeline=")]


def load_steps(name: str, overrides: list[str]) -> list[Step]:
    """The steps of conf/pipeline/<name>.yaml with the command line's overrides.

    Raises:
        UserError: the file is malformed, a step uses a later one, or an override is for no step.
    """
    file = PROJECT / "conf" / "pipeline" / f"{name}.yaml"
    try:
        body = yaml.safe_load(file.read_text("utf-8"))
        described = {
            step: (list(told["overrides"]), dict(told.get("inputs", {}))) for step, told in body["steps"].items()
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is malformed ({error!r}): it maps steps to overrides and inputs") from error
    steps: list[Step] = []
    for step, (own, inputs) in described.items():
        later = [one for one in _flatten(inputs.values()) if one in described and one not in {s.name for s in steps}]
        if later:
            raise UserError(f"{file}: step {step} uses {later[0]}, which does not come before it")
        chosen = dict(text.split("=", 1) for text in own)
        mine = [text.removeprefix(f"{step}.") for text in overrides if text.startswith(f"{step}.")]
        common = [text for text in overrides if text.split("=")[0].split(".")[0] not in described]
        for text in [*common, *mine]:
            if "=" not in text:
                raise UserError(
                    f"{text!r} is not an override; write key=value, for instance {step}.trainer.max_steps=10"
                )
            key, _, value = text.partition("=")
            if key == "stage":
                raise UserError(
                    f"{text}: a pipeline's stages are its steps, {', '.join(described)}; run one by launch/run.py"
                )
            chosen[key] = value
        steps.append(Step(step, chosen, inputs))
    return steps


def run(name: str, steps: list[Step]) -> int:
    """Run what is not done; print what came of it. 0 if every step has published."""
    began = time.monotonic()
    done: dict[str, Version] = {}
    failed: list[str] = []
    group = f"{name}-{json_digest([[step.name, step.overrides] for step in steps])[:8]}"
    # A mistake in the last step's config is told before the first step has run for hours.
    for step in steps:
        config.compose([f"{key}={value}" for key, value in step.overrides.items()])
    for number, step in enumerate(steps, start=1):
        head = f"[{number}/{len(steps)}] {step.name}"
        missing = [one for one in _flatten(step.inputs.values()) if one in failed]
        if missing:
            print(f"{head}: not run, it needs {missing[0]}", flush=True)
            failed.append(step.name)
            continue
        overrides = [*(f"{key}={value}" for key, value in _with_inputs(step, done).items()), f"tracking.group={group}"]
        try:
            done[step.name] = run_step(head, overrides)
        except StepFailed as error:
            print(f"{head}: {error}", file=sys.stderr, flush=True)
            failed.append(step.name)
    print(f"\n{summary(steps, done)}\n\n{len(done)} of {len(steps)} steps done in {clock(time.monotonic() - began)}.")
    print(where_next(done), flush=True)
    return 1 if failed else 0


def run_step(head: str, overrides: list[str]) -> Version:
    """The version that a step published: now, or on an earlier day.

    Whether it has published is asked of the store; a launcher's exit code can lie (DeepSpeed 0.19 exits 0 after its
    launch process was killed).
    """
    cfg = config.compose(overrides)
    store = Store.open(cfg.artifacts.root)
    plan = make_plan(cfg, store, world_size=world_size(cfg.launcher))
    if plan.published:
        store.point(plan.published[-1])
        print(f"{head}: {plan.published[-1].ref} is there already", flush=True)
        return plan.published[-1]
    resumes = " (goes on from its last checkpoint)" if any(store.run_dir(plan.identity).glob("checkpoints/*")) else ""
    print(f"{head}: starting{resumes}", flush=True)
    log = store.run_dir(plan.identity) / "log.txt"
    code = launch(command(cfg.launcher, overrides), environment(cfg), log)
    published = [version for version in store.find(plan.identity) if version.name == cfg.name]
    if not published:
        raise StepFailed(f"ended with exit code {code} and published nothing; its log is {log}")
    return published[-1]


def command(launcher: LauncherConfig, overrides: list[str]) -> list[str]:
    """The command line that starts one stage.

    Raises:
        UserError: the port asked for is taken.
    """
    script = str(PROJECT / "launch" / "run.py")
    if launcher.kind == "local":
        return [sys.executable, script, *overrides]
    port = launcher.master_port
    if port is None:
        port = distributed.free_port()
    elif not distributed.is_free(port):
        raise UserError(f"launcher.master_port={port} is already taken; leave it out, and a free one is found")
    options = {
        "--num_accelerators": launcher.num_accelerators,
        "--num_nodes": launcher.num_nodes,
        "--hostfile": launcher.hostfile,
        "--master_port": port,
    }
    flags = [word for flag, value in options.items() if value is not None for word in (flag, str(value))]
    return [sys.executable, "-m", "deepspeed.launcher.runner", *flags, script, *overrides]


def environment(cfg: Config) -> dict[str, str]:
    """The environment of a step's process: this one's, and the launcher block's where this one is silent."""
    return {**os.environ, **{key: os.environ.get(key, value) for key, value in cfg.launcher.env.items()}}


def world_size(launcher: LauncherConfig) -> int:
    """How many processes the launcher will start."""
    if launcher.kind == "local":
        return 1
    per_node = launcher.num_accelerators
    if per_node is None:
        import torch

        per_node = torch.cuda.device_count()
        if per_node == 0:
            raise UserError(
                "launcher=deepspeed finds no GPU here; say how many processes: launcher.num_accelerators=2"
            )
    if launcher.hostfile is not None and launcher.num_nodes is None:
        raise UserError(f"launcher.hostfile={launcher.hostfile} needs launcher.num_nodes, to know the world size")
    return per_node * (launcher.num_nodes or 1)


def launch(words: list[str], env: dict[str, str], log: Path) -> int:
    """Run a command in a session of its own, its output shown and kept in `log`; its exit code.

    An interrupt goes to the whole session, and what does not end in time is killed: a launcher leaves its ranks alive.
    """
    with log.open("a", encoding="utf-8") as kept:
        kept.write(f"$ {shlex.join(words)}\n")
        child = subprocess.Popen(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            for line in child.stdout:
                kept.write(line)
                kept.flush()
                print(line, end="", flush=True)
            return child.wait()
        finally:
            end_session(child)


def end_session(child: subprocess.Popen) -> None:
    """Interrupt every process of the child's session, then kill what is left."""
    for name, wait in ((signal.SIGINT, GRACE), (signal.SIGKILL, GRACE)):
        if not session_alive(child.pid):
            break
        os.killpg(child.pid, name)
        until = time.monotonic() + wait
        while session_alive(child.pid) and time.monotonic() < until:
            child.poll()
            time.sleep(0.1)
    child.poll()


def session_alive(group: int) -> bool:
    """True while a process of the group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM in the block is an interrupt, so that a terminated pipeline ends its step as Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def summary(steps: list[Step], done: dict[str, Version]) -> str:
    """A table of every model: version, held-out scores, what it was made from."""
    reports = [version for version in done.values() if version.manifest.type == "report"]
    scores: dict[str, dict[str, Any]] = {}
    for report in reports:
        for row in json.loads((report.path / "report.json").read_text("utf-8"))["models"]:
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
    return display.table(headings, rows, right=headings[2:])


def where_next(done: dict[str, Version]) -> str:
    """Where the reader looks next."""
    lines = []
    for version in done.values():
        if version.manifest.type == "report":
            lines.append(f"report, with sample completions:  {version.path / 'report.md'}")
    last = next((version for version in reversed(done.values()) if version.manifest.type == "model"), None)
    if last is not None:
        lines.append(f"where a model came from:          align artifacts lineage {last.ref}")
        lines.append(f"a model for any tool:             AutoModelForCausalLM.from_pretrained('{last.model_dir}')")
    return "\n".join(lines)


def _with_inputs(step: Step, done: dict[str, Version]) -> dict[str, str]:
    """The step's overrides with its inputs as exact versions; what the command line says stands."""
    chosen = dict(step.overrides)
    for role, given in step.inputs.items():
        refs = [done[one].ref if one in done else one for one in (given if isinstance(given, list) else [given])]
        chosen.setdefault(f"inputs.{role}", f"[{','.join(refs)}]" if isinstance(given, list) else refs[0])
    return chosen


def _flatten(values: Any) -> list[str]:
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _number(value: Any, spec: str) -> str:
    return format(value, spec) if isinstance(value, int | float) else ""

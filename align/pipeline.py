"""Stages in order, each a fresh process under its launcher; what is done is skipped, what broke is resumed.

    python launch/pipeline.py pipeline=dpo model=qwen3_0_6b launcher=deepspeed sft.trainer.learning_rate=1e-5

An override goes to every step; one that begins with a step's name goes to that step alone. A step hands on the exact
version it published, never an alias. The pipeline keeps no state: whether a step is done is asked of the store.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from align import config, distributed
from align.artifacts import display
from align.artifacts.manifest import json_digest
from align.artifacts.store import Store, Version
from align.clock import clock
from align.config import PROJECT, Config
from align.config.kinds import nearest
from align.errors import UserError
from align.launching import check_launcher, command, environment, launch, terminable, world_size
from align.plan import Plan, make_plan, resolve_data, resolve_inputs
from align.report import gain
from align.tracking import check_wandb

# What an override may begin with: the config's own keys and the groups of conf/.
KEYS = {*vars(Config(stage="", name="")), *(path.name for path in (PROJECT / "conf").iterdir() if path.is_dir())}


@dataclass(frozen=True)
class Step:
    """One stage of a pipeline.

    Attributes:
        name: also the prefix of overrides meant for this step alone.
        stage: what it runs.
        overrides: Hydra overrides, the pipeline file's first, the command line's over them.
        inputs: role -> name of an earlier step or a ref, or a list of those.
        minutes: what it took where the pipeline's file says it was measured; only the shares count.
    """

    name: str
    stage: str
    overrides: dict[str, str]
    inputs: dict[str, Any] = field(default_factory=dict)
    minutes: float | None = None


class StepFailed(Exception):
    """A step ended without publishing; its log has been shown as it came."""


def main(argv: list[str] | None = None) -> int:
    """The command line of `launch/pipeline.py`; returns the exit code.

    0 every step has published; 1 a step failed; 2 the user's mistake, told before the first step; 130 interrupted.
    """
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
            step: (list(told["overrides"]), dict(told.get("inputs", {})), told.get("minutes"))
            for step, told in body["steps"].items()
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is malformed ({error!r}): it maps steps to overrides and inputs") from error
    common, own = split_overrides(overrides, list(described))
    steps: list[Step] = []
    for step, (written, inputs, minutes) in described.items():
        later = [one for one in _flatten(inputs.values()) if one in described and one not in {s.name for s in steps}]
        if later:
            raise UserError(f"{file}: step {step} uses {later[0]}, which does not come before it")
        stage = config.compose(written).stage
        steps.append(Step(step, stage, _as_dict(written) | common | own[step], inputs, minutes))
    return steps


def split_overrides(overrides: list[str], steps: list[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The command line's overrides as key -> value: those for all steps, and step -> those for it alone.

    A step may be called as a block of the config is (reward, evaluate): `evaluate.max_prompts=9` and
    `evaluate.evaluate.max_prompts=9` say the same, and `evaluate.data=local` is for that step too.

    Raises:
        UserError: an override for no step, given twice, or one that only a single step can take.
    """
    common: dict[str, str] = {}
    own: dict[str, dict[str, str]] = {step: {} for step in steps}
    for text in overrides:
        key, equals, value = text.lstrip("+").partition("=")
        if not equals:
            raise UserError(
                f"{text!r} is not an override; write key=value, for instance {steps[0]}.trainer.max_steps=10"
            )
        head, _, rest = key.partition(".")
        to = common
        if head in own:
            to = own[head]
            if head not in KEYS or rest.split(".")[0] in KEYS:
                key = rest
        elif head not in KEYS:
            near = nearest(head, [*steps, *sorted(KEYS)]) or ";"
            raise UserError(f"{text}: there is no step and no key {head!r}{near} the steps are {', '.join(steps)}")
        if key in to:
            raise UserError(f"{key} is given twice, as {to[key]} and as {value}; keep one")
        if key == "stage":
            raise UserError(f"{text}: a pipeline's stages are its steps, {', '.join(steps)}; run one by launch/run.py")
        if to is common and key == "name":
            raise UserError(f"{text} would give every step's artifact one name; name one: {steps[0]}.name={value}")
        to[key] = value
    return common, own


def check_steps(steps: list[Step]) -> None:
    """What any step's config, data or launcher lacks is told before the first step has run for hours.

    Raises:
        UserError: names the step.
    """
    names = [step.name for step in steps]
    for step in steps:
        try:
            if "experiment" in step.overrides:
                check_experiment(step.overrides["experiment"], step.stage)
            cfg = config.compose(_as_list(step.overrides))
            check_launcher(cfg.launcher)
            world_size(cfg.launcher)
            check_wandb(cfg.tracking.wandb)
            for role, given in step.inputs.items():
                if f"inputs.{role}" not in step.overrides and set(_flatten([given])) & set(names):
                    setattr(cfg.inputs, role, None)  # is still to be made
            inputs = resolve_inputs(cfg, Store.open(cfg.artifacts.root))
            resolve_data(cfg, inputs.get("dataset"))
        except UserError as error:
            raise UserError(f"step {step.name}: {error}") from error


def check_experiment(name: str, stage: str) -> None:
    """An experiment is for the stage that it is given to.

    Raises:
        UserError: it is for another.
    """
    try:
        own = config.compose([f"experiment={name}"]).stage
    except UserError:
        return  # it names no stage, or there is none such: composing the step tells
    if own != stage:
        raise UserError(f"experiment={name} is for stage {own}; name one for stage {stage}: <step>.experiment=<name>")


def run(name: str, steps: list[Step]) -> int:
    """Run what is not done; print what came of it. 0 if every step has published."""
    check_steps(steps)
    done: dict[str, Version] = {}
    failed: dict[str, str] = {}
    eta = Eta()
    group = f"{name}-{json_digest([[step.name, step.overrides] for step in steps])[:8]}"
    for number, step in enumerate(steps, start=1):
        head = f"[{number}/{len(steps)}] {step.name}"
        missing = [one for one in _flatten(step.inputs.values()) if one in failed]
        if missing:
            failed[step.name] = f"not run, it needs {missing[0]}"
            print(f"{head}: {failed[step.name]}", flush=True)
            continue
        overrides = _as_list({"tracking.group": group} | _with_inputs(step, done))
        try:
            cfg = config.compose(overrides)
            store = Store.open(cfg.artifacts.root)
            plan = make_plan(cfg, store, world_size=world_size(cfg.launcher))
            if plan.published:
                store.point(plan.published[-1])
                print(f"{head}: {plan.published[-1].ref} is there already", flush=True)
                done[step.name] = plan.published[-1]
                continue
            print(f"{head}: starting{eta.told(steps[number - 1 :])}", flush=True)
            with eta.measure(step):
                done[step.name] = run_step(plan, store, overrides)
        except (StepFailed, UserError) as error:
            failed[step.name] = str(error)
            print(f"{head}: {error}", file=sys.stderr, flush=True)
    print(f"\n{summary(steps, done)}\n\n{len(done)} of {len(steps)} steps done in {clock(eta.elapsed)}.")
    for step, why in failed.items():
        print(f"{step}: {why}")
    print(where_next(done), flush=True)
    return 1 if failed else 0


def run_step(plan: Plan, store: Store, overrides: list[str]) -> Version:
    """Start a step's process and wait for it; the version it published.

    Whether it has published is asked of the store; a launcher's exit code can lie (DeepSpeed 0.19 exits 0 after its
    launch process was killed).

    Raises:
        StepFailed: it has not.
    """
    cfg = plan.cfg
    log = store.run_dir(plan.identity) / "log.txt"
    code = launch(command(cfg.launcher, overrides), environment(cfg.launcher), log)
    published = [version for version in store.find(plan.identity) if version.name == cfg.name]
    if not published:
        raise StepFailed(f"ended with exit code {code} and published nothing; its log is {log}")
    return published[-1]


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


def _as_list(overrides: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in overrides.items()]


def _as_dict(overrides: list[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in overrides)


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

"""The steps of a pipeline: what conf/pipeline/ says of them, and which override on the command line is for which.

An override goes to every step; one that begins with a step's name goes to that step alone.
"""

from dataclasses import dataclass, field
from typing import Any

import yaml

from align.artifacts.store import Store
from align.config.compose import compose
from align.config.paths import config_choices, config_groups, find_config
from align.config.schema import Config
from align.config.types import nearest
from align.errors import UserError
from align.run.launchers import check_launcher, world_size
from align.run.plan import check_named, find_outsider, reads_demo, resolve_data, resolve_inputs
from align.training.tracking import check_wandb


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

    def given(self) -> dict[str, Any]:
        """The inputs that the pipeline gives; what the command line says of one stands."""
        return {role: given for role, given in self.inputs.items() if f"inputs.{role}" not in self.overrides}


def split_name(overrides: list[str]) -> tuple[str, list[str]]:
    """The pipeline's name, the last one given, and the other overrides.

    Raises:
        UserError: no pipeline is named, or there is no such pipeline.
    """
    known = config_choices("pipeline")
    names = [text.partition("=")[2] for text in overrides if text.startswith("pipeline=")]
    if not names:
        raise UserError(f"name one pipeline: pipeline=<one of {', '.join(known)}>")
    name = names[-1]
    if name not in known:
        raise UserError(f"no pipeline {name!r}{nearest(name, known) or ';'} pipelines: {', '.join(known)}")
    return name, [text for text in overrides if not text.startswith("pipeline=")]


def load_steps(name: str, overrides: list[str]) -> list[Step]:
    """The steps of conf/pipeline/<name>.yaml with the command line's overrides.

    Raises:
        UserError: the file is malformed, a step uses a later one, or an override is for no step.
    """
    file = find_config("pipeline", name)
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
        later = [one for one in flatten(inputs.values()) if one in described and one not in {s.name for s in steps}]
        if later:
            raise UserError(f"{file}: step {step} uses {later[0]}, which does not come before it")
        stage = compose(written).stage
        steps.append(Step(step, stage, _as_dict(written) | common | own[step], inputs, minutes))
    return steps


def split_overrides(overrides: list[str], steps: list[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The command line's overrides as key -> value: those for all steps, and step -> those for it alone.

    Of two for the same key the last wins; one for a step alone wins over one for all steps.

    A step may be called as a block of the config is (reward, evaluate): `evaluate.max_prompts=9` and
    `evaluate.evaluate.max_prompts=9` say the same, and `evaluate.data=local` is for that step too.

    Raises:
        UserError: an override for no step, or one that only a single step can take.
    """
    known = {*vars(Config(stage="", name="")), *config_groups()}  # what an override for every step may begin with
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
            if head not in known or rest.split(".")[0] in known:
                key = rest
        elif head not in known:
            near = nearest(head, [*steps, *sorted(known)]) or ";"
            raise UserError(f"{text}: there is no step and no key {head!r}{near} the steps are {', '.join(steps)}")
        if key == "stage":
            raise UserError(f"{text}: a pipeline's stages are its steps, {', '.join(steps)}; run one by launch/run.py")
        if to is common and key == "name":
            raise UserError(f"{text} would give every step's artifact one name; name one: {steps[0]}.name={value}")
        to[key] = value
    return common, own


def select(
    steps: list[Step], *, first: str | None = None, last: str | None = None, only: list[str] | None = None
) -> set[str]:
    """The names of the steps that may run: `--from`, `--until` and `--only`; all of them where none is given.

    Raises:
        UserError: there is no such step, or none is left.
    """
    names = [step.name for step in steps]
    for name in [*(one for one in (first, last) if one is not None), *(only or [])]:
        if name not in names:
            raise UserError(f"there is no step {name!r}{nearest(name, names) or ';'} the steps are {', '.join(names)}")
    if only and (first or last):
        raise UserError("--only says which steps run; leave out --from and --until")
    begin = names.index(first) if first else 0
    end = names.index(last) + 1 if last else len(names)
    if begin >= end:
        raise UserError(f"--from {first} comes after --until {last}; the steps are {', '.join(names)}")
    return set(only or names[begin:end])


def check_steps(steps: list[Step]) -> None:
    """What any step's config, data or launcher lacks is told before the first step has run for hours.

    Raises:
        UserError: names the step.
    """
    names = [step.name for step in steps]
    outsiders: dict[str, str] = {}  # step -> the model behind it that is not of the demo
    for step in steps:
        try:
            if "experiment" in step.overrides:
                check_experiment(step.overrides["experiment"], step.stage)
            cfg = compose(as_list(step.overrides))
            check_launcher(cfg.launcher)
            world_size(cfg.launcher)
            check_wandb(cfg.tracking.wandb)
            for role, given in step.given().items():
                if set(flatten([given])) & set(names):
                    setattr(cfg.inputs, role, None)  # is still to be made
            store = Store.open(cfg.artifacts.root)
            inputs = resolve_inputs(cfg, store)
            data = resolve_data(cfg, inputs.get("dataset"))
            earlier = [outsiders[name] for name in flatten(step.given().values()) if name in outsiders]
            outsider = next(iter(earlier), None) or find_outsider(inputs, store)
            check_named(cfg, data, outsider)
            if outsider is not None or not reads_demo(data):
                outsiders[step.name] = outsider or step.name
        except UserError as error:
            raise UserError(f"step {step.name}: {error}") from error


def check_experiment(name: str, stage: str) -> None:
    """An experiment is for the stage that it is given to.

    Raises:
        UserError: it is for another.
    """
    try:
        own = compose([f"experiment={name}"]).stage
    except UserError:
        return  # it names no stage, or there is none such: composing the step tells
    if own != stage:
        raise UserError(f"experiment={name} is for stage {own}; name one for stage {stage}: <step>.experiment=<name>")


def as_list(overrides: dict[str, str]) -> list[str]:
    """Overrides as Hydra takes them."""
    return [f"{key}={value}" for key, value in overrides.items()]


def flatten(values: Any) -> list[str]:
    """The texts in some values, each of which is a text or a list of them."""
    return [one for value in values for one in (value if isinstance(value, list) else [value])]


def _as_dict(overrides: list[str]) -> dict[str, str]:
    return dict(text.split("=", 1) for text in overrides)

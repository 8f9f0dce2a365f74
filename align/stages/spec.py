"""Every stage, declared once: what its trainer takes, what it reads, and what it publishes.

A declaration is plain data and imports nothing, so that the config, the contract and the data report can read it
before torch is there. The stage's code is a module of its own, imported when it runs.

A package adds a stage by an entry point in the group `align.stages`, whose name is the stage's and whose object is a
`StageSpec`; its module has `run(cfg, inputs, output_dir, tracker) -> metrics` like every file in this folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points

ENTRY_POINTS = "align.stages"


@dataclass(frozen=True)
class Role:
    """One input of a stage.

    Attributes:
        types: artifact types it may have; an input from a path or the Hub has no type and is not compared.
        required: whether the stage needs it.
        many: the stage takes a list; a single one becomes a list of one.
        default: where it comes from if it is not named: `policy`, the policy as it came in, or `manifest`, the
            reference that the manifest of each policy records.
        fixed: it may not be another model than its default, because the trainer loads it itself.
        trained: its weights are trained, so they may not be quantized unless an adapter is trained on them.
    """

    types: tuple[str, ...]
    required: bool = True
    many: bool = False
    default: str | None = None
    fixed: bool = False
    trained: bool = False


@dataclass(frozen=True)
class Headline:
    """A metric that a list shows of what the stage published.

    Attributes:
        metric: its key in the manifest's metrics; `*/gold` is the best `gold` of all models that a report compares.
        label: its name in the list.
        higher: whether a higher value is better; None where neither is.
    """

    metric: str
    label: str
    higher: bool | None = None


@dataclass(frozen=True)
class StageSpec:
    """What the rest of the code knows of a stage.

    Attributes:
        trainer_config: the class in trl or align.ppo whose fields the `trainer:` block has; None if it trains nothing.
        formats: the dataset formats it reads; `inputs.dataset` replaces the first. Empty: any dataset artifact whose
            records hold completions.
        inputs: role -> what may fill it.
        produces: the type of the artifact it publishes.
        online: it trains on the policy's own completions, scored by reward models and functions.
        block: the config block that is the stage's own.
        optional_formats: format -> the config key that asks for it; the format is read only if the key is set.
        new_model: it can begin from `model.new` instead of a policy.
        held_out: it reads the held-out split alone.
        headlines: the metrics that a list of artifacts shows.
        module: where its `run` is; None is align.stages.<name>.
        preflight: `module:function` that takes the plan and checks its data before an accelerator is taken.
    """

    trainer_config: str | None
    formats: tuple[str, ...]
    inputs: Mapping[str, Role]
    produces: str = "model"
    online: bool = False
    block: str | None = None
    optional_formats: Mapping[str, str] = field(default_factory=dict)
    new_model: bool = False
    held_out: bool = False
    headlines: tuple[Headline, ...] = ()
    module: str | None = None
    preflight: str = "align.run.preflight:check_training"


_MODEL = ("model",)
_REWARD = ("reward_model",)
_POLICY = Role(_MODEL, trained=True)
_REFERENCE = Role(_MODEL, required=False, default="policy")
_OWN_REFERENCE = Role(_MODEL, required=False, default="policy", fixed=True)
_SCORERS = Role(_REWARD, required=False, many=True)

_LOSS = Headline("eval_loss", "loss", higher=False)
_ACCURACY = Headline("eval_rewards/accuracies", "accuracy", higher=True)
_MARGIN = Headline("eval_rewards/margins", "margin", higher=True)
_SCORE = Headline("eval_objective/scores", "score", higher=True)

BUILT_IN: dict[str, StageSpec] = {
    "pretrain": StageSpec(
        "SFTConfig",
        ("language_modeling",),
        {"policy": Role(_MODEL, required=False, trained=True)},
        new_model=True,
        headlines=(_LOSS,),
    ),
    "sft": StageSpec("SFTConfig", ("prompt_completion",), {"policy": _POLICY}, headlines=(_LOSS,)),
    "reward": StageSpec(
        "RewardConfig",
        ("preference", "prompt_completion"),
        {"policy": Role(("model", "reward_model"), trained=True)},
        produces="reward_model",
        block="reward",
        optional_formats={"prompt_completion": "reward.center"},
        headlines=(Headline("eval_accuracy", "accuracy", higher=True),),
    ),
    "dpo": StageSpec(
        "DPOConfig", ("preference",), {"policy": _POLICY, "ref_model": _REFERENCE}, headlines=(_ACCURACY,)
    ),
    "kto": StageSpec(
        "KTOConfig", ("unpaired_preference",), {"policy": _POLICY, "ref_model": _REFERENCE}, headlines=(_MARGIN,)
    ),
    "ppo": StageSpec(
        "PPOConfig",
        ("prompt_only", "language_modeling"),
        {
            "policy": _POLICY,
            "ref_model": _REFERENCE,
            "reward_model": _SCORERS,
            "value_model": Role(("value_model", "reward_model"), required=False, trained=True),
        },
        online=True,
        block="online",
        optional_formats={"language_modeling": "trainer.ptx_coef"},
        headlines=(_SCORE, Headline("eval_objective/kl", "KL", higher=False)),
    ),
    "rloo": StageSpec(
        "RLOOConfig",
        ("prompt_only",),
        {"policy": _POLICY, "ref_model": _OWN_REFERENCE, "reward_model": _SCORERS},
        online=True,
        block="online",
        headlines=(_SCORE,),
    ),
    "grpo": StageSpec(
        "GRPOConfig",
        ("prompt_only",),
        {"policy": _POLICY, "ref_model": _OWN_REFERENCE, "reward_model": _SCORERS},
        online=True,
        block="online",
        headlines=(_SCORE,),
    ),
    "evaluate": StageSpec(
        None,
        ("preference", "prompt_only", "language_modeling"),
        {
            "policy": Role(_MODEL, required=False, many=True),
            "ref_model": Role(_MODEL, required=False, default="manifest"),
            "baseline": Role(_MODEL, required=False),
            "reward_model": Role(_REWARD, required=False),
        },
        produces="report",
        block="evaluate",
        held_out=True,
        headlines=(
            Headline("*/gold", "gold", higher=True),
            Headline("*/win_rate", "win rate", higher=True),
            Headline("*/reward", "reward", higher=True),
            Headline("*/accuracy", "accuracy", higher=True),
        ),
        preflight="align.run.preflight:check_evaluation",
    ),
    "sample": StageSpec(
        None,
        ("prompt_only",),
        {"policy": Role(_MODEL, many=True), "reward_model": Role(_REWARD, required=False)},
        produces="comparisons",
        block="sample",
        headlines=(Headline("comparisons", "comparisons"),),
        preflight="align.run.preflight:check_sampling",
    ),
    "score": StageSpec(
        None,
        (),
        {"reward_model": Role(_REWARD)},
        produces="dataset",
        block="score",
        preflight="align.run.preflight:check_scoring",
    ),
}


def find_plugins() -> dict[str, StageSpec]:
    """The stages that installed packages declare, by name.

    Raises:
        TypeError: an entry point is not a `StageSpec`, or takes the name of a stage of align.
    """
    specs: dict[str, StageSpec] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        spec = entry.load()
        if not isinstance(spec, StageSpec) or entry.name in BUILT_IN:
            raise TypeError(f"entry point {entry.name} = {entry.value} in {ENTRY_POINTS} must be a new StageSpec")
        specs[entry.name] = spec
    return specs


STAGES: dict[str, StageSpec] = BUILT_IN | find_plugins()


def module_of(stage: str) -> str:
    """The module whose `run` is the stage."""
    return STAGES[stage].module or f"align.stages.{stage}"


def makers(types: tuple[str, ...]) -> list[str]:
    """The stages that publish an artifact of one of `types`, the usual one first."""
    usual = {"model": "sft"}
    names = [name for kind in types for name, spec in STAGES.items() if spec.produces == kind]
    return sorted(names, key=lambda name: name not in usual.values())

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
    """A metric that speaks for what a stage published, in lists, lineages and sweeps.

    Attributes:
        metric: its key in the manifest's metrics; `*/gold` is the best `gold` of all models that a report compares.
        higher: whether a higher value is better.
    """

    metric: str
    higher: bool


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
        headlines: the metrics that speak for what it published, the most telling first; a list has room for two. A
            sweep is sorted by the first.
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

_LOSS = Headline("eval_loss", higher=False)
_TRAIN_LOSS = Headline("train_loss", higher=False)  # where nothing is held out
_TOKEN_ACCURACY = Headline("eval_mean_token_accuracy", higher=True)
_ACCURACY = Headline("eval_rewards/accuracies", higher=True)
_MARGIN = Headline("eval_rewards/margins", higher=True)
# the loss of an online stage says nothing of the policy: it is of what that policy itself has just written
_REWARD_AND_KL = (Headline("eval_reward", higher=True), Headline("eval_kl", higher=False))

BUILT_IN: dict[str, StageSpec] = {
    "pretrain": StageSpec(
        "SFTConfig",
        ("language_modeling",),
        {"policy": Role(_MODEL, required=False, trained=True)},
        new_model=True,
        headlines=(_LOSS, _TOKEN_ACCURACY, _TRAIN_LOSS),
    ),
    "sft": StageSpec(
        "SFTConfig",
        ("prompt_completion",),
        {"policy": _POLICY},
        headlines=(_LOSS, _TOKEN_ACCURACY, _TRAIN_LOSS),
    ),
    "reward": StageSpec(
        "RewardConfig",
        ("preference", "prompt_completion"),
        {"policy": Role(("model", "reward_model"), trained=True)},
        produces="reward_model",
        block="reward",
        optional_formats={"prompt_completion": "reward.center"},
        headlines=(Headline("eval_accuracy", higher=True), _LOSS, _TRAIN_LOSS),
    ),
    "dpo": StageSpec(
        "DPOConfig",
        ("preference",),
        {"policy": _POLICY, "ref_model": _REFERENCE},
        headlines=(_ACCURACY, _LOSS, _TRAIN_LOSS),
    ),
    "kto": StageSpec(
        "KTOConfig",
        ("unpaired_preference",),
        {"policy": _POLICY, "ref_model": _REFERENCE},
        headlines=(_LOSS, _MARGIN, _TRAIN_LOSS),
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
        headlines=(
            Headline("eval_objective/scores", higher=True),
            Headline("eval_objective/kl", higher=False),
        ),
    ),
    "rloo": StageSpec(
        "RLOOConfig",
        ("prompt_only",),
        {"policy": _POLICY, "ref_model": _OWN_REFERENCE, "reward_model": _SCORERS},
        online=True,
        block="online",
        headlines=_REWARD_AND_KL,
    ),
    "grpo": StageSpec(
        "GRPOConfig",
        ("prompt_only",),
        {"policy": _POLICY, "ref_model": _OWN_REFERENCE, "reward_model": _SCORERS},
        online=True,
        block="online",
        headlines=_REWARD_AND_KL,
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
            Headline("*/gold", higher=True),
            Headline("*/win_rate", higher=True),
            Headline("*/reward", higher=True),
            Headline("*/accuracy", higher=True),
            Headline("*/perplexity", higher=False),
        ),
        preflight="align.run.preflight:check_evaluation",
    ),
    "sample": StageSpec(
        None,
        ("prompt_only",),
        {"policy": Role(_MODEL, many=True), "reward_model": Role(_REWARD, required=False)},
        produces="comparisons",
        block="sample",
        headlines=(Headline("comparisons", higher=True), Headline("pairs", higher=True)),
        preflight="align.run.preflight:check_sampling",
    ),
    "score": StageSpec(
        None,
        (),
        {"reward_model": Role(_REWARD)},
        produces="dataset",
        block="score",
        headlines=(
            Headline("train_accuracy", higher=True),
            Headline("train_auc", higher=True),
            Headline("train_score_mean", higher=True),
        ),
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

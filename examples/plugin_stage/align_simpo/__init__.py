"""Stage `simpo`, added to align by a package of its own: its declaration, which align reads before torch is there."""

from align.stages.spec import Headline, Role, StageSpec

SPEC = StageSpec(
    trainer_config="CPOConfig",
    formats=("preference",),
    inputs={"policy": Role(("model",), trained=True)},
    headlines=(Headline("eval_rewards/accuracies", higher=True),),
    module="align_simpo.stage",
)

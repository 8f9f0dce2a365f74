"""A run that is killed and started again ends as if it had never died: one kill a stage. `make soak` does them all."""

from collections.abc import Callable, Iterator

import pytest

from align.artifacts.store import Store
from align.artifacts.version import Version
from align.config.compose import compose
from align.run.plan import make_plan
from align.stages.spec import STAGES
from tests.run.kills import KILLED, Kill, Zygote, differences, moments, overrides, publish_pairs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as process:
        yield process


@pytest.fixture
def runs(zygote, tiny_store, tmp_path) -> Callable[..., tuple[list[int], Version | None]]:
    """`runs(stage, *overrides, ranks=, kill=)`: the exit codes of the ranks, and what has been published."""
    publish_pairs(tiny_store)

    def run(stage: str, *more: str, ranks: int = 1, kill: Kill | None = None):
        given = overrides(stage, tiny_store, *more)
        codes = zygote.run(given, tmp_path / "log.txt", ranks=ranks, kill=kill)
        if kill is None:
            assert codes == [0] * ranks, (tmp_path / "log.txt").read_text()[-3000:]
        published = make_plan(compose(given), Store(tiny_store), world_size=ranks).published
        return codes, published[-1] if published else None

    return run


@pytest.mark.parametrize(("number", "stage"), list(enumerate(STAGES)), ids=list(STAGES))
def test_a_killed_stage_ends_as_if_it_had_not_been(runs, number, stage):
    _, straight = runs(stage, "name=straight")
    moment = moments(stage)[number * 3 % len(moments(stage))]
    codes, _ = runs(stage, "name=killed", kill=moment)
    assert codes == [KILLED], moment
    _, resumed = runs(stage, "name=killed")
    assert differences(straight, resumed) == [], moment


@pytest.mark.parametrize(
    ("deepspeed", "kill"),
    [
        ("none", Kill("align.artifacts.checkpoints:commit", 2)),
        ("zero3", Kill("transformers.trainer:Trainer.training_step", 6, rank=1)),
        ("zero2_offload", Kill("launcher", 4500)),
    ],
    ids=["plain", "zero3", "offload"],
)
def test_two_processes_of_which_one_is_killed(runs, tiny_store, deepspeed, kill):
    given = [f"deepspeed={deepspeed}", "trainer.max_steps=6", "tracking.sample_prompts=0"]
    _, straight = runs("dpo", *given, "name=straight", ranks=2)
    codes, _ = runs("dpo", *given, "name=killed", ranks=2, kill=kill)
    assert kill.where == "launcher" or KILLED in codes
    _, resumed = runs("dpo", *given, "name=killed", ranks=2)
    assert differences(straight, resumed) == []

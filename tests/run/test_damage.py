"""A run that died, and whose checkpoints, folder or cache were damaged since, never publishes other bits silently.

Each of more than two hundred cases ends identical to the run that was never interrupted, after resuming from the
checkpoint before where the last one is damaged, or is refused in a sentence.
"""

import shutil
from collections import Counter

import pytest

from align.artifacts.store import Store
from align.run import stage
from tests.run import damage
from tests.run.kills import differences
from tests.upgrade.test_upgrade import STORE, UNFINISHED

pytestmark = pytest.mark.slow
IDENTICAL, BEFORE, REFUSED = "identical", "identical, from the checkpoint before", "refused"


def overrides(world):
    return [f"artifacts.root={world / 'store'}", *UNFINISHED, "name=killed"]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """A run that died at its last step, with checkpoints after 2 and 4, and the version of one that did not die."""
    world, straight = (tmp_path_factory.mktemp("damage") / name for name in ("world", "straight"))
    for folder in (world, straight):
        shutil.copytree(STORE, folder / "store", ignore=shutil.ignore_patterns(".runs"))

    def die(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise RuntimeError("died")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(world / "cache"))
        assert stage.main(overrides(straight)) == 0
        patch.setattr("align.training.progress.TrackingCallback.on_step_begin", die, raising=False)
        with pytest.raises(RuntimeError, match="died"):
            stage.main(overrides(world))
    return world, Store(straight / "store").resolve("killed")


def outcome(world, straight, capsys):
    """How the run ends when it is started again; an assertion fails where it publishes other bits or a bug shows."""
    code = stage.main(overrides(world))
    out, err = capsys.readouterr()
    versions = Store(world / "store").versions("killed")
    if code == 2:
        assert err.startswith("error: ") and err.count("\n") == 1 and not versions, err
        return REFUSED
    assert code == 0 and differences(straight, versions[-1]) == []
    return BEFORE if "is damaged" in out and "trying checkpoint-2" in out else IDENTICAL


@pytest.mark.parametrize(
    ("place", "least", "expected"),
    [("checkpoint", 80, {BEFORE}), ("folder", 40, {IDENTICAL, REFUSED}), ("cache", 80, {IDENTICAL})],
    ids=["checkpoint", "folder", "cache"],
)
def test_no_damage_publishes_other_bits(worlds, tmp_path, monkeypatch, capsys, place, least, expected):
    template, straight = worlds
    cases = damage.cases(template, place)
    assert len(cases) >= least
    outcomes: Counter[str] = Counter()
    wrong = []
    for number, case in enumerate(cases):
        world = damage.copy_world(template, tmp_path / str(number))
        monkeypatch.setenv("HF_DATASETS_CACHE", str(world / "cache"))
        case.do(world)
        try:
            ended = outcome(world, straight, capsys)
            outcomes[ended] += 1
            if ended not in expected:
                wrong.append(f"{case}: {ended}")
        except Exception as error:  # noqa: BLE001 - counted, and shown by the test
            wrong.append(f"{case}: {type(error).__name__}: {error}")
        shutil.rmtree(world)
    with capsys.disabled():
        print(f"\n{len(cases)} cases of damage to the {place}: {dict(outcomes)}")
    assert not wrong, "\n".join(wrong)


def test_damage_to_every_checkpoint_starts_the_run_over(worlds, tmp_path, monkeypatch, capsys):
    template, straight = worlds
    world = damage.copy_world(template, tmp_path / "world")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(world / "cache"))
    for file in world.glob("store/.runs/*/checkpoints/*/optimizer.pt"):
        damage.zero(file)
    assert stage.main(overrides(world)) == 0
    assert "the run starts from the beginning" in capsys.readouterr().out
    assert differences(straight, Store(world / "store").resolve("killed")) == []

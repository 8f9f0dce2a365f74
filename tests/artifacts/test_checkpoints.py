"""Checkpoints on disk: whole or not there, within the budget, and from nobody else."""

import os
import shutil
from types import SimpleNamespace

import pytest

from align.artifacts import checkpoints
from align.errors import UserError


def write(folder, step: int, size: int = 1000):
    staging = checkpoints.stage(folder)
    written = staging / checkpoints.name_of(step)
    (written / "global_step").mkdir(parents=True)
    (written / "model.safetensors").write_bytes(b"w" * size)
    (written / "global_step" / "rank_0.pt").write_bytes(b"o" * size)
    (written / "training_args.bin").write_bytes(b"pickle")
    checkpoints.sync(written)
    return checkpoints.commit(staging, step, {"told": 3})


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    return run / "checkpoints"


def test_a_whole_checkpoint_is_marked_last_and_private(folder):
    path = write(folder, 4)
    mark = checkpoints.read_mark(path)
    assert (mark["step"], mark["told"]) == (4, 3)
    assert mark["files"] == {"model.safetensors": 1000, "global_step/rank_0.pt": 1000}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert checkpoints.last_whole(folder) == path and checkpoints.size_of(path) == 2000
    assert [one.name for one in folder.iterdir()] == ["checkpoint-4"]


@pytest.mark.parametrize("damage", ["no mark", "a file cut off", "a file gone", "half a mark"])
def test_one_that_is_not_whole_is_never_gone_on_from(folder, damage):
    write(folder, 2)
    path = write(folder, 4)
    if damage == "no mark":
        (path / checkpoints.MARK).unlink()
    elif damage == "a file cut off":
        os.truncate(path / "model.safetensors", 999)
    elif damage == "a file gone":
        (path / "global_step" / "rank_0.pt").unlink()
    else:
        os.truncate(path / checkpoints.MARK, 30)
    (folder / ".writing-1" / "checkpoint-6").mkdir(parents=True)
    (folder / ".removing-1").mkdir()
    assert checkpoints.last_whole(folder).name == "checkpoint-2"
    assert [one.name for one in folder.iterdir()] == ["checkpoint-2"]


def test_a_run_without_checkpoints(tmp_path):
    assert checkpoints.last_whole(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        ({"limit": None, "max_gb": None}, [1, 2, 3, 4]),
        ({"limit": 2, "max_gb": None}, [3, 4]),
        ({"limit": 2, "max_gb": None, "best": 1}, [1, 4]),
        ({"limit": None, "max_gb": 4.1e-6}, [3, 4]),
        ({"limit": None, "max_gb": 4.1e-6, "best": 2}, [2, 4]),
        ({"limit": None, "max_gb": 1e-9}, [4]),
    ],
    ids=str,
)
def test_the_budget_spares_the_last_and_the_best(folder, budget, kept):
    paths = {step: write(folder, step) for step in (1, 2, 3, 4)}
    best = paths.get(budget.pop("best", None))
    checkpoints.keep_budget(folder, **budget, best=best)
    assert list(checkpoints.all_whole(folder)) == kept


def test_no_room_for_one_more(folder, monkeypatch):
    write(folder, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=500))
    with pytest.raises(UserError, match="500 B free and a checkpoint takes 2.0 kB.*resumes after step 2"):
        checkpoints.check_room(folder, 2000)
    checkpoints.check_room(folder, 400)


def test_what_others_may_write_is_not_loaded(folder):
    write(folder, 2)
    folder.parent.chmod(0o777)
    with pytest.raises(UserError, match="may be written by others.*could run code"):
        checkpoints.last_whole(folder)

"""Checkpoints on disk: whole or not there, within the budget, and from nobody else."""

import io
import json
import os
import shutil
import struct
from types import SimpleNamespace

import pytest

from align.artifacts import checkpoints, digests
from align.errors import UserError


def write(folder, step: int, size: int = 1000, **files: bytes):
    staging = checkpoints.stage(folder)
    written = staging / checkpoints.name_of(step)
    (written / "global_step").mkdir(parents=True)
    (written / "model.safetensors").write_bytes(b"w" * size)
    (written / "global_step" / "rank_0.pt").write_bytes(b"o" * size)
    (written / "training_args.bin").write_bytes(b"pickle")
    for name, content in files.items():
        (written / name).write_bytes(content)
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
    assert mark["files"] == {
        "model.safetensors": digests.hash_file(path / "model.safetensors"),
        "global_step/rank_0.pt": digests.hash_file(path / "global_step" / "rank_0.pt"),
    }
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
    found, said = resume(folder)
    assert found == "checkpoint-2" and said[0].startswith("checkpoint-4 is damaged (it is not whole)")
    assert sorted(one.name[:21] for one in folder.iterdir()) == [".damaged-checkpoint-4", "checkpoint-2"]


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


# -- content ---------------------------------------------------------------------------------------------------------


def resume(folder, **options):
    said = []
    found = checkpoints.last_whole(folder, say=said.append, **options)
    return found and found.name, said


@pytest.mark.parametrize("name", ["model.safetensors", "global_step/rank_0.pt"])
@pytest.mark.parametrize("damage", ["flip", "zero", "swap"])
def test_a_damaged_file_of_the_same_size_is_found(folder, name, damage):
    write(folder, 2)
    path = write(folder, 4)
    content = bytearray((path / name).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "zero":
        content = bytearray(len(content))
    else:
        content = bytearray(
            (folder / "checkpoint-2" / name).read_bytes()[::-1].replace(b"w", b"v").replace(b"o", b"p")
        )
    (path / name).write_bytes(content)
    assert resume(folder) == (
        "checkpoint-2",
        [f"checkpoint-4 is damaged ({name} is not what was written) and was put aside; trying checkpoint-2"],
    )
    assert sorted(one.name[:21] for one in folder.iterdir()) == [".damaged-checkpoint-4", "checkpoint-2"]


def test_when_all_are_damaged_the_run_starts_from_the_beginning(folder):
    for step in (2, 4):
        path = write(folder, step)
        (path / "model.safetensors").write_bytes(b"x" * 1000)
    found, said = resume(folder)
    assert found is None and said[-1].endswith("was put aside; the run starts from the beginning")
    assert len(list(folder.iterdir())) == 1  # the last that was put aside
    assert resume(folder) == (None, [])


@pytest.mark.parametrize("change", ["one more", "another step", "a size", "a hash", "no hashes", "100,000 brackets"])
def test_a_damaged_mark_is_found(folder, change):
    write(folder, 2)
    path = write(folder, 4)
    mark = json.loads((path / checkpoints.MARK).read_text())
    entry = mark["files"]["model.safetensors"]
    if change == "one more":
        (path / "pytorch_model.bin").write_bytes(b"")
    elif change == "another step":
        mark["step"] = 6
    elif change == "a size":
        entry["size"] = "1000"
    elif change == "a hash":
        entry["blake3"] = entry["blake3"][::-1]
    elif change == "no hashes":
        mark["files"] = ["model.safetensors"]
    text = "[" * 100_000 if change == "100,000 brackets" else json.dumps(mark)
    (path / checkpoints.MARK).write_text(text)
    found, said = resume(folder)
    assert found == "checkpoint-2" and said[0].startswith("checkpoint-4 is damaged (") and len(said) == 1


def test_a_file_that_cannot_be_read_is_no_reason_to_give_up(folder, monkeypatch):
    write(folder, 2)
    write(folder, 4)
    real = digests.hash_file

    def broken(path, *given, **options):
        if "checkpoint-4" in str(path):
            raise OSError(5, "Input/output error", str(path))
        return real(path, *given, **options)

    monkeypatch.setattr(digests, "hash_file", broken)
    found, said = resume(folder)
    assert found == "checkpoint-2" and "cannot be read (Input/output error)" in said[0]


def test_the_best_checkpoint_is_verified_where_it_is_loaded_at_the_end(folder):
    for step in (2, 4, 6):
        state = {"best_model_checkpoint": str(folder / f"checkpoint-{min(step, 4)}")}
        write(folder, step, **{"trainer_state.json": json.dumps(state).encode()})
    (folder / "checkpoint-4" / "model.safetensors").write_bytes(b"x" * 1000)
    assert resume(folder) == ("checkpoint-6", [])
    found, said = resume(folder, also_best=True)
    assert found == "checkpoint-2" and "the best so far, checkpoint-4, is damaged: model.safetensors is not" in said[0]


# -- release 0.1.0 ---------------------------------------------------------------------------------------------------


def without_hashes(path):
    """The checkpoint as release 0.1.0 wrote it."""
    mark = json.loads((path / checkpoints.MARK).read_text())
    mark["files"] = {name: entry["size"] for name, entry in mark["files"].items()}
    (path / checkpoints.MARK).write_text(json.dumps(mark))


@pytest.fixture
def old(folder):
    """checkpoint-2 and checkpoint-4 of release 0.1.0."""
    import torch

    for step in (2, 4):
        buffer = io.BytesIO()
        torch.save({"moments": torch.arange(100.0)}, buffer)
        weights = (2).to_bytes(8, "little") + b"{}"
        more = {"optimizer.pt": buffer.getvalue(), "trainer_state.json": b"{}", "weights.safetensors": weights}
        path = write(folder, step, **more)
        for name in ("model.safetensors", "global_step/rank_0.pt"):
            (path / name).unlink()
        mark = json.loads((path / checkpoints.MARK).read_text())
        for name in ("model.safetensors", "global_step/rank_0.pt"):
            mark["files"].pop(name)
        (path / checkpoints.MARK).write_text(json.dumps(mark))
        without_hashes(path)
    return folder


def test_a_checkpoint_without_hashes_is_resumed_with_a_word(old):
    assert resume(old) == (
        "checkpoint-4",
        ["checkpoint-4 was written by align 0.1.0, without hashes: its weights cannot be verified"],
    )
    assert checkpoints.size_of(old / "checkpoint-4") > 1000


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "weights.safetensors"])
def test_what_can_be_seen_without_hashes_is_seen(old, name):
    file = old / "checkpoint-4" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    found, said = resume(old)
    assert found == "checkpoint-2" and f"{name} is not what was written" in said[0]


def test_a_flipped_bit_in_what_torch_saved_is_seen_by_its_sum(old):
    file = old / "checkpoint-4" / "optimizer.pt"
    content = bytearray(file.read_bytes())
    place = content.index(struct.pack("<f", 50.0))
    content[place] ^= 1
    file.write_bytes(content)
    found, said = resume(old)
    assert found == "checkpoint-2" and "optimizer.pt is not what was written" in said[0]

"""Files where a run needs folders, and the reverse: a sentence before anything is trained."""

import shutil

import pytest

from align.artifacts.store import Store
from align.config.compose import compose
from align.errors import UserError
from align.run import stage
from align.run.plan import make_plan
from tests.conftest import stage_overrides

FOLDERS = ("holders", "checkpoints", "output", "errors", "wandb")
FILES = ("run.json", "config.yaml", "metrics.jsonl", "samples.jsonl", "progress.json")


@pytest.mark.parametrize("name", [*FOLDERS, *FILES, "a link to nothing"])
def test_every_place_in_a_runs_folder_is_checked(tmp_path, name):
    store = Store(tmp_path)
    folder = store.run_dir("0123456789abcdef")
    if name in FOLDERS:
        (folder / name).write_text("")
        said = f"{name} is a file where a folder is needed; move it away"
    elif name in FILES:
        (folder / name).mkdir()
        said = f"{name} is not a file, and one is needed there; move it away"
    else:
        (folder / "checkpoints").symlink_to(folder / "nothing")
        said = "checkpoints is a file where a folder is needed"
    with pytest.raises(UserError, match=said):
        store.run_dir("0123456789abcdef")


@pytest.mark.parametrize("place", [".runs", ".runs/{identity}", ".runs/{identity}/holders", ".claims", "dpo"])
def test_a_start_ends_in_one_sentence(tiny_store, capsys, place):
    overrides = stage_overrides(tiny_store, "stage=dpo", "trainer.max_steps=1")
    identity = make_plan(compose(overrides), Store(tiny_store), world_size=1).identity
    path = tiny_store / place.format(identity=identity)
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    assert stage.main(overrides) == 2
    out, err = capsys.readouterr()
    assert (
        err.startswith("error: ")
        and f"{path} is a file where a folder is needed" in err
        and err.count("\n") == 1
        and " step " not in out
    )

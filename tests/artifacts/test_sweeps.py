"""What a sweep has published stays in the store until somebody releases the sweep."""

import pytest

from align.artifacts.store import Store
from align.artifacts.sweeps import Job, Sweep, check_released, read_sweeps
from align.cli import main
from align.errors import UserError
from tests.artifacts.versions import publish


@pytest.fixture
def store(tmp_path) -> Store:
    """dpo:v1 to v4, of which a sweep made v1 to v3; v4 is the latest."""
    store = Store(tmp_path / "store")
    refs = [publish(store, "dpo", {"x.json": f"{number}".encode()}).ref for number in range(4)]
    jobs = [
        Job({"trainer.beta": f"0.{number}"}, f"{number}" * 64, ref) for number, ref in enumerate(refs[:3], start=1)
    ]
    Sweep("sweep-dpo-1", (*jobs, Job({"trainer.beta": "0.9"}, "9" * 64)), "eval_loss", "min", refs[1]).save(store)
    return store


def gc(store: Store, capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["artifacts", "gc", "--grace-days", "0", *arguments, "--artifacts", str(store.root)])
    return status, *capsys.readouterr()


def test_a_record_is_read_as_it_was_written(store):
    (sweep,) = read_sweeps(store)
    assert sweep.refs == ["dpo:v1", "dpo:v2", "dpo:v3"] and sweep.best == "dpo:v2"
    assert sweep.jobs[3].ref is None and sweep.jobs[0].settings == {"trainer.beta": "0.1"}
    assert store.names() == ["dpo"]  # its folder is no artifact


def test_gc_keeps_a_sweep_until_told(store, capsys):
    assert "keep dpo:v1  (sweep sweep-dpo-1)" in gc(store, capsys)[1]
    gc(store, capsys, "--apply")
    assert store.numbers("dpo") == [1, 2, 3, 4]
    assert "would remove 3 versions" in gc(store, capsys, "--release-sweep", "sweep-dpo-1")[1]
    assert len(read_sweeps(store)) == 1  # nothing was applied
    gc(store, capsys, "--release-sweep", "all", "--apply")
    assert store.numbers("dpo") == [4] and read_sweeps(store) == []


def test_a_sweep_that_there_is_not(store, capsys):
    status, _, err = gc(store, capsys, "--release-sweep", "sweep-dpo-2")
    assert status == 2 and err == f"error: no sweep 'sweep-dpo-2' in the store {store.root}; sweeps: sweep-dpo-1\n"
    assert check_released(Store(store.root / "none"), ["all"]) == []


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"jobs": [{}]}', '{"jobs": [], "name": "x", "new": 1}'])
def test_gc_removes_nothing_while_a_record_cannot_be_read(store, capsys, text):
    (store.root / ".sweeps" / "sweep-dpo-1.json").write_text(text)
    status, _, err = gc(store, capsys, "--apply")
    assert status == 2 and "the record of a sweep, cannot be read" in err and store.numbers("dpo") == [1, 2, 3, 4]


def test_a_name_that_is_no_word_is_no_file(store):
    with pytest.raises(UserError, match="is not allowed"):
        Sweep("../out").save(store)

"""`align artifacts gc`: what it keeps, what it removes, and whoever comes in between."""

import json
import os
import shutil
import time

import pytest

from align.artifacts import gc
from align.artifacts.gc import collect, plan_collection
from align.artifacts.store import Store
from align.cli import main
from align.errors import UserError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store, name="sft", size=10, **facts):
    folder = store.stage(name)
    (folder / "a.json").write_text(" " * size)
    facts = {"type": "model", "ended": f"2026-01-{len(store.numbers(name)) + 1:02d}T00:00:00Z"} | facts
    return store.publish(folder, name=name, **facts)


def record(version):
    return {"ref": version.ref, "digest": version.digest, "kind": "artifact"}


def removed(store, **options):
    return [version.ref for version in plan_collection(store, **{"grace_days": 0} | options).remove]


def run(capsys, store, *arguments):
    status = main(["artifacts", "gc", *arguments, "--artifacts", str(store.root)])
    return status, *capsys.readouterr()


def test_it_keeps_what_aliases_pins_and_lineage_need(store):
    base = publish(store, "pretrain")
    publish(store, "pretrain")
    sft = [publish(store, inputs={"policy": record(base)}) for _ in range(4)]
    store.point(sft[1], "best")
    store.pin(sft[2])
    publish(store, "pretrain")
    plan = plan_collection(store, grace_days=0)
    assert [version.ref for version in plan.remove] == ["sft:v1", "pretrain:v2"]
    assert plan.kept == {
        "pretrain:v1": "sft:v2 was made from it",
        "pretrain:v3": "alias latest",
        "sft:v2": "alias best",
        "sft:v3": "pinned",
        "sft:v4": "alias latest",
    }


def test_a_lineage_goes_child_first(store):
    base = publish(store, "pretrain")
    publish(store, "pretrain")
    publish(store, inputs={"policy": record(base)})
    publish(store)
    assert removed(store) == ["sft:v1", "pretrain:v1"]
    assert removed(store, max_versions=1) == ["sft:v1", "pretrain:v1"]


def test_the_base_of_an_adapter_is_kept(store):
    base = publish(store, "pretrain")
    publish(store, "pretrain")
    publish(store, "dpo", adapter={"kind": "lora", "base": record(base)})
    assert removed(store) == []


def test_unfinished_runs_keep_their_inputs(store):
    first = publish(store)
    publish(store)
    folder = store.run_dir("0123456789abcdef")
    (folder / "run.json").write_text(json.dumps({"inputs": {"policy": [record(first)], "data.x": {"ref": "a/b"}}}))
    assert removed(store) == []
    (folder / "run.json").write_text('{"inputs": {"policy"')
    with pytest.raises(UserError, match="gc removes nothing while .*run.json cannot be read"):
        removed(store)
    (folder / "run.json").write_text(json.dumps({"inputs": {"policy": record(first)}}))
    publish(store, "dpo", identity="0123456789abcdef")
    assert removed(store) == ["sft:v1"]


def test_a_run_leaves_word_of_its_inputs(tiny_store, run_stage):
    from align.artifacts.inputs import resolve_input

    store = Store(tiny_store)
    version = run_stage(tiny_store, "stage=dpo", "inputs.policy=sft:v1", "trainer.max_steps=1")
    folder = store.run_dir(version.manifest.identity)
    assert gc.live_inputs(store, set())[folder.name] == [resolve_input(store, "sft:v1").ref] * 2


def test_a_grace_period(store):
    publish(store)
    publish(store)
    assert removed(store, grace_days=7) == [] and removed(store, grace_days=0) == ["sft:v1"]


def test_a_budget_by_count_and_by_size(store):
    for _ in range(6):
        publish(store, size=1000)
    assert removed(store, max_versions=4) == ["sft:v1", "sft:v2"]
    assert removed(store, max_gb=3e-6) == ["sft:v1", "sft:v2", "sft:v3"]
    assert removed(store, max_versions=5, max_gb=1) == ["sft:v1"]
    assert len(removed(store, max_gb=0)) == 5  # the latest is needed


def test_it_refuses_while_a_manifest_cannot_be_read(store, capsys):
    publish(store)
    version = publish(store)
    (version.path / "manifest.json").unlink()
    status, _, err = run(capsys, store, "--apply", "--grace-days", "0")
    assert status == 2 and err.startswith("error: gc removes nothing while a manifest cannot be read")
    assert store.numbers("sft") == [1, 2]


def test_dry_run_then_apply(store, capsys):
    for _ in range(3):
        publish(store)
    status, out, _ = run(capsys, store, "--grace-days", "0")
    assert status == 0 and "would remove sft:v1  10 B" in out and "gc --apply does it" in out
    assert out.startswith("keep sft:v3  (alias latest)\n")
    assert store.numbers("sft") == [1, 2, 3]
    status, out, _ = run(capsys, store, "--grace-days", "0", "--apply")
    assert "removed 2 versions, 20 B, and keep 1" in out and store.numbers("sft") == [3]
    assert sorted(os.listdir(store.root / "sft")) == [".removed", "aliases", "v0003"]
    with pytest.raises(UserError, match="sft:v1 was removed by `align artifacts gc`"):
        store.resolve("sft:v1")
    shutil.rmtree(store.root / "sft" / "aliases")
    shutil.rmtree(store.root / "sft" / "v0003")
    assert publish(store, alias=None).number == 3  # v1 and v2 have notes and are not given again
    assert json.loads(run(capsys, store, "--json")[1])["kept"] == {"sft:v3": "the latest"}


def test_who_points_at_a_version_in_between_wins(store, monkeypatch):
    first = publish(store)
    publish(store)
    plan = plan_collection(store, grace_days=0)
    real = os.rename

    def meanwhile(old, new):
        monkeypatch.setattr(os, "rename", real)
        store.point(first, "best")
        real(old, new)

    monkeypatch.setattr(os, "rename", meanwhile)
    with monkeypatch.context() as patched:
        answers = iter([False, True])
        patched.setattr(gc, "_wanted", lambda *_: next(answers))
        assert collect(store, plan) == []
    assert store.resolve("sft:best").path.is_dir()
    assert collect(store, plan) == [] and store.numbers("sft") == [1, 2]


def test_a_collection_that_died_too_late_is_undone(store):
    first = publish(store)
    publish(store)
    store.point(first, "best")
    first.path.rename(store.root / "sft" / ".trash-v0001-0123")  # hidden just after best had come
    collect(store, plan_collection(store))
    assert store.resolve("sft:best") == first


def test_two_collections_at_once(store):
    for _ in range(3):
        publish(store)
    plans = [plan_collection(store, grace_days=0) for _ in range(2)]
    assert len(collect(store, plans[0])) == 2 and collect(store, plans[1]) == []


def test_a_version_that_another_collection_takes_while_this_one_plans(store, monkeypatch):
    first = publish(store)
    publish(store)
    pins = store.pins

    def pins_while_another_collects(name):
        shutil.rmtree(first.path, ignore_errors=True)
        return pins(name)

    monkeypatch.setattr(store, "pins", pins_while_another_collects)
    assert collect(store, plan_collection(store, grace_days=0)) == []


def test_leftovers_of_what_died(store):
    publish(store)
    old, new = store.stage("sft"), store.stage("sft")
    (old / "a.json").write_text("{}")
    for path in (old / "a.json", old):
        os.utime(path, (time.time() - 8 * 86400,) * 2)
    plan = plan_collection(store)
    assert plan.leftovers == [old]
    collect(store, plan)
    assert not old.exists() and new.exists()

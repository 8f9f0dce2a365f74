"""`align artifacts gc`: what it keeps, what it removes, and whoever comes in between."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from align.artifacts import claims, gc
from align.artifacts.gc import collect, plan_collection
from align.artifacts.inputs import resolve_input
from align.artifacts.manifest import Manifest
from align.artifacts.store import Store
from align.artifacts.verification import open_version
from align.cli import main
from align.distributed import processes
from align.errors import UserError
from tests.artifacts.churn import HARM, churn

DEAD = 4194305  # one more than the largest process id of Linux


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store, name="sft", size=10, files=None, **facts):
    folder = store.stage(name)
    for inside, content in (files or {"a.json": b" " * size}).items():
        (folder / inside).parent.mkdir(exist_ok=True)
        (folder / inside).write_bytes(content)
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


def test_a_version_that_cannot_be_read_is_reported_and_kept_with_what_it_names(store, capsys):
    base = publish(store, "pretrain")
    publish(store, "pretrain")
    broken = publish(store, inputs={"policy": record(base)})
    for _ in range(2):
        publish(store)
    manifest = broken.path / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"seed"', '"sead"'))
    status, out, err = run(capsys, store, "--grace-days", "0")
    assert status == 0 and err.startswith("kept: ") and "manifest.json is damaged: no field 'seed'" in err
    assert "keep sft:v1  (it cannot be read)" in out
    assert "keep pretrain:v1  (sft:v1, which cannot be read, names it)" in out
    assert "would remove sft:v2" in out
    assert run(capsys, store, "--apply", "--grace-days", "0")[0] == 0
    assert (store.numbers("sft"), store.numbers("pretrain")) == ([1, 3], [1, 2])


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


def age(*paths, days=8):
    for path in paths:
        os.utime(path, (time.time() - days * 86400,) * 2)


def of_a_dead_process(folder):
    """The folder under the name that a process which has ended would have given it."""
    mine = processes.tag().split(".")
    return folder.rename(folder.with_name(folder.name.replace(".".join(mine), f"{mine[0]}.{DEAD}.{mine[2]}")))


def test_leftovers_of_what_died(store):
    publish(store)
    dead, recent, mine = (
        of_a_dead_process(store.stage("sft")),
        of_a_dead_process(store.stage("sft")),
        store.stage("sft"),
    )
    foreign = store.root / "sft" / ".staging-ffffffff.12.345-0123456789abcdef0123456789abcdef"
    foreign.mkdir()
    for folder in (dead, mine):
        (folder / "a.json").write_text("{}")
        age(folder / "a.json", folder)
    plan = plan_collection(store)
    assert plan.leftovers == [dead]
    collect(store, plan)
    assert not dead.exists() and recent.exists() and mine.exists()
    assert plan_collection(store, grace_days=0).leftovers == [recent]
    age(foreign, days=2)
    assert plan_collection(store, grace_days=0).leftovers == sorted([recent, foreign])


def test_what_is_being_written_now_is_no_leftover(store):
    version = publish(store)
    writing = store.root / "sft" / "aliases" / "latest" / ".writing-0123"
    trash = store.root / "sft" / f".trash-v0009-{'0' * 32}"
    writing.write_text("")
    shutil.copytree(version.path, trash)
    assert plan_collection(store, grace_days=0).leftovers == []
    age(writing, days=0.1)
    assert plan_collection(store, grace_days=0).leftovers == [writing]


def test_a_leftover_is_hidden_before_it_is_deleted(store, monkeypatch):
    """Whoever still publishes the folder gets an error, never a version with files missing."""
    folder = of_a_dead_process(store.stage("sft"))
    (folder / "a.json").write_text("{}")
    plan = plan_collection(store, grace_days=0)
    assert plan.leftovers == [folder]
    real = gc.remove_tree

    def while_it_is_deleted(path):
        with pytest.raises(UserError, match="unpublished folder .* was removed while it was being published"):
            store.publish(folder, name="sft", type="model")
        real(path)

    monkeypatch.setattr(gc, "remove_tree", while_it_is_deleted)
    collect(store, plan)
    assert store.numbers("sft") == [] and not list((store.root / "sft").glob(".[st]*"))


def test_a_file_lost_while_publishing_is_never_said_to_be_published(store, monkeypatch):
    from align.artifacts import store as module

    folder = store.stage("sft")
    (folder / "a.json").write_text("{}")
    sealed = module.seal(folder)
    (folder / "b.json").write_text("{}")
    monkeypatch.setattr(module, "seal", lambda _: sealed | {"c.json": sealed["a.json"]})
    with pytest.raises(
        UserError, match="c.json was removed or changed by another program while it was being published"
    ):
        store.publish(folder, name="sft", type="model")


# -- claims: what somebody has resolved and still needs ------------------------------------------------------------


@pytest.fixture
def two(store):
    """sft:v1, which nobody needs, and sft:v2."""
    return publish(store), publish(store)


def test_an_input_is_kept_from_the_moment_it_is_resolved(store, two):
    plan = plan_collection(store, grace_days=0)
    assert [version.ref for version in plan.remove] == ["sft:v1"]
    resolve_input(store, "sft:v1")
    assert collect(store, plan) == [] and removed(store) == []
    assert plan_collection(store, grace_days=0).kept["sft:v1"] == "in use by a process"


def test_a_version_that_is_read_is_kept(store, two):
    open_version(store, "sft:v1")
    assert removed(store) == []


def test_a_claim_after_the_first_look_is_seen_by_the_second(store, two, monkeypatch):
    plan = plan_collection(store, grace_days=0)
    real = os.rename

    def claimed_in_between(old, new):
        if ".trash-v0001" in str(new):
            monkeypatch.setattr(os, "rename", real)
            claims.claim(store.root, "sft", 1)
        real(old, new)

    monkeypatch.setattr(os, "rename", claimed_in_between)
    assert collect(store, plan) == [] and store.version("sft", 1) == two[0]


def test_a_claimed_version_never_vanishes(store, two, monkeypatch):
    """A claim made between gc's first check and its rename waits until gc has decided."""
    plan = plan_collection(store, grace_days=0)
    claimer = threading.Thread(target=store.claim, args=(two[0],))
    waited = []
    real = os.rename

    def claimed_just_before(old, new):
        if ".trash-v0001" in str(new):
            claimer.start()
            claimer.join(0.2)
            waited.append(claimer.is_alive())
        real(old, new)

    monkeypatch.setattr(os, "rename", claimed_just_before)
    assert collect(store, plan) == [] and waited == [True]
    claimer.join(10)
    assert two[0].path.is_dir() and not claimer.is_alive()


def test_a_collection_that_died_keeps_nobody_waiting(store, two, monkeypatch):
    mine = processes.tag().split(".")
    dead = store.root / "sft" / f".going-v0001-{mine[0]}.{DEAD}.{mine[2]}-{'0' * 32}"
    dead.touch()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    assert store.claim(two[0]) == two[0]
    assert plan_collection(store, grace_days=0).leftovers == [dead]


def test_a_version_that_is_being_deleted_is_not_brought_back(store, two, monkeypatch):
    """Another collection sees a claim that came too late: what is half deleted stays away."""
    plan = plan_collection(store, grace_days=0)
    real = gc.remove_tree

    def claimed_too_late(folder):
        claims.claim(store.root, "sft", 1)
        gc.bring_back(store, plan_collection(store, grace_days=0))
        assert not two[0].path.exists()
        real(folder)

    monkeypatch.setattr(gc, "remove_tree", claimed_too_late)
    assert [version.ref for version in collect(store, plan)] == ["sft:v1"]


def test_a_version_that_another_collection_brings_back_stays(store, two, monkeypatch):
    plan = plan_collection(store, grace_days=0)
    real = gc._wanted

    def brought_back_meanwhile(*arguments):
        if not two[0].path.exists():
            (hidden,) = (store.root / "sft").glob(".trash-v0001-*")
            hidden.rename(two[0].path)
        return real(*arguments)

    monkeypatch.setattr(gc, "_wanted", brought_back_meanwhile)
    assert collect(store, plan) == [] and store.version("sft", 1) == two[0]


def test_who_claims_a_version_that_is_being_removed_is_told(store, two):
    collect(store, plan_collection(store, grace_days=0))
    with pytest.raises(UserError, match="sft:v1 was removed by `align artifacts gc`"):
        store.claim(two[0])


def test_who_claims_a_version_that_comes_back_waits_for_it(store, two, monkeypatch):
    hidden = two[0].path.rename(store.root / "sft" / ".trash-v0001-x")
    monkeypatch.setattr(time, "sleep", lambda _: hidden.rename(two[0].path))
    assert store.claim(two[0]) == two[0]


def test_a_claim_ends_with_its_process_and_after_a_day(store, two):
    claims.claim(store.root, "sft", 1)
    (file,) = (store.root / ".claims").iterdir()
    mine = processes.tag().split(".")
    dead = file.rename(file.with_name(file.name.replace(".".join(mine), f"{mine[0]}.{DEAD}.{mine[2]}")))
    plan = plan_collection(store, grace_days=0)
    assert [version.ref for version in plan.remove] == ["sft:v1"] and [claim.file for claim in plan.claims] == [dead]
    elsewhere = dead.rename(file.with_name(file.name.replace(mine[0], "ffffffff")))
    assert removed(store) == []
    age(elsewhere, days=2)
    assert removed(store) == ["sft:v1"]
    collect(store, plan_collection(store, grace_days=0))
    assert not list((store.root / ".claims").iterdir())


def test_a_process_gives_up_its_claims_when_it_ends(store, two):
    code = f"from align.artifacts.store import Store; s = Store({str(store.root)!r}); s.claim(s.version('sft', 1))"
    subprocess.run([sys.executable, "-c", code + "; import os; print(os.listdir(s.root / '.claims'))"], check=True)
    assert not list((store.root / ".claims").iterdir())


def test_an_unfinished_run_keeps_its_inputs_also_from_who_may_not_read_its_folder(store, two):
    identity = "0123456789abcdef"
    store.run_dir(identity)
    claims.claim_inputs(store.root, {"policy": [record(two[0])], "data.x": {"ref": "a/b", "digest": ""}}, identity)
    plan = plan_collection(store, grace_days=0)
    assert plan.remove == [] and plan.kept["sft:v1"] == "unfinished run 0123456789ab"
    published = publish(store, "dpo", identity=identity)
    assert removed(store) == ["sft:v1"]
    shutil.rmtree(published.path)
    assert removed(store) == []
    shutil.rmtree(store.runs_root / identity)
    assert removed(store) == ["sft:v1"]


def test_a_run_claims_its_inputs_before_it_verifies_them(tiny_store, monkeypatch):
    """Between a run's hold and its end nothing that it resolved is removed; a run that died keeps its inputs."""
    from align.run import stage
    from tests.conftest import stage_overrides

    store = Store(tiny_store)
    first = store.version("sft", 1)
    clone = publish(
        store, "solo", files={f"model/{file.name}": file.read_bytes() for file in first.model_dir.iterdir()}
    )
    publish(store, "solo")
    seen = []

    def gc_meanwhile(plan):
        claims.release()  # as another process sees it when this one has died, and may not read its folder
        for file in tiny_store.glob(".runs/*/run.json"):
            file.unlink()
        seen.append(plan_collection(store, grace_days=0).kept.get(clone.ref, "")[:14])
        raise UserError("stopped here")

    monkeypatch.setattr(stage, "preflight", gc_meanwhile)
    assert stage.main(stage_overrides(tiny_store, "stage=dpo", "inputs.policy=solo:v1")) == 2
    assert seen == ["unfinished run"]


def test_a_parent_of_what_was_published_since_the_plan_stays(store, two):
    plan = plan_collection(store, grace_days=0)
    publish(store, "dpo", inputs={"policy": record(two[0])})
    assert collect(store, plan) == [] and store.version("sft", 1)


def test_a_version_is_never_without_alias_and_claim(store, monkeypatch):
    """`gc` of everything, at each step of a publication, finds nothing to remove."""
    publish(store)
    found = []
    real = Store.point

    def gc_first(self, version, alias="latest", **options):
        found.append([version.ref for version in collect(store, plan_collection(store, grace_days=0))])
        real(self, version, alias, **options)

    monkeypatch.setattr(Store, "point", gc_first)
    assert publish(store).path.is_dir() and found == [[]]


def test_a_store_that_may_not_be_written_can_still_be_read(store, two, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(claims, "_create", refuse)
    assert resolve_input(store, "sft:v1").ref == "sft:v1"


def test_sizes_are_those_on_the_disk_and_not_what_a_manifest_says(store):
    """A pulled manifest that lies about sizes must not make `gc --max-gb` remove others."""
    versions = [publish(store, size=1000) for _ in range(4)]
    body = json.loads((versions[3].path / "manifest.json").read_text())
    body["files"]["a.json"]["size"] = 10**15
    for name in ("schema", "digest", "checksum"):
        body.pop(name)
    (versions[3].path / "manifest.json").chmod(0o644)
    (versions[3].path / "manifest.json").write_text(Manifest(**body).to_json())
    assert removed(store, max_gb=4e-6) == [] and removed(store, max_gb=3e-6) == ["sft:v1"]


@pytest.mark.slow
def test_gc_beside_publications_and_starting_runs(tmp_path):
    """`make soak` does more of it."""
    outcomes = churn(tmp_path / "store", 40)
    assert outcomes["published"] == 80 and outcomes["started"] > 0 and outcomes["collected"] > 0, outcomes
    assert {name: outcomes[name] for name in HARM if outcomes.get(name)} == {}

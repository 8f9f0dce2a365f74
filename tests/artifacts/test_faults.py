"""Every file operation of publish, alias, pin, gc, quarantine, push, pull and of a checkpoint made to fail, and the
power cut.

After each fault `verify` finds whole versions only, nothing published is lost, every alias leads to a version, a run
has a whole checkpoint to go on from, and the same command again succeeds.
"""

import fcntl
import os
import shutil

import pytest

from align.artifacts import checkpoints, publishing
from align.artifacts.gc import collect, plan_collection
from align.artifacts.remote import Remote
from align.artifacts.store import Store
from align.artifacts.transfer import pull, push
from align.artifacts.verification import quarantine, verify, verify_many
from align.errors import UserError
from tests.artifacts.faults import Crash, Disk

WEIGHTS = (2).to_bytes(8, "little") + b"{}" + b"weights" * 50
OUTCOMES = ({"luck": 0.0}, {"luck": 1.0}, {"luck": 0.5, "seed": 1}, {"luck": 0.5, "seed": 2})
EVERY = 13  # the quick tier tries one fault in so many


def fill(store, name, text):
    folder = store.stage(name)
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.yaml").write_text(text)
    return folder


def publish(world):
    store = Store(world / "store")
    store.publish(fill(store, "sft", "new"), name="sft", type="model")


def alias(world):
    store = Store(world / "store")
    store.point(store.resolve("sft:v2"), "best")


def pin(world):
    store = Store(world / "store")
    store.unpin(store.resolve("sft:v2"))
    store.pin(store.resolve("sft:v1"))


def gc(world):
    store = Store(world / "store")
    collect(store, plan_collection(store, grace_days=0))


def corrupt(world):
    store = Store(world / "store")
    for number in store.numbers("bad"):
        finding = verify(store, "bad", number)
        if finding.evidence:
            quarantine(store, finding)


def to_remote(world):
    store = Store(world / "store")
    push(store, store.resolve("sft:v3"), Remote(f"file://{world}/remote"), say=lambda line: None)


def from_remote(world):
    pull(Store(world / "store"), "elsewhere:v1", Remote(f"file://{world}/remote"), say=lambda line: None)


def checkpoint(world, step=4):
    """The checkpoint after `step`, of which one is kept."""
    folder = world / "run" / "checkpoints"
    staging = checkpoints.stage(folder)
    written = staging / checkpoints.name_of(step)
    (written / "global_step").mkdir(parents=True)
    for inside in ("model.safetensors", "global_step/rank_0.pt"):
        (written / inside).write_text(f"of step {step}")
    checkpoints.sync(written)
    checkpoints.commit(staging, step, {})
    checkpoints.keep_budget(folder, limit=1, max_gb=None, best=None)


SCENARIOS = {
    "publish": publish,
    "alias": alias,
    "pin": pin,
    "gc": gc,
    "quarantine": corrupt,
    "push": to_remote,
    "pull": from_remote,
    "checkpoint": checkpoint,
}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """sft v1 (best), v2 (pinned), v3 (latest), v4 of nobody; bad:v1 with a flipped bit; a remote with elsewhere:v1; a
    run after its step 2."""
    world = tmp_path_factory.mktemp("faults") / "world"
    store = Store(world / "store")
    for number in (1, 2, 4, 3):
        version = store.publish(fill(store, "sft", f"{number}"), name="sft", type="model", alias=None)
    store.point(store.version("sft", 1), "best")
    store.pin(store.version("sft", 2))
    store.point(store.version("sft", 3))
    bad = store.publish(fill(store, "bad", "1"), name="bad", type="model").path / "config.yaml"
    bad.chmod(0o644)
    bad.write_text("2")
    other = Store(world.parent / "other")
    version = other.publish(fill(other, "elsewhere", "3"), name="elsewhere", type="model")
    push(other, version, Remote(f"file://{world}/remote"), say=lambda line: None)
    checkpoint(world, step=2)
    return world


def published(world):
    """ref -> digest of all there is."""
    store = Store(world / "store")
    return {f"{n}:v{k}": store.version(n, k).digest for n, numbers in store.contents() for k in numbers}


def check(world, before, scenario):
    """What must hold whatever happened."""
    store = Store(world / "store")
    findings = {finding.ref: finding for finding in verify_many(store, _all(store))}
    broken = {ref for ref, finding in findings.items() if not finding.whole}
    assert broken <= {"bad:v1"}, [finding for finding in findings.values() if not finding.whole]
    may_go = {"gc": {"sft:v4"}, "quarantine": {"bad:v1"}}.get(scenario, set())
    assert {ref: digest for ref, digest in before.items() if ref not in may_go}.items() <= published(world).items()
    for ref in ("sft:latest", "sft:best", "sft:v2"):
        store.resolve(ref)
    if "bad:v1" not in findings:
        with pytest.raises(UserError, match="bad:v1 is corrupt and was quarantined"):
            store.resolve("bad:v1")
        assert (store.root / "bad" / ".quarantine" / "v0001" / "model" / "model.safetensors").is_file()
    remote = Remote(f"file://{world}/remote")
    for name in remote.names():
        for number in remote.numbers(name):
            _, manifest = remote.manifest(name, number)
            assert all(remote.has_blob(entry) for entry in manifest.files.values()), f"{name}:v{number}"
    last = checkpoints.last_whole(world / "run" / "checkpoints")
    step = checkpoints.read_mark(last)["step"]
    assert {path.read_text() for path in last.rglob("*[st]") if path.is_file()} == {f"of step {step}"}


def _all(store):
    return [(name, number) for name, numbers in store.contents() for number in numbers]


def finish(world, scenario):
    """The same command again, on a disk that works; it must end well."""
    SCENARIOS[scenario](world)
    store = Store(world / "store")
    done = {
        "publish": lambda: (
            store.resolve("sft").number > 4 and (store.resolve("sft").path / "config.yaml").read_text() == "new"
        ),
        "alias": lambda: store.aliases("sft")["best"] == 2,
        "pin": lambda: store.pins("sft") == [1],
        "gc": lambda: store.numbers("sft") == [1, 2, 3],
        "quarantine": lambda: store.numbers("bad") == [],
        "push": lambda: Remote(f"file://{world}/remote").numbers("sft") == [3],
        "pull": lambda: store.resolve("elsewhere").number == 1,
        "checkpoint": lambda: list(checkpoints.all_whole(world / "run" / "checkpoints")) == [4],
    }
    assert done[scenario]()


def inject(template, folder, scenario, at, way):
    """One fault; returns (calls made, whether it struck)."""
    world = folder / "world"
    shutil.copytree(template, world)
    before = published(world)
    disk = Disk(world, at, way)
    ended = False
    try:
        with disk.running():
            SCENARIOS[scenario](world)
            ended = True
    except (Crash, OSError, UserError):
        pass
    outcomes = [world]
    if way == "crash":
        outcomes += [disk.after_power_cut(folder / f"cut{n}", **kind) for n, kind in enumerate(OUTCOMES)]
    count, hit = disk.count, bool(disk.hit)
    disk.close()
    for outcome in outcomes:
        check(outcome, before, scenario)
        if ended and way == "crash":  # it said it was done: no power cut may undo it
            again = published(outcome)
            last = checkpoints.last_whole(outcome / "run" / "checkpoints")
            assert scenario != "checkpoint" or last.name == "checkpoint-4"
            SCENARIOS["alias" if scenario == "publish" else scenario](outcome)
            assert scenario != "publish" or len(again) == len(before) + 1
            assert scenario != "gc" or Store(outcome / "store").numbers("sft") == [1, 2, 3]
        else:
            finish(outcome, scenario)
        check(outcome, before, scenario)
    shutil.rmtree(folder)
    return count, hit, len(outcomes)


def every_fault(template, tmp_path, scenario, step):
    """How many were injected: every call, or one in `step`, in each way; a power cut counts once an outcome."""
    total, _, _ = inject(template, tmp_path / "none", scenario, 0, "crash")
    assert total > 3
    injected = 0
    for way in ("crash", "EIO", "ENOSPC", "short"):
        for at in range(1 + (len(way) + len(scenario)) % min(step, total), total + 1, step):
            _, hit, outcomes = inject(template, tmp_path / f"{way}{at}", scenario, at, way)
            injected += outcomes if hit else 0
    return injected


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """What is durable here is the model's business: the real disk need not be waited for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _lying_locks(monkeypatch):
    """A file system that grants every lock to everyone; nothing may come to depend on one."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(fcntl, "lockf", lambda *_: None)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_some_faults(template, tmp_path, scenario):
    assert every_fault(template, tmp_path, scenario, EVERY) >= 3


@pytest.mark.slow
def test_every_fault(template, tmp_path):
    injected = {scenario: every_fault(template, tmp_path / scenario, scenario, 1) for scenario in SCENARIOS}
    print(injected, sum(injected.values()))
    assert sum(injected.values()) > 500, injected


def test_the_disk_forgets_what_was_not_synced(tmp_path, monkeypatch):
    world = tmp_path / "world"
    (world / "old").mkdir(parents=True)
    (world / "old" / "file").write_bytes(b"old")
    disk = Disk(world)
    with disk.running():
        (world / "new").mkdir()
        (world / "new" / "file").write_bytes(b"new")
        os.rename(world / "old" / "file", world / "old" / "moved")
    cut = disk.after_power_cut(tmp_path / "cut")
    assert sorted(str(path.relative_to(cut)) for path in cut.rglob("*")) == ["old", "old/file"]
    with disk.running():
        for folder in (world, world / "new", world / "old"):
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    cut = disk.after_power_cut(tmp_path / "cut2")
    assert (cut / "new" / "file").read_bytes() == b"" and (cut / "old" / "moved").read_bytes() == b"old"
    disk.close()


def test_a_checkpoint_that_was_not_synced_is_noticed(template, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "sync_folder", lambda folder: None)
    with pytest.raises(AssertionError):
        inject(template, tmp_path / "world", "checkpoint", 0, "crash")


@pytest.mark.parametrize("forgotten", ["the files", "the folders", "the manifest"])
def test_a_forgotten_fsync_is_noticed(template, tmp_path, monkeypatch, forgotten):
    if forgotten == "the files":
        monkeypatch.setattr(publishing, "sync_file", lambda path: None)
    elif forgotten == "the folders":
        monkeypatch.setattr(publishing, "sync_folder", lambda folder: None)
    else:
        monkeypatch.setattr(publishing, "write_durably", lambda path, content, mode: path.write_bytes(content))
    with pytest.raises((AssertionError, UserError)):
        inject(template, tmp_path / "world", "publish", 0, "crash")

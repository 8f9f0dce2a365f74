"""What you load is what was published: hashes, quarantine, aliases by compare-and-swap, pins, the index."""

import hashlib
import json
import os
import random
import stat
import time

import pytest

from align.artifacts import digests, index, verification
from align.artifacts.inputs import resolve_input
from align.artifacts.manifest import Manifest
from align.artifacts.store import Store
from align.artifacts.verification import quarantine, verify, verify_input, verify_many
from align.artifacts.verify_all import JOURNAL, Sweep
from align.cli import main
from align.errors import UserError

WEIGHTS = (2).to_bytes(8, "little") + b"{}" + bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def publish(store, name="sft", files=None, **facts):
    folder = store.stage(name)
    for inside, content in (files or {"model/model.safetensors": WEIGHTS, "config.yaml": b"stage: sft\n"}).items():
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (folder / inside).write_bytes(content)
    return store.publish(folder, name=name, **{"type": "model"} | facts)


def flip(path, at=None, bit=0):
    """Flip one bit, with size, mode and times kept."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(stat.S_IMODE(before.st_mode))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mode, after.st_mtime_ns) == (before.st_size, before.st_mode, before.st_mtime_ns)


def run(capsys, store, *arguments):
    status = main(["artifacts", *arguments, "--artifacts", str(store.root)])
    return status, *capsys.readouterr()


# -- hashes --------------------------------------------------------------------------------------------------------


def test_a_manifest_names_its_algorithm_and_sha256_stays_readable(store):
    version = publish(store)
    entry = version.manifest.files["model/model.safetensors"]
    assert set(entry) == {"blake3", "size"}
    old = {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)}
    config = {"sha256": hashlib.sha256(b"stage: sft\n").hexdigest(), "size": 11}
    manifest = Manifest("sft", 1, "model", {"model/model.safetensors": old, "config.yaml": config})
    file = version.path / "manifest.json"
    file.chmod(0o644)
    file.write_text(manifest.to_json())
    assert store.resolve("sft").manifest == manifest and verify(store, "sft", 1).whole
    flip(version.path / "model" / "model.safetensors")
    assert "has sha256" in verify(store, "sft", 1).evidence[0]


def test_a_file_hashes_the_same_on_any_number_of_cores(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom((1 << 24) + 12345))
    hashes = [digests.hash_file(path, threads=threads) for threads in (1, 2, 8)]
    assert hashes[0] == hashes[1] == hashes[2] and hashes[0]["size"] == (1 << 24) + 12345
    assert digests.hash_file(path, "sha256")["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_flipped_bit_is_found_wherever_it_is(store):
    version = publish(store, metrics={"eval_loss": 1.5e-7}, notes={"escape": "\x1b"})
    file = version.path / "model" / "model.safetensors"
    for at in [0, 8, len(WEIGHTS) - 1, *random.Random(0).sample(range(len(WEIGHTS)), 20)]:
        flip(file, at, at % 8)
        assert not verify(store, "sft", 1).whole
        flip(file, at, at % 8)
    assert verify(store, "sft", 1).whole


def test_no_bit_of_a_manifest_flips_unseen(store):
    text = publish(store, metrics={"eval_loss": 1.5e-7}, notes={"escape": "\x1b é"}).path.joinpath("manifest.json")
    content = text.read_bytes()
    Manifest.from_json(content, "here")
    for at in range(len(content)):
        for bit in range(8):
            broken = bytearray(content)
            broken[at] ^= 1 << bit
            with pytest.raises(UserError):
                Manifest.from_json(bytes(broken), "here")


# -- verify --------------------------------------------------------------------------------------------------------


def test_what_is_not_as_published_is_told_file_by_file(store):
    version = publish(store, files={f"model/{n}.json": b"{}" for n in "abcd"})
    (version.path / "model").chmod(0o755)
    (version.path / "model" / "a.json").unlink()
    (version.path / "model" / "b.json").unlink()
    (version.path / "model" / "b.json").symlink_to("c.json")
    (version.path / "model" / "adapter_config.json").write_text("{}")
    (version.path / "model" / "d.json").chmod(0o644)
    (version.path / "model" / "d.json").write_text("{ }")
    assert sorted(verify(store, "sft", 1).evidence) == [
        "model/a.json is missing",
        "model/adapter_config.json was not published with it",
        "model/b.json is no regular file",
        "model/d.json has 3 bytes, 2 were published",
    ]


def test_a_corrupt_version_is_quarantined_and_named_to_whoever_asks(store, capsys):
    publish(store)
    broken = publish(store)
    flip(broken.path / "model" / "model.safetensors")
    status, out, _ = run(capsys, store, "verify", "sft:v2")
    kept = store.root / "sft" / ".quarantine" / "v0002"
    assert status == 1 and f"sft:v2  10.3 kB  CORRUPT, kept in {kept}" in out and "has blake3" in out
    assert (kept / "model" / "model.safetensors").is_file() and store.numbers("sft") == [1]
    note = json.loads((store.root / "sft" / ".removed" / "v0002.json").read_text())
    assert note["digest"] == broken.digest and note["why"] == "corrupt" and len(note["evidence"]) == 1
    for ref in ("sft:v2", "sft:latest"):
        status, _, err = run(capsys, store, "show", ref)
        assert status == 2 and "sft:v2 is corrupt and was quarantined" in err and str(kept) in err
    assert err.startswith("error: sft:latest is v2, and sft:v2 is corrupt") and err.endswith("or name v1 of it\n")
    assert "in quarantine: sft:v2, model/model.safetensors has blake3" in run(capsys, store, "ls")[1]
    assert publish(store).number == 3  # its number is not given to another
    assert run(capsys, store, "verify", "sft:v1")[0] == 0


def test_a_name_whose_only_version_is_quarantined_is_still_known(store):
    version = publish(store)
    flip(version.path / "config.yaml")
    quarantine(store, verify(store, "sft", 1))
    for ref, said in (("sft", "sft:latest is v1, and sft:v1 is corrupt"), ("sft:v1", "sft:v1 is corrupt")):
        with pytest.raises(UserError, match=f"^{said} and was quarantined"):
            store.resolve(ref)
    with pytest.raises(UserError, match="'sft:best' does not exist"):
        store.resolve("sft:best")


def test_two_who_find_the_same_corruption_agree(store):
    version = publish(store)
    flip(version.path / "config.yaml")
    finding = verify(store, "sft", 1)
    assert quarantine(store, finding) == quarantine(store, finding)
    assert [one.name for one in (store.root / "sft" / ".quarantine").iterdir()] == ["v0001"]


def test_a_file_that_cannot_be_read_proves_nothing(store, monkeypatch, capsys):
    publish(store)
    given = resolve_input(store, "sft")

    def broken(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verification, "hash_file", broken)
    status, out, _ = run(capsys, store, "verify", "--all")
    assert status == 1 and "could not be read" in out
    with pytest.raises(UserError, match="sft:v1 could not be verified: .*Input/output error. Repair the disk"):
        verify_input(store, given)
    assert store.numbers("sft") == [1]


def test_verify_all_goes_on_where_it_was_interrupted(store, capsys):
    for _ in range(5):
        publish(store)
    flip(store.root / "sft" / "v0004" / "config.yaml")
    findings = Sweep(store).findings()
    assert [next(findings).ref for _ in range(2)] == ["sft:v1", "sft:v2"]
    findings.close()
    assert (store.root / JOURNAL).is_file()
    with open(store.root / JOURNAL, "a") as journal:
        journal.write('["sft:v3", [1,')  # torn by a crash
    status, out, _ = run(capsys, store, "verify", "--all")
    assert status == 1 and "going on: 2 of 5" in out and "[3/3] sft:v5" in out and "1 not whole" in out
    assert not (store.root / JOURNAL).exists()
    status, out, _ = run(capsys, store, "verify", "--all", "--json")
    assert status == 0 and [one["ref"] for one in json.loads(out)] == ["sft:v1", "sft:v2", "sft:v3", "sft:v5"]


def test_verify_wants_one_ref_or_all(store, capsys):
    assert run(capsys, store, "verify")[0] == run(capsys, store, "verify", "sft", "--all")[0] == 2


def test_many_versions_are_verified_in_order(store):
    pairs = [("sft", publish(store, alias=None).number) for _ in range(100)]
    findings = list(verify_many(store, pairs))
    assert [finding.ref for finding in findings] == [f"sft:v{n}" for _, n in pairs]
    assert all(finding.whole for finding in findings)


# -- at load -------------------------------------------------------------------------------------------------------


def test_an_input_is_verified_by_its_hashes(store):
    version = publish(store)
    given = resolve_input(store, "sft")
    verify_input(store, given)
    flip(version.path / "model" / "model.safetensors")
    verify_input(store, given, mode="off")
    with pytest.raises(UserError, match="sft:v1 is corrupt and was quarantined .*model.safetensors has blake3"):
        verify_input(store, given)
    with pytest.raises(UserError, match="sft:v1 is corrupt and was quarantined"):
        resolve_input(store, "sft")


def test_a_sample_takes_small_files_and_one_large_one(store, monkeypatch):
    monkeypatch.setattr(verification, "_SMALL", 100)
    files = {f"model/{n}.json": b" " * 500 for n in range(9)} | {"config.yaml": b"stage: sft\n"}
    finding = next(iter(verify_many(store, [("sft", publish(store, files=files).number)], "sampled")))
    assert finding.whole and finding.hashed == 511
    rows = publish(
        store,
        "pairs",
        {"records/train.jsonl": b"{}\n" * 99, "records/eval.jsonl": b"{}\n" * 99},
        type="dataset",
        format="preference",
    )
    flip(rows.path / "records" / "train.jsonl")
    with pytest.raises(UserError, match="pairs:v1 is corrupt"):  # datasets are never sampled
        verify_input(store, resolve_input(store, "pairs"), mode="sampled")


def test_large_models_are_sampled(store, monkeypatch):
    monkeypatch.setattr(verification, "_SMALL", 100)
    publish(store, files={f"model/{n}.json": b" " * 500 for n in range(9)})
    seen = []
    digest = store.resolve("sft").digest
    monkeypatch.setattr(
        verification, "verify", lambda *given: seen.append(given[-1]) or verification.Finding("x", digest)
    )
    verify_input(store, resolve_input(store, "sft"), below_gb=4e-6)
    verify_input(store, resolve_input(store, "sft"), below_gb=5e-6)
    assert seen == ["sampled", "full"]


def test_the_base_of_an_adapter_is_verified_with_it(store):
    base = publish(store)
    record = {"ref": base.ref, "digest": base.digest, "kind": "artifact", "type": "model"}
    publish(store, "dpo", inputs={"policy": record}, adapter={"kind": "lora", "base": record})
    flip(base.path / "model" / "model.safetensors")
    with pytest.raises(UserError, match="sft:v1 is corrupt"):
        verify_input(store, resolve_input(store, "dpo"))


# -- aliases and pins ----------------------------------------------------------------------------------------------


def test_an_alias_moves_by_compare_and_swap(store, capsys):
    for _ in range(3):
        publish(store)
    assert run(capsys, store, "alias", "sft:v1", "best", "--expect", "v0")[1] == "sft:best is sft:v1\n"
    assert run(capsys, store, "alias", "sft:v2", "best", "--expect", "v1")[1] == "sft:best is sft:v2 (was v1)\n"
    status, _, err = run(capsys, store, "alias", "sft:v3", "best", "--expect", "v1")
    assert status == 2 and "alias best is at v2" in err and "not v1 as expected" in err
    assert run(capsys, store, "alias", "sft:v2", "best", "--expect", "v1")[0] == 0  # it is where it was wanted
    assert run(capsys, store, "alias", "sft:v2", "new", "--expect", "1x")[0] == 2
    assert run(capsys, store, "alias", "sft:v1", "latest")[0] == 2
    assert store.aliases("sft") == {"best": 2, "latest": 3}


def test_an_alias_never_moves_to_what_is_gone(store):
    version = publish(store)
    version.path.rename(store.root / "sft" / ".trash-x")
    with pytest.raises(UserError, match="sft:v1 was removed while best moved to it"):
        store.point(version, "best")
    with pytest.raises(UserError, match="sft:v1 was removed while it was being pinned"):
        store.pin(version)


def test_pins(store, capsys):
    publish(store)
    assert "is pinned" in run(capsys, store, "pin", "sft")[1] and store.pins("sft") == [1]
    assert "was pinned already" in run(capsys, store, "pin", "sft:v1")[1]
    assert "latest,(pinned)" in run(capsys, store, "ls")[1]
    assert "no longer pinned" in run(capsys, store, "unpin", "sft")[1] and store.pins("sft") == []
    assert "was not pinned" in run(capsys, store, "unpin", "sft")[1]


# -- the index -----------------------------------------------------------------------------------------------------


def test_an_index_is_made_used_and_made_again(store, capsys, monkeypatch):
    for _ in range(40):
        publish(store, metrics={"eval_loss": 0.5}, identity="0123456789abcdef")
    plain = run(capsys, store, "ls")[1]
    assert (store.root / ".index").is_file()
    with monkeypatch.context() as patched:
        patched.setattr(index, "read_manifest", lambda *_: 1 / 0)
        assert run(capsys, store, "ls")[1] == plain
    assert len(store.find("0123456789abcdef")) == 40
    for damage in (b"", b"[]", b'align index 1 x\n{"sft": {}}', b"\xff\x00"):
        (store.root / ".index").write_bytes(damage)
        assert run(capsys, store, "ls")[1] == plain
    text = store.root / "sft" / "v0001" / "manifest.json"
    text.chmod(0o644)
    time.sleep(0.01)
    text.write_text(text.read_text().replace('"eval_loss": 0.5', '"eval_loss": 0.6'))
    status, out, err = run(capsys, store, "ls")
    assert status == 2 and "sft   v1 " not in out and "its text is not what was written" in err


def test_a_stage_refuses_an_input_whose_bits_have_flipped(tiny_store, capsys):
    from align.run import stage as launch
    from tests.conftest import stage_overrides

    weights = tiny_store / "sft" / "v0001" / "model" / "model.safetensors"
    flip(weights)
    overrides = stage_overrides(tiny_store, "stage=dpo", "inputs.policy=sft:v1")
    assert launch.main(overrides) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: sft:v1 is corrupt and was quarantined") and len(err.splitlines()) == 1
    assert Store(tiny_store).numbers("sft") == [] and Store(tiny_store).numbers("dpo") == []

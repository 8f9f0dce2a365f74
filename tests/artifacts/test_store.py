"""The artifact directory: publishing, and what is told where it cannot be. Real files, real processes."""

import errno
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from align.artifacts import aliases
from align.artifacts.store import Store
from align.errors import UserError
from tests.artifacts.versions import WEIGHTS, filled, publish

IDENTITY = "0123456789abcdef"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_publish_and_resolve(store):
    policy = publish(store, "pretrain")
    version = publish(
        store,
        inputs={"policy": {"ref": policy.ref, "digest": policy.digest}},
        identity=IDENTITY,
        metrics={"eval_loss": 1.25, "kl": float("nan")},
    )
    assert version.ref == "sft:v1" and version.path == store.root / "sft" / "v0001"
    assert version.model_dir.is_dir() and version.content_dir == version.model_dir
    assert version.manifest.metrics == {"eval_loss": 1.25, "kl": "nan"}
    assert set(version.manifest.files) == {"model/model.safetensors", "config.yaml"}
    for text in ("sft", "sft:latest", "sft:v1"):
        assert store.resolve(text) == version
    assert store.find(IDENTITY) == [version] and store.find("f" * 16) == []
    assert [(one.role, one.version) for one in store.parents(version)] == [("policy", policy)]
    assert store.names() == ["pretrain", "sft"]


def test_published_files_are_read_only_and_not_executable(store):
    folder = filled(store)
    (folder / "config.yaml").chmod(0o755)
    version = store.publish(folder, name="sft", type="model")
    for path in version.path.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o333 == 0, path
    assert not folder.exists()


def test_versions_count_up_and_latest_follows(store):
    versions = [publish(store, files={"model/config.json": str(n).encode()}) for n in range(3)]
    assert [version.number for version in versions] == store.numbers("sft") == [1, 2, 3]
    assert store.aliases("sft") == {"latest": 3}
    assert store.versions("sft") == versions
    assert len({version.digest for version in versions}) == 3


def test_equal_content_has_an_equal_digest(store):
    first = publish(store, files={"model/a.json": b"1", "metrics.jsonl": b"one"})
    second = publish(store, files={"metrics.jsonl": b"two", "model/a.json": b"1"})
    assert first.digest == second.digest


@pytest.mark.parametrize("crash_at", ["rename", "replace", "fsync"])
def test_a_crash_before_the_rename_leaves_no_version(store, monkeypatch, crash_at):
    first = publish(store)
    folder = filled(store)

    def crash(*_):
        raise OSError(errno.EIO, "pulled the plug")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="pulled the plug"):
        patched.setattr(os, crash_at, crash)
        store.publish(folder, name="sft", type="model")
    assert store.numbers("sft") == [1] and store.resolve("sft") == first
    assert (folder / "model" / "model.safetensors").read_bytes() == WEIGHTS
    assert store.publish(folder, name="sft", type="model").ref == "sft:v2"


def test_a_crash_between_rename_and_alias_is_mended_by_pointing_again(store, monkeypatch):
    publish(store)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(aliases, "move", lambda *_, **__: (_ for _ in ()).throw(RuntimeError()))
        publish(store, identity=IDENTITY)
    assert store.resolve("sft").number == 1
    (version,) = store.find(IDENTITY)
    store.point(version)
    store.point(version)
    assert store.resolve("sft") == version
    assert [entry.version for entry in store.alias_log("sft", "latest")] == [1, 2]


def test_latest_without_an_entry_is_the_highest(store):
    publish(store, alias=None)
    assert store.resolve("sft").number == 1


def test_a_number_that_an_alias_named_is_not_used_again(store):
    import shutil

    publish(store)
    shutil.rmtree(publish(store).path)
    assert publish(store).number == 3
    shutil.rmtree(store.root / "sft" / "v0003")
    with pytest.raises(UserError, match="points at v3, which is gone.*sft has v1"):
        store.resolve("sft")


def test_a_taken_number_is_passed_over(store, monkeypatch):
    publish(store)
    monkeypatch.setattr(Store, "numbers", lambda self, name: [])  # what a publisher sees that looked too early
    (store.root / "sft" / "v0002").write_text("somebody's file")
    assert publish(store, alias=None).ref == "sft:v3"


@pytest.mark.parametrize(
    ("inside", "content", "says"),
    [
        ("model/pytorch_model.bin", b"x", "may hold a pickle"),
        ("training_args.BIN", b"x", "may hold a pickle"),
        ("model/optimizer.pt", b"x", "may hold a pickle"),
        ("model/modeling.py", b"x", "is code"),
        ("model/weights.json", pickle.dumps({"a": 1}), "a pickle by its first bytes"),
        ("model/weights.json", b"PK\x03\x04rest", "zip archive"),
        ("tool", b"\x7fELF", "a program"),
        ("tool", b"#!/bin/sh\n", "a script"),
        ("model/weights.h5", b"\x89HDF\r\n\x1a\n\0", "neither text nor of a format that holds data alone"),
        ("model/model.safetensors", pickle.dumps([1, 2, 3]), "not a safetensors file"),
        ("model/a\nb.json", b"{}", "cannot be printed"),
        ("model\\b.json", b"{}", r"U\+005C\), which looks like a folder's end"),
        ("model\u2215b.json", b"{}", r"U\+2215\), which looks like a folder's end"),
    ],
)
def test_publish_refuses_pickles_and_code(store, inside, content, says):
    folder = filled(store, files={inside: content})
    with pytest.raises(UserError, match=says):
        store.publish(folder, name="sft", type="model")
    assert store.names() == []


def test_a_safetensors_length_that_looks_like_a_pickle_passes(store):
    header = b"{" + b" " * (0x280 - 2) + b"}"
    publish(store, files={"model/model.safetensors": len(header).to_bytes(8, "little") + header})


@pytest.mark.parametrize("inside", ["model/tokenizer.model", "records/train.parquet"])
def test_the_binary_formats_that_hold_data_alone_pass(store, inside):
    publish(store, files={inside: b"\x0a\0\0"})


@pytest.mark.parametrize("target", ["/etc/hostname", "../../other", "model.safetensors", "."])
def test_publish_refuses_links(store, target):
    folder = filled(store)
    (folder / "model" / "link.json").symlink_to(target)
    with pytest.raises(UserError, match=r"model/link.json is a symlink to .*copy the file itself"):
        store.publish(folder, name="sft", type="model")


def test_publish_refuses_what_is_no_file(store):
    folder = filled(store)
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match="pipe is not a regular file"):
        store.publish(folder, name="sft", type="model")


def test_publish_arguments_of_the_wrong_kind_are_bugs(store, tmp_path):
    with pytest.raises(ValueError, match="did not come from stage"):
        store.publish(tmp_path, name="sft", type="model")
    with pytest.raises(ValueError, match="type is 'modle'"):
        publish(store, type="modle")
    with pytest.raises(ValueError, match="expected an object with ref and digest"):
        publish(store, inputs={"policy": "sft:v1"})
    with pytest.raises(ValueError, match="holds no files"):
        store.publish(store.stage("sft"), name="sft", type="model")
    with pytest.raises(ValueError, match="identity"):
        store.run_dir("../x")
    with pytest.raises(TypeError):
        publish(store, metrics={"x": object()})
    assert store.names() == []


PUBLISHER = """
import sys
from align.artifacts.store import Store
store = Store(sys.argv[1])
for n in range(20):
    folder = store.stage("sft")
    (folder / "who.json").write_text(f'"{sys.argv[2]} {n}"')
    print(store.publish(folder, name="sft", type="model").number)
"""


def test_two_processes_publish_at_once(store):
    command = [sys.executable, "-c", PUBLISHER, str(store.root)]
    processes = [subprocess.Popen([*command, who], stdout=subprocess.PIPE, text=True) for who in "ab"]
    numbers = [[int(line) for line in process.communicate()[0].split()] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(numbers[0] + numbers[1]) == store.numbers("sft") == list(range(1, 41))
    assert store.aliases("sft") == {"latest": 40}
    said = {(version.path / "who.json").read_text() for version in store.versions("sft")}
    assert said == {f'"{who} {n}"' for who in "ab" for n in range(20)}
    assert not list((store.root / "sft").glob(".staging-*"))


# -- errors a person can repair ---------------------------------------------------------------------------------------


def test_missing_artifacts_say_what_there_is_and_what_makes_them(store):
    maker = "python launch/run.py stage=sft"
    with pytest.raises(UserError, match=rf"'sft:latest' is not in the store .* \(it is empty\); make one: {maker}"):
        store.resolve("sft", maker=maker)
    for _ in range(3):
        publish(store, "dpo")
    with pytest.raises(UserError, match="'sft:v2' is not in the store .*it has dpo"):
        store.resolve("sft:v2")
    with pytest.raises(UserError, match=r"'dpo:v7' does not exist; dpo has v1-v3, latest \(v3\)$"):
        store.resolve("dpo:v7")
    with pytest.raises(UserError, match="'dpo:best' does not exist; dpo has v1-v3"):
        store.resolve("dpo:best")


def test_a_damaged_manifest_is_named(store):
    version = publish(store)
    manifest = version.path / "manifest.json"
    text = manifest.read_text()
    manifest.chmod(0o644)
    manifest.write_text(text[:100])
    with pytest.raises(UserError, match=rf"{manifest} is damaged"):
        store.resolve("sft")
    manifest.write_text(text)
    version.path.rename(store.root / "sft" / "v0005")
    with pytest.raises(UserError, match="belongs to sft:v1"):
        store.resolve("sft:v5")
    manifest = store.root / "sft" / "v0005" / "manifest.json"
    manifest.unlink()
    with pytest.raises(UserError, match="manifest.json is missing"):
        store.resolve("sft:v5")


def test_no_space_is_one_sentence_and_nothing_is_lost(store, monkeypatch):
    folder = filled(store)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="no space left on the disk") as caught:
        patched.setattr(os, "fsync", full)
        store.publish(folder, name="sft", type="model")
    assert str(folder) in str(caught.value) and folder.is_dir() and store.names() == []


def test_a_root_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file where a folder is needed"):
        Store(tmp_path / "file").stage("sft")

    def closed(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", closed)
    with pytest.raises(UserError, match="may not be written; allow it, or choose another artifact root"):
        Store(tmp_path / "store").stage("sft")


def test_a_run_has_a_private_folder(store):
    folder = store.run_dir(IDENTITY)
    assert folder == store.root / ".runs" / IDENTITY and folder == store.run_dir(IDENTITY)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert store.names() == []


def test_where_the_store_is(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_ARTIFACTS", raising=False)
    assert Store.open().root == Path("artifacts")
    monkeypatch.setenv("ALIGN_ARTIFACTS", str(tmp_path))
    assert Store.open().root == tmp_path
    assert Store.open("elsewhere").root == Path("elsewhere")


def test_the_store_needs_nothing_but_the_standard_library():
    code = "import sys, align.artifacts.store, align.artifacts.inputs, align.artifacts.lineage; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "trl", "huggingface_hub", "numpy", "yaml", "datasets"}
    assert not heavy & set(out)

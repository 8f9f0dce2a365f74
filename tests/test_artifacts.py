"""The artifact directory: refs, manifests, publishing, aliases, inputs. Real files, real processes."""

import dataclasses
import errno
import http.server
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from align.artifacts import aliases, disk
from align.artifacts.digests import path_digest
from align.artifacts.inputs import parse_hub, resolve_input
from align.artifacts.manifest import Manifest
from align.artifacts.refs import Ref, is_ref
from align.artifacts.store import Store
from align.errors import UserError

IDENTITY = "0123456789abcdef"
WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # an empty but valid safetensors file


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def filled(store, name="sft", files=None):
    folder = store.stage(name)
    for inside, content in (files or {"model/model.safetensors": WEIGHTS, "config.yaml": b"stage: sft\n"}).items():
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (folder / inside).write_bytes(content)
    return folder


def publish(store, name="sft", files=None, **facts):
    return store.publish(filled(store, name, files), name=name, **{"type": "model"} | facts)


# -- refs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("sft", Ref("sft", None, "latest")),
        ("sft:latest", Ref("sft", None, "latest")),
        ("sft:v2", Ref("sft", 2, None)),
        ("sft:v0012", Ref("sft", 12, None)),
        ("hh-rlhf_sft.0:best", Ref("hh-rlhf_sft.0", None, "best")),
    ],
)
def test_ref_parses(text, ref):
    assert Ref.parse(text) == ref
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    ["", ":", "sft:", ":v1", "sft:v0", "sft:2", "sft:v1:v2", "../sft", "a..b", "/sft", "sft/x", "sft:../x", "SFT"]
    + ["s ft", "sft\n", "sft:v1\n", "sft\x00", "-sft", ".sft", "sft∕x", "ѕft", "sft:v٣", "a" * 129, "hf", "hf:v1"],
)
def test_ref_refuses(text):
    with pytest.raises(UserError, match="not an artifact reference such as sft:v2") as caught:
        Ref.parse(text)
    assert "\n" not in str(caught.value) and "\x00" not in str(caught.value)


@pytest.mark.parametrize("text", ["hf:org/model@main", "./rows.jsonl", "../model", "data/x", "/data", "~/model", "."])
def test_what_is_no_ref(text):
    assert not is_ref(text)


# -- manifest ------------------------------------------------------------------------------------------------------


def a_manifest(**changes):
    files = {"model/model.safetensors": {"sha256": "a" * 64, "size": 10}}
    return Manifest(**{"name": "sft", "version": 2, "type": "model", "files": files} | changes)


def test_manifest_round_trip():
    inputs = {"policy": {"ref": "pretrain:v1", "digest": "d"}, "dataset": [{"ref": "a/b", "digest": "e"}]}
    manifest = a_manifest(inputs=inputs, metrics={"eval_loss": 1.5}, seed=0, identity=IDENTITY)
    assert Manifest.from_json(manifest.to_json(), "here") == manifest
    assert [role for role, _ in manifest.each_input()] == ["policy", "dataset"]


def test_manifest_digest_is_of_the_content():
    manifest = a_manifest()
    log = {"metrics.jsonl": {"sha256": "b" * 64, "size": 1}}
    same = a_manifest(version=3, ended="2026-01-01T00:00:00Z", seed=3, files=manifest.files | log)
    assert same.digest == manifest.digest
    assert a_manifest(type="reward_model").digest != manifest.digest
    assert a_manifest(files={"model/x": {"sha256": "a" * 64, "size": 10}}).digest != manifest.digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda body: body.pop("files"), "no field 'files'"),
        (lambda body: body.update(colour=1), "unknown field 'colour'"),
        (lambda body: body.update(version="2"), "version is '2'"),
        (lambda body: body.update(version=True), "version is True"),
        (lambda body: body.update(type="modle"), "type is 'modle'"),
        (lambda body: body.update(schema=None), "schema is None"),
        (lambda body: body.update(schema=2), "use a newer align"),
        (lambda body: body.update(inputs={"policy": "sft:v1"}), "inputs['policy']"),
        (lambda body: body["files"].update({"../x": {"sha256": "a" * 64, "size": 1}}), "not a path inside"),
        (lambda body: body["files"].update({"x": {"sha256": "a", "size": 1}}), "files['x']"),
        (lambda body: body["files"]["model/model.safetensors"].update(size=11), "digest is"),
    ],
)
def test_manifest_refuses_what_is_wrong(change, says):
    body = json.loads(a_manifest().to_json())
    change(body)
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        Manifest.from_json(json.dumps(body), "sft/v0002/manifest.json")
    assert str(caught.value).startswith("sft/v0002/manifest.json ")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_manifest_refuses_what_is_no_json_object(text):
    with pytest.raises(UserError, match="is damaged: not"):
        Manifest.from_json(text.encode("utf-8", "surrogateescape"), "here")


# -- publish -------------------------------------------------------------------------------------------------------


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


# -- aliases -------------------------------------------------------------------------------------------------------


def test_an_alias_moves_and_keeps_its_log(store):
    first, second = publish(store), publish(store)
    store.point(first, "best")
    store.point(second, "best")
    store.point(first, "best")
    assert [entry.version for entry in store.alias_log("sft", "best")] == [1, 2, 1]
    assert store.aliases("sft") == {"best": 1, "latest": 2}
    assert store.resolve("sft:best") == first
    store.point(first, "latest")
    assert store.resolve("sft:latest") == second  # latest moves forward only
    assert (store.root / "sft" / "aliases" / "best" / "000003").is_file()


@pytest.mark.parametrize("alias", ["v2", "2", "../x", "", "Best"])
def test_alias_names_are_checked(store, alias):
    with pytest.raises(UserError, match="alias"):
        store.point(publish(store), alias)


def test_a_torn_alias_entry_is_skipped(store):
    publish(store)
    folder = store.root / "sft" / "aliases" / "latest"
    (folder / "000002").write_text('{"version": 9')
    assert store.aliases("sft") == {"latest": 1}
    second = publish(store)
    assert store.resolve("sft") == second and (folder / "000003").is_file()


def test_many_threads_move_one_alias(tmp_path):
    folder = tmp_path / "aliases" / "latest"
    movers = [
        threading.Thread(target=aliases.move, args=(folder, version, "now"), kwargs={"forward_only": True})
        for version in range(1, 33)
    ]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    log = aliases.read_log(folder)
    assert log[-1].version == 32
    assert [entry.version for entry in log] == sorted(entry.version for entry in log)
    assert [entry.number for entry in log] == list(range(1, len(log) + 1))
    assert all(re.fullmatch(r"\d{6}", name) for name in os.listdir(folder))


def test_without_hard_links_an_entry_is_still_exclusive(tmp_path, monkeypatch):
    def no_links(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert disk.create_exclusively(tmp_path / "000001", b"one\n")
    assert not disk.create_exclusively(tmp_path / "000001", b"two\n")
    assert os.listdir(tmp_path) == ["000001"] and (tmp_path / "000001").read_bytes() == b"one\n"


# -- errors a person can mend ---------------------------------------------------------------------------------------


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


# -- inputs --------------------------------------------------------------------------------------------------------


def test_input_artifact(store):
    version = publish(store)
    given = resolve_input(store, "sft:latest")
    assert (given.kind, given.ref, given.path, given.type) == ("artifact", "sft:v1", version.model_dir, "model")
    assert given.manifest == version.manifest
    record = given.to_manifest()
    assert record == {
        "ref": "sft:v1",
        "digest": version.digest,
        "kind": "artifact",
        "type": "model",
        "source": "sft:latest",
    }
    child = publish(store, "dpo", inputs={"policy": record, "baseline": [record, record]})
    assert [one.version for one in store.parents(child)] == [version] * 3


def test_input_dataset_artifact_is_the_version_folder(store):
    version = publish(store, "pairs", {"records/train.jsonl": b"{}\n"}, type="dataset", format="preference")
    assert resolve_input(store, "pairs").path == version.path


def test_input_path(store, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    folder = resolve_input(store, "./model")
    assert (folder.kind, folder.ref, folder.path, folder.type) == ("path", "./model", tmp_path / "model", None)
    assert folder.to_manifest() == {"ref": "./model", "digest": folder.digest, "kind": "path"}
    (tmp_path / "model" / ".git").mkdir()
    (tmp_path / "model" / ".git" / "HEAD").write_text("x")
    assert path_digest(tmp_path / "model") == folder.digest
    (tmp_path / "model" / "extra.json").symlink_to("../rows.jsonl")
    (tmp_path / "model" / "loop").symlink_to(".")
    assert path_digest(tmp_path / "model") != folder.digest
    with pytest.raises(UserError, match=r"for the file or folder here, write \./rows.jsonl"):
        resolve_input(store, "rows.jsonl")
    with pytest.raises(UserError, match="input './nowhere' does not exist"):
        resolve_input(store, "./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty folder"):
        resolve_input(store, "./empty")


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:a/b@", "hf:../x", "hf:a/b@..", "hf:a b", "hf:/a"])
def test_hub_names_are_checked(text):
    with pytest.raises(UserError, match="is not a Hugging Face repository: write hf:org/name"):
        parse_hub(text)


COMMIT = "c" * 40
HUB_FILES = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "onnx/config.json"]


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as one public repository, org/tiny, needs."""

    def do_GET(self):
        self.server.asked.append(self.path)
        content = b"{}"
        if self.path.startswith("/api/models/org/tiny/revision/"):
            content = json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": []}).encode()
        elif self.path.startswith(f"/api/models/org/tiny/tree/{COMMIT}"):
            files = [{"type": "file", "path": path, "size": 2, "oid": "d" * 40} for path in HUB_FILES]
            content = json.dumps(files).encode()
        elif not self.path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", '"' + "d" * 40 + '"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, and a cache of our own; `hub.offline()` takes it away."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    server.offline = lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_input_hub_takes_weights_and_text_only(store, hub):
    given = resolve_input(store, "hf:org/tiny@main")
    assert (given.kind, given.ref, given.revision) == ("hub", f"hf:org/tiny@{COMMIT}", COMMIT)
    got = sorted(path.relative_to(given.path).as_posix() for path in given.path.rglob("*") if path.is_file())
    assert got == ["config.json", "model.safetensors"]
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]
    record = given.to_manifest()
    assert record["source"] == "hf:org/tiny@main" and record["revision"] == COMMIT
    with pytest.raises(UserError, match="no such model repository"):
        resolve_input(store, "hf:org/absent")
    hub.offline()
    again = resolve_input(store, "hf:org/tiny@main")
    assert dataclasses.replace(again, text=given.text) == given
    assert resolve_input(store, f"hf:org/tiny@{COMMIT}").digest == given.digest
    with pytest.raises(UserError, match="hf:org/other is not in the local cache and could not be downloaded"):
        resolve_input(store, "hf:org/other")


def test_the_store_needs_nothing_but_the_standard_library():
    code = "import sys, align.artifacts.store, align.artifacts.inputs, align.artifacts.lineage; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "trl", "huggingface_hub", "numpy", "yaml", "datasets"}
    assert not heavy & set(out)

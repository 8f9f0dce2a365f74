"""`push` and `pull` through fsspec: a folder, memory, and S3 on a server of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from align.artifacts import transfer, verification
from align.artifacts.remote import Remote
from align.artifacts.store import Store
from align.artifacts.transfer import pull, push
from align.artifacts.verification import quarantine, verify
from align.cli import main
from align.errors import UserError

WEIGHTS = (2).to_bytes(8, "little") + b"{}" + bytes(range(256)) * 40_000


@pytest.fixture
def store(tmp_path):
    """pretrain:v1 -> sft:v1, v2, and the alias best at sft:v1."""
    store = Store(tmp_path / "store")
    base = publish(store, "pretrain")
    record = {"ref": base.ref, "digest": base.digest, "kind": "artifact", "type": "model"}
    first = publish(store, inputs={"policy": record})
    publish(store, files={"model/model.safetensors": WEIGHTS, "model/config.json": b'"2"'}, inputs={"policy": record})
    store.point(first, "best")
    return store


def publish(store, name="sft", files=None, **facts):
    folder = store.stage(name)
    for inside, content in (files or {"model/model.safetensors": WEIGHTS, "config.yaml": name.encode()}).items():
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (folder / inside).write_bytes(content)
    return store.publish(folder, name=name, type="model", **facts)


@pytest.fixture(scope="session")
def s3_server():
    """moto's S3 in a process of its own."""
    pytest.importorskip("s3fs", reason="S3 needs the extra [s3]")
    pytest.importorskip("moto", reason="S3 is tested against moto's server: pip install 'moto[server]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(600):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=1).close()
            break
        time.sleep(0.1)
    yield address
    server.terminate()
    server.wait()


@pytest.fixture(params=["file", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request, tmp_path, monkeypatch):
    if request.param == "file":
        return f"file://{tmp_path}/remote"
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    address = request.getfixturevalue("s3_server")
    for key, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"test-{os.urandom(4).hex()}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/align"


def lines(work, *given, **options):
    said = []
    work(*given, say=said.append, **options)
    return said


def test_there_and_back(store, url, tmp_path):
    remote = Remote(url)
    assert lines(push, store, store.resolve("sft:v1"), remote)[-1] == f"sft:v1 is in {remote.url}"
    push(store, store.resolve("sft:v2"), remote, lineage=True)
    assert remote.names() == ["pretrain", "sft"] and remote.numbers("sft") == [1, 2]
    assert remote.aliases("sft") == {"best": 1, "latest": 2}
    assert lines(push, store, store.resolve("sft:v1"), remote) == [f"sft:v1 is in {remote.url} already"]
    other = Store(tmp_path / "other")
    version = pull(other, "sft:latest", remote, lineage=True)
    assert version.manifest == store.resolve("sft:v2").manifest and other.resolve("sft") == version
    assert [parent.version for parent in other.parents(version)] == [other.resolve("pretrain")]
    assert pull(other, "sft:best", remote).ref == "sft:v1"
    for ref in ("sft:v1", "sft:v2", "pretrain:v1"):
        assert verify(other, *ref.split(":v")[:1], int(ref[-1])).whole
    assert not os.access(version.path / "model" / "model.safetensors", os.X_OK)
    assert (version.path / "manifest.json").read_bytes() == (store.root / "sft/v0002/manifest.json").read_bytes()


def test_what_two_versions_share_is_sent_once(store, url, tmp_path):
    remote = Remote(url)
    push(store, store.resolve("sft:v1"), remote)
    assert "  model/model.safetensors: there already" in lines(push, store, store.resolve("sft:v2"), remote)
    other = Store(tmp_path / "other")
    pull(other, "sft:v1", remote)
    assert "  model/model.safetensors: here already" in lines(pull, other, "sft:v2", remote)


def test_an_interrupted_push_goes_on(store, url, monkeypatch):
    remote = Remote(url)
    real, sent = Remote.put_blob, threading.Event()

    def broken(self, source, entry):
        if source.name == "config.yaml":
            assert sent.wait(30)
            raise OSError("the line is dead")
        real(self, source, entry)
        sent.set()

    with monkeypatch.context() as patched, pytest.raises(OSError, match="the line is dead"):
        patched.setattr(Remote, "put_blob", broken)
        push(store, store.resolve("sft:v1"), remote)
    assert remote.names() == []  # no manifest, no version
    said = lines(push, store, store.resolve("sft:v1"), remote)
    assert sorted(said[:2]) == ["  config.yaml: sent", "  model/model.safetensors: there already"]


def test_an_interrupted_pull_goes_on_within_a_file(store, url, tmp_path, monkeypatch):
    remote, other = Remote(url), Store(tmp_path / "other")
    push(store, store.resolve("sft:v1"), remote)
    real, asked = Remote._read, []

    def short(self, path, start, size):
        asked.append(start)
        for piece in real(self, path, start, size):
            if len(asked) <= 2 and len(piece) > 1000:
                yield piece[: 1 << 20]
                raise OSError("the line is dead")
            yield piece

    with monkeypatch.context() as patched:
        patched.setattr(Remote, "_read", short)
        with pytest.raises(OSError, match="the line is dead"):
            pull(other, "sft", remote)
        assert other.names() == []
        asked[:] = [0, 0]
        said = lines(pull, other, "sft", remote)
    assert "  model/model.safetensors: gone on with" in said and 1 << 20 in asked
    assert verify(other, "sft", 1).whole and sorted(os.listdir(other.root / "sft")) == ["aliases", "v0001"]


def test_what_arrives_damaged_is_refused(store, url, tmp_path):
    remote, other = Remote(url), Store(tmp_path / "other")
    version = store.resolve("sft:v1")
    push(store, version, remote)
    entry = version.manifest.files["model/model.safetensors"]
    content = bytearray(WEIGHTS)
    content[1000] ^= 1
    remote.fs.pipe_file(remote._blob(entry), bytes(content))
    with pytest.raises(UserError, match="arrived with another hash or size than"):
        pull(other, "sft", remote)
    assert other.names() == []
    push(store, store.resolve("sft:v2"), remote)  # shares the damaged file, finds it and sends it again
    assert pull(other, "sft:v1", remote).ref == "sft:v1"


def test_a_file_that_did_not_arrive_makes_no_version(store, url, monkeypatch):
    remote = Remote(url)
    real = remote.fs.put_file

    def lossy(source, target, **options):
        real(source, target, **options)
        remote.fs.pipe_file(target, b"half")

    monkeypatch.setattr(remote.fs, "put_file", lossy)
    with pytest.raises(UserError, match="did not arrive as it was sent"):
        push(store, store.resolve("sft:v1"), remote)
    assert remote.numbers("sft") == []


def test_what_cannot_be_read_is_not_pushed(store, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(5, "Input/output error")

    remote = Remote(f"file://{tmp_path}/remote")
    monkeypatch.setattr(verification, "hash_file", broken)
    with pytest.raises(UserError, match="sft:v1 could not be verified: .*Input/output error"):
        push(store, store.resolve("sft:v1"), remote)
    assert remote.names() == []


def test_another_version_of_the_same_name_is_never_overwritten(store, url, tmp_path):
    remote, other = Remote(url), Store(tmp_path / "other")
    publish(other, files={"model/other.json": b"{}"})
    push(store, store.resolve("sft:v1"), remote)
    with pytest.raises(UserError, match="has another sft:v1"):
        push(other, other.resolve("sft:v1"), remote)
    with pytest.raises(UserError, match="has another sft:v1"):
        pull(other, "sft:v1", remote)
    assert not remote.put_manifest("sft", 1, b"{}")


def test_pull_brings_back_what_was_quarantined(store, url, tmp_path):
    remote = Remote(url)
    version = store.resolve("sft:v1")
    push(store, version, remote)
    (version.path / "config.yaml").chmod(0o644)
    (version.path / "config.yaml").write_text("sfx")
    with pytest.raises(UserError, match="sft:v1 is corrupt"):
        push(store, version, Remote(f"{url}/elsewhere"))
    with pytest.raises(UserError, match="quarantined"):
        store.resolve("sft:best")
    pull(store, "sft:v1", remote)
    assert store.resolve("sft:best") == version and verify(store, "sft", 1).whole


def test_two_pulls_at_once(store, url, tmp_path):
    remote, other = Remote(url), Store(tmp_path / "other")
    push(store, store.resolve("sft:v1"), remote)
    pullers = [threading.Thread(target=pull, args=(other, "sft", Remote(url))) for _ in range(2)]
    for puller in pullers:
        puller.start()
    for puller in pullers:
        puller.join()
    assert other.numbers("sft") == [1] and verify(other, "sft", 1).whole


def test_another_hosts_transfer_is_left_alone_while_it_moves(store, tmp_path):
    home = tmp_path / "sft"
    mine = transfer._claim(home, ".incoming-v0001-x-")
    alive = home / ".incoming-v0001-x-00000000.1.abc"
    alive.mkdir()
    transfer._ACTIVE.discard(mine)
    assert transfer._claim(home, ".incoming-v0001-x-").name != alive.name and alive.is_dir() and not mine.exists()
    os.utime(alive, (1, 1))
    transfer._claim(home, ".incoming-v0001-x-")
    assert not alive.exists()


def test_a_version_that_somebody_has_moved_is_refused(store, tmp_path):
    remote = Remote(f"file://{tmp_path}/remote")
    push(store, store.resolve("sft:v1"), remote)
    (tmp_path / "remote" / "sft" / "v0001").rename(tmp_path / "remote" / "sft" / "v0009")
    with pytest.raises(UserError, match="belongs to sft:v1: somebody has moved it"):
        pull(Store(tmp_path / "other"), "sft:v9", remote)


def test_a_manifest_whose_parent_is_no_exact_version_is_refused(store, tmp_path):
    remote = Remote(f"file://{tmp_path}/remote")
    record = {"ref": "pretrain:latest", "digest": "a" * 64, "kind": "artifact"}
    push(store, publish(store, "odd", inputs={"policy": record}), remote)
    with pytest.raises(UserError, match="'pretrain:latest' as an input, which is no exact version"):
        pull(Store(tmp_path / "other"), "odd", remote, lineage=True)


def test_what_is_not_there_and_urls_that_are_none(store, tmp_path, capsys):
    url = f"file://{tmp_path}/remote"
    options = ["--artifacts", str(store.root)]
    assert main(["artifacts", "push", "sft:v1", url, *options]) == 0
    capsys.readouterr()
    for arguments, says in (
        (["pull", "dpo", url], "has no dpo; it has sft"),
        (["pull", "sft:v7", url], "has no sft:v7; of sft it has v1, best (v1)"),
        (["pull", "../x", url], "not an artifact reference"),
        (["push", "sft", "nowhere"], "is no URL"),
        (["push", "sft", "nosuch://x"], "has a protocol nobody here knows"),
        (["push", "sft", "file:///proc/nowhere"], "cannot push sft:v2: file:///proc/nowhere answers"),
    ):
        assert main(["artifacts", *arguments, *options]) == 2, arguments
        err = capsys.readouterr().err
        assert says in err and len(err.splitlines()) == 1, err


def test_quarantine_and_remote_do_not_mix(store, tmp_path):
    finding = verify(store, "sft", 2)
    finding.evidence.append("made up")
    quarantine(store, finding)
    with pytest.raises(UserError, match="Pull it from a remote store"):
        store.resolve("sft:v2")

"""What somebody else has left in a store: it is reported, and nothing else stops working."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from align.artifacts.manifest import Manifest
from align.artifacts.store import Store
from align.artifacts.verification import verify
from align.cli import main
from align.errors import UserError
from tests.artifacts.versions import publish

NOBODY = 65534


@pytest.fixture
def store():
    """sft:v1, sft:v2 and theirs:v1, in a folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="align-foreign-"))
    folder.chmod(0o755)
    store = Store(folder / "store")
    for _ in range(2):
        publish(store, identity="0123456789abcdef", metrics={"eval_loss": 0.5})
    publish(store, "theirs")
    yield store
    shutil.rmtree(folder)


@contextlib.contextmanager
def another_user():
    """A user whom modes keep out; whoever runs the tests, if not root, is one already."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def run(capsys, store, *words):
    status = main(["artifacts", *words, "--artifacts", str(store.root)])
    return status, *capsys.readouterr()


def replaced(file, text=None):
    file.chmod(0o644)
    file.unlink()
    if text is not None:
        file.write_bytes(text)


def rewritten(file, **changes):
    body = json.loads(file.read_text()) | changes
    for name in ("schema", "digest", "checksum"):
        body.pop(name)
    replaced(file, Manifest(**body).to_json().encode())


def nested(levels):
    value = 1.0
    for _ in range(levels):
        value = {"a": value}
    return value


def a_folder(file):
    replaced(file)
    file.mkdir()


def a_pipe(file):
    replaced(file)
    os.mkfifo(file)


def a_loop(file):
    replaced(file)
    file.symlink_to(file)


def an_endless_file(file):
    replaced(file)
    file.symlink_to("/dev/zero")


def too_large(file):
    replaced(file, b"{")
    os.truncate(file, 1 << 40)


def deep_metrics(file):
    text = file.read_text()
    replaced(file, text.replace('"metrics": {}', f'"metrics": {json.dumps(nested(500))}').encode())


def a_file_in_place_of_the_version(file):
    shutil.rmtree(file.parent)
    file.parent.write_text("")


DAMAGE = {
    "missing": (lambda file: replaced(file), "is missing"),
    "a folder": (a_folder, "it is a folder"),
    "a pipe": (a_pipe, "it is not a regular file"),
    "a loop of links": (a_loop, "cannot be read"),
    "an endless file": (an_endless_file, "it is not a regular file"),
    "a terabyte": (too_large, "more than 64000000"),
    "empty": (lambda file: replaced(file, b""), "not JSON"),
    "no text": (lambda file: replaced(file, b"\xff\xfe\x00"), "not JSON"),
    "100,000 brackets": (lambda file: replaced(file, b"[" * 100_000), "nested more than 32 levels"),
    "a number of 5,000 digits": (lambda file: replaced(file, b"9" * 5000), "not JSON"),
    "deep metrics": (deep_metrics, "metrics is nested more than 32 levels"),
    "a list": (lambda file: replaced(file, b"[]"), "not a JSON object"),
    "no version folder": (a_file_in_place_of_the_version, "is missing"),
    "another schema": (lambda file: replaced(file, b'{"schema": 9}'), "use a newer align"),
    "another version": (lambda file: rewritten(file, name="sft"), "belongs to sft:v1"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=list(DAMAGE))
def test_a_version_that_cannot_be_read_is_out_of_the_way(store, capsys, damage, said):
    damage(store.version("theirs", 1).path / "manifest.json")
    check_the_rest(store, capsys, said)


def check_the_rest(store, capsys, said):
    """Everything else in the store works, and what is wrong is said in a sentence."""
    status, out, err = run(capsys, store, "ls")
    assert status == 2 and "sft   v1" in out and "sft   v2" in out
    assert said in err and "Traceback" not in err and len(err.splitlines()) == 1
    status, out, err = run(capsys, store, "ls", "--json")
    assert [row["ref"] for row in json.loads(out)] == ["sft:v1", "sft:v2"] and said in err
    assert [version.ref for version in store.find("0123456789abcdef")] == ["sft:v1", "sft:v2"]
    assert publish(store).number == 3
    status, out, err = run(capsys, store, "gc", "--grace-days", "0", "--apply")
    assert status == 0 and said in err and "removed 2 versions" in out and "Traceback" not in err
    assert store.numbers("sft") == [3] and os.path.lexists(store.root / "theirs" / "v0001")
    with pytest.raises(UserError, match=re.escape(said)):
        store.version("theirs", 1)
    assert run(capsys, store, "lineage", "sft:v3")[0] == 0


def test_a_version_of_another_user(store, capsys):
    store.version("theirs", 1).path.chmod(0o700)
    for path in (store.root, store.root / "sft", *(store.root / "sft").rglob("*"), store.root / ".claims"):
        path.chmod(0o777 if path.is_dir() else 0o644)
    if not os.geteuid():
        os.chown(store.root / "sft" / "v0001", NOBODY, NOBODY)
        os.chown(store.root / "sft" / "v0002", NOBODY, NOBODY)
    else:
        store.version("theirs", 1).path.chmod(0)
    with another_user():
        check_the_rest(store, capsys, "cannot be read (Permission denied)")
    store.root.joinpath("theirs", "v0001").chmod(0o755)


@pytest.mark.parametrize("hidden", ["theirs", "theirs/aliases", "theirs/aliases/latest", "theirs/pins"])
def test_folders_of_another_user(store, capsys, hidden):
    folder = store.root / hidden
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700 if not os.geteuid() else 0)
    with another_user():
        status, out, err = run(capsys, store, "ls")
        assert status == 2 and re.search(r"sft +v2", out) and f"{folder} cannot be read (Permission denied)" in err
        status, out, err = run(capsys, store, "gc", "--grace-days", "0")
        assert status == 0 and f"kept: {folder} cannot be read" in err and "would remove sft:v1" in out
        assert "would remove theirs:v1" not in out
        assert len(store.find("0123456789abcdef")) == 2
    folder.chmod(0o755)


@pytest.mark.parametrize(
    "place", ["theirs/aliases", "theirs/aliases/best", "theirs/pins", "theirs/.removed", ".runs", ".claims", ".index"]
)
def test_files_in_place_of_folders_and_the_reverse(store, capsys, place):
    path = store.root / place
    if path.is_dir():
        shutil.rmtree(path)
    path.mkdir() if place == ".index" else path.write_text("")
    assert run(capsys, store, "ls")[0] == 0
    status, out, err = run(capsys, store, "gc", "--grace-days", "0")
    assert status == 0 and "would remove sft:v1" in out and not err
    assert len(store.find("0123456789abcdef")) == 2 and store.resolve("theirs").number == 1


@pytest.mark.parametrize("entry", [b"", b"[" * 100_000, b"{}\n", b'{"version": "1"}\n', b"\xff\n"])
def test_a_damaged_alias_entry_does_not_count(store, capsys, entry):
    (store.root / "sft" / "aliases" / "latest" / "000009").write_bytes(entry)
    (store.root / "sft" / "aliases" / "latest" / ("9" * 30)).write_bytes(b"")
    os.mkfifo(store.root / "sft" / "aliases" / "latest" / "000010")
    assert store.aliases("sft") == {"latest": 2} and run(capsys, store, "ls")[0] == 0


@pytest.mark.parametrize(
    "note", [b"[" * 100_000, b'{"ref": 1, "digest": null, "why": "corrupt", "when": 1, "who": []}', b""]
)
def test_a_damaged_note_of_a_removal_says_nothing(store, capsys, note):
    folder = store.root / "sft" / ".removed"
    folder.mkdir()
    (folder / "v0007.json").write_bytes(note)
    assert run(capsys, store, "ls")[0] == 0
    with pytest.raises(UserError, match="'sft:v7' does not exist"):
        store.resolve("sft:v7")
    assert publish(store).number == 8


def test_a_manifest_of_a_newer_release_is_not_corrupt(store, capsys):
    """An older align must not quarantine what a newer one has published."""
    file = store.version("theirs", 1).path / "manifest.json"
    replaced(file, file.read_bytes().replace(b'"schema": 1', b'"schema": 2'))
    finding = verify(store, "theirs", 1)
    assert finding.evidence == [] and "has schema 2, this align reads up to 1: use a newer align" in finding.unread[0]
    assert run(capsys, store, "verify", "--all")[0] == 1 and store.numbers("theirs") == [1]


def test_an_index_that_lies_is_not_believed(store):
    """The index may come from whoever writes in the store; what a run publishes is found by the manifests."""
    import hashlib

    body = json.dumps({"sft": {"v0001": [[1, 2, 3], ["no summary"]]}}).encode()
    for text in (body, b"[" * 100_000, b'{"sft": {"v0001": 1}}', b"{}"):
        head = f"align index 2 {hashlib.sha256(text).hexdigest()}\n".encode()
        (store.root / ".index").write_bytes(head + text)
        assert len(store.find("0123456789abcdef")) == 2


def test_a_stage_starts_beside_a_version_that_cannot_be_read(tiny_store, monkeypatch, capsys):
    from align.run import stage
    from tests.conftest import stage_overrides

    foreign = tiny_store / "theirs" / "v0001"
    (foreign / "manifest.json").mkdir(parents=True)
    reached = []
    monkeypatch.setattr(stage, "preflight", lambda plan: reached.append(plan) or (_ for _ in ()).throw(UserError("x")))
    assert stage.main(stage_overrides(tiny_store, "stage=dpo")) == 2 and reached
    assert capsys.readouterr().err == "error: x\n"

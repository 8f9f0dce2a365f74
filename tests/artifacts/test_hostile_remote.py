"""A remote store that lies: nothing of it is believed that a hash or the file itself does not confirm."""

import json
import os
from types import SimpleNamespace

import pytest

from align.artifacts import transfer
from align.artifacts.manifest import Manifest
from align.artifacts.remote import Remote
from align.artifacts.store import Store
from align.artifacts.transfer import pull, push
from align.cli import main
from align.errors import UserError
from tests.artifacts.versions import publish


def quiet(line):
    pass


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def remote(tmp_path):
    """A remote store with pretrain:v1 and sft:v1, made from it."""
    other = Store(tmp_path / "other")
    base = publish(other, "pretrain")
    record = {"ref": base.ref, "digest": base.digest, "kind": "artifact"}
    version = publish(other, files={"model/a.json": b"{}" * 50, "config.yaml": b"x"}, inputs={"policy": record})
    remote = Remote(f"file://{tmp_path}/remote")
    push(other, version, remote, lineage=True, say=quiet)
    return remote


def rewrite(tmp_path, change, name="sft"):
    """The manifest there, changed, with digest and checksum as they should be."""
    file = tmp_path / "remote" / name / "v0001" / "manifest.json"
    body = json.loads(file.read_text())
    for field in ("schema", "digest", "checksum"):
        body.pop(field)
    change(body)
    file.chmod(0o644)
    try:
        text = Manifest(**body).to_json()
    except ValueError:  # what this program would not write
        text = json.dumps({"schema": 1, "digest": "0" * 64, **body})
    file.write_text(text)


@pytest.mark.parametrize("size", [10**15, 101, 99, 0])
def test_a_size_that_is_a_lie_is_refused_before_anything_is_fetched(store, remote, tmp_path, size, monkeypatch):
    rewrite(tmp_path, lambda body: body["files"]["model/a.json"].update(size=size))
    monkeypatch.setattr(transfer, "_fetch", lambda *given: pytest.fail("it was fetched"))
    with pytest.raises(UserError, match=f"model/a.json of sft:v1 has 100 bytes .* and its manifest says {size}"):
        pull(store, "sft:v1", remote, say=quiet)
    assert store.numbers("sft") == []


def test_a_size_that_only_the_remote_store_confirms_is_refused(store, remote, tmp_path, monkeypatch):
    """The listing lies as the manifest does; the bytes that arrive do not."""
    rewrite(tmp_path, lambda body: body["files"]["model/a.json"].update(size=101))
    monkeypatch.setattr(Remote, "blob_size", lambda self, entry: entry["size"])
    with pytest.raises(UserError, match="arrived with another hash or size than its manifest has"):
        pull(store, "sft:v1", remote, say=quiet)
    assert store.numbers("sft") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body["files"]["model/a.json"].update(size=-1), "is damaged: files"),
        (lambda body: body["files"]["model/a.json"].update(size=1 << 70), "is damaged: files"),
        (lambda body: body["files"]["model/a.json"].update(size=True), "is damaged: files"),
        (lambda body: body["files"].update({"manifest.json": body["files"]["config.yaml"]}), "the manifest itself"),
        (lambda body: body["files"].update({"Manifest.JSON": body["files"]["config.yaml"]}), "the manifest itself"),
        (lambda body: body["files"].update({"model": body["files"]["config.yaml"]}), "is a file and the folder of"),
        (lambda body: body.update(adapter={"base": "pretrain:v1"}), r"adapter\['base'\] is 'pretrain:v1'"),
        (lambda body: body.update(adapter={"base": {"ref": "a:v1", "digest": "0"}}), r"adapter\['base'\] is"),
        (lambda body: body["inputs"]["policy"].update(kind=["artifact"]), r"inputs\['policy'\] is"),
        (lambda body: body["notes"].update(findings={"x": 1}), r"notes\['findings'\] is"),
        (lambda body: body["notes"].update(tokenizer=["x"]), r"notes\['tokenizer'\] is"),
        (lambda body: body["inputs"]["policy"].update(files=3), r"inputs\['policy'\] is"),
    ],
)
def test_a_manifest_that_no_run_writes_is_refused(store, remote, tmp_path, change, said):
    rewrite(tmp_path, change)
    with pytest.raises(UserError, match=said):
        pull(store, "sft:v1", remote, say=quiet)
    assert store.numbers("sft") == []


def test_a_manifest_of_a_terabyte_is_not_read(store, remote, tmp_path):
    file = tmp_path / "remote" / "sft" / "v0001" / "manifest.json"
    file.chmod(0o644)
    os.truncate(file, 1 << 40)
    with pytest.raises(UserError, match="has 1099511627776 bytes, which no manifest has"):
        pull(store, "sft:v1", remote, say=quiet)


def test_what_does_not_fit_is_refused_before_it_is_fetched(store, remote, monkeypatch):
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda place: SimpleNamespace(free=50))
    with pytest.raises(UserError, match="sft:v1 needs 101 B and the disk of .* has 50 B free"):
        pull(store, "sft:v1", remote, say=quiet)


def test_names_that_only_look_like_versions_are_passed_over(store, remote, tmp_path):
    for name in ("v²", "v١", "v" + "9" * 100, "vv0001", "v1"):
        (tmp_path / "remote" / "sft" / name).mkdir()
    (tmp_path / "remote" / "sft" / "aliases" / "latest" / "²").write_text("")
    (tmp_path / "remote" / "sft" / "aliases" / "latest" / "000009").write_text("[" * 100_000)
    assert remote.numbers("sft") == [1] and remote.aliases("sft") == {"latest": 1}
    assert pull(store, "sft", remote, say=quiet).ref == "sft:v1"


# -- lineage ---------------------------------------------------------------------------------------------------------


class Chain:
    """A remote store of versions `a:v1`, `a:v2`, ... whose parents are given, and no files."""

    url = "memory://chain"

    def __init__(self, parents):
        self.parents = parents
        self.asked = 0

    def manifest(self, name, number):
        self.asked += 1
        if number not in self.parents:
            return None
        records = [{"ref": f"a:v{parent}", "digest": "0", "kind": "artifact"} for parent in self.parents[number]]
        return b"", Manifest("a", number, "model", {}, inputs={"policy": records})


def order(parents, start):
    chain = Chain(parents)
    refs = transfer._remote_ancestors(chain, transfer._exact(f"a:v{start}"))
    return [ref.version for ref in refs], chain.asked


@pytest.mark.parametrize("parents", [{1: [1]}, {1: [2], 2: [1]}, {1: [2], 2: [3, 4], 4: [2], 3: []}])
def test_a_version_made_from_itself_is_refused(parents):
    with pytest.raises(UserError, match="memory://chain is damaged: a version was made from itself .*a:v. -> a:v"):
        order(parents, 1)


def test_a_cycle_in_a_real_store(store, remote, tmp_path, capsys):
    record = {"ref": "sft:v1", "digest": "0" * 64, "kind": "artifact"}
    rewrite(tmp_path, lambda body: body.update(inputs={"policy": record}), "pretrain")
    words = ["artifacts", "pull", "sft:v1", f"file://{tmp_path}/remote", "--artifacts", str(store.root)]
    assert main([*words, "--lineage"]) == 2
    assert "made from itself (sft:v1 -> pretrain:v1 -> sft:v1); pull without --lineage" in capsys.readouterr().err
    assert main(words) == 0


def test_parents_come_first_each_once_however_deep():
    deep = {number: [number + 1] for number in range(1, 3000)}
    found, asked = order(deep, 1)
    assert found == list(range(2999, 1, -1)) and asked == 3000
    # a ladder of diamonds has 2^40 paths
    ladder = {number: [number + 1, number + 2] for number in range(1, 40)}
    found, asked = order(ladder | {40: [], 41: []}, 1)
    assert len(found) == 40 and asked < 200 and found[-1] == 2


def test_a_parent_that_is_not_exact_is_refused():
    chain = Chain({1: []})
    chain.manifest = lambda name, number: (
        b"",
        Manifest("a", 1, "model", {}, inputs={"policy": {"ref": "a:latest", "digest": "0", "kind": "artifact"}}),
    )
    with pytest.raises(UserError, match="names 'a:latest' as an input, which is no exact version"):
        transfer._remote_ancestors(chain, transfer._exact("a:v1"))


# -- what is here already --------------------------------------------------------------------------------------------


def test_a_corrupt_version_here_is_fetched_again(store, remote):
    version = pull(store, "sft:v1", remote, say=quiet)
    file = version.path / "model" / "a.json"
    file.chmod(0o644)
    file.write_bytes(b"[]" * 50)
    said = []
    again = pull(store, "sft:v1", remote, say=said.append)
    assert (again.path / "model" / "a.json").read_bytes() == b"{}" * 50
    assert "was corrupt (model/a.json has blake3" in said[0] and "and fetched again" in said[0]
    assert (store.root / "sft" / ".quarantine" / "v0001").is_dir()


def test_bases_that_are_adapters_of_each_other_are_refused(store):
    from align.artifacts.bases import resolve_base
    from align.artifacts.inputs import resolve_input
    from align.artifacts.verification import verify_input

    config = json.dumps({"base_model_name_or_path": "x"}).encode()
    first = publish(store, "one", {"model/adapter_config.json": config})
    record = {"ref": "one:v1", "digest": first.digest, "kind": "artifact"}
    publish(store, "two", {"model/adapter_config.json": config + b" "}, adapter={"kind": "lora", "base": record})
    other = store.resolve("two")
    file = first.path / "manifest.json"
    body = json.loads(file.read_text())
    for field in ("schema", "digest", "checksum"):
        body.pop(field)
    body["adapter"] = {"base": {"ref": "two:v1", "digest": other.digest, "kind": "artifact"}}
    file.chmod(0o644)
    file.write_text(Manifest(**body).to_json())
    verify_input(store, resolve_input(store, "one:v1"))
    with pytest.raises(UserError, match="is an adapter on two:v1, which is an adapter itself"):
        resolve_base(store.resolve("one").model_dir)

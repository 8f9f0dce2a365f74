"""Versions that were pulled and whose manifests, configs and metrics say what no run writes: a sentence, at once."""

import json

import pytest

from align.artifacts.config_file import read_settings
from align.artifacts.lineage import DEEPEST, lineage, tree
from align.artifacts.manifest import Manifest
from align.artifacts.store import Store
from align.cli import main
from tests.artifacts.versions import publish

ADAPTERS = [{}, {"kind": "lora"}, {"kind": 1, "base": {"ref": "a:v1", "digest": "0", "kind": "artifact"}}]
BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} {{{', '.join(f'k{key}: *a{level - 1}' for key in range(9))}}}\n" for level in range(1, 9)
)
CONFIGS = {
    "a bomb of aliases": BOMB.encode(),
    "itself": b"a: &a {b: *a}\n",
    "a date": b"a: 2020-01-01\n",
    "a set": b"a: !!set {b, c}\n",
    "an object": b"a: !!python/object/apply:os.getcwd []\n",
    "a number of 5,000 digits": b"a: " + b"9" * 5000,
    "no text": b"a: \xff\xfe",
    "2 MB": b"a: " + b"x" * 2_000_000,
    "10,000 brackets": b"[" * 10_000,
    "a list": b"[1]",
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def parent(version):
    return {"ref": version.ref, "digest": version.digest, "kind": "artifact"}


def forge(version, **changes):
    file = version.path / "manifest.json"
    body = json.loads(file.read_text()) | changes
    for name in ("schema", "digest", "checksum"):
        body.pop(name)
    file.chmod(0o644)
    file.write_text(Manifest(**body).to_json())


def align(store, capsys, *words):
    status = main([*words, "--artifacts", str(store.root)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return status, out, err


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
def test_an_adapter_without_a_base_is_no_manifest(store, adapter):
    with pytest.raises(ValueError, match=r"adapter\['(base|kind)'\] is"):
        forge(publish(store), adapter=adapter)


def test_models_made_from_each_other_are_exported(store, tmp_path, capsys):
    """The digest is of the files alone, so whoever writes in a store can make a circle."""
    one, two = publish(store), publish(store, files={"model/config.json": b"{}"})
    forge(one, inputs={"policy": parent(two)})
    forge(two, inputs={"policy": parent(one)})
    assert align(store, capsys, "artifacts", "export", one.ref, str(tmp_path / "out"))[0] == 0


def test_a_deep_lineage_is_shown_to_a_depth(store, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    version = publish(store, files={"0.json": b"{}"})
    for number in range(1, 2 * DEEPEST + 1):
        version = publish(store, files={f"{number}.json": b"{}"}, inputs={"policy": parent(version)})
    lines = tree(lineage(store, version)).splitlines()
    assert len(lines) == DEEPEST + 1
    assert lines[-1].endswith(f"(and what it was made from: align artifacts lineage sft:v{DEEPEST + 1})")
    for words in (["lineage", "--json", "sft"], ["export", "sft", str(tmp_path / "out")]):
        assert align(store, capsys, "artifacts", *words)[0] == 0


def test_a_config_that_no_run_writes_is_no_config(store, tmp_path, capsys):
    other = publish(store)
    for content in CONFIGS.values():
        version = publish(store, "odd", {"config.yaml": content})
        for words in (["artifacts", "diff", "--json"], ["artifacts", "diff"], ["runs", "compare"]):
            assert align(store, capsys, *words, version.ref, other.ref)[0] == 0
        folder = str(tmp_path / str(version.number))
        assert align(store, capsys, "artifacts", "export", version.ref, folder)[0] == 0
    assert read_settings(b"a: {b: [1, null]}\n1: {2: x}") == {"a": {"b": [1, None]}, 1: {2: "x"}}


def test_metrics_of_hundreds_of_digits_are_none(store, capsys):
    rows = [b'{"step": 1, "a": 1%b}' % (b"0" * 400), b'{"step": 9%b, "b": 1}' % (b"9" * 400), b'{"step": 2, "c": 1}']
    one = publish(store, "one", {"metrics.jsonl": b"\n".join(rows) + b"\n"}, metrics={"a": 10**400})
    two = publish(store, "two", metrics={"a": 10**401})
    assert align(store, capsys, "runs", "show", one.ref, "--metric", "*")[0] == 0
    assert align(store, capsys, "artifacts", "diff", one.ref, two.ref)[0] == 0


def test_a_format_that_is_none_is_refused(store, capsys):
    version = publish(store, "prefs", {"records/train.jsonl": b"{}\n"}, type="dataset", format="x")
    status, _, err = align(store, capsys, "data", "check", version.ref)
    assert status == 2 and "prefs:v1 has rows of an unknown format, 'x'" in err

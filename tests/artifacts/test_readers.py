"""Every reader of a version's files verifies them: nothing is made from an altered version under its digest."""

import ast
import json
from pathlib import Path

import pytest

import align
from align.artifacts.store import Store
from align.artifacts.transfer import push
from align.artifacts.verification import check_version, open_input, open_version, read_file
from align.cli import main
from align.errors import UserError
from tests.artifacts.versions import publish

PACKAGE = Path(align.__file__).parent
# Outside of align.artifacts these resolve a version without opening its files, or verify it later.
RESOLVES_ONLY = {
    "run/plan.py": "the preflight of a run verifies every input of the plan before data are read",
    "run/nodes.py": "the inputs that the main process has verified, found on another node of the same store",
    "runs/record.py": "a run is found by the identity in the manifest of what it published",
}
PAIRS = [{"prompt": f"{number} + 1?", "chosen": f"{number + 1}", "rejected": "no"} for number in range(40)]
ROWS = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    publish(store, "prefs", {"records/train.jsonl": ROWS}, type="dataset", format="preference")
    return store


def alter(file, old=b'"no"', new=b'"NO"'):
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(old, new, 1))


@pytest.mark.parametrize(
    "command",
    [
        ["data", "make", "prefs:v1", "--name", "mixed"],
        ["data", "check", "prefs:v1"],
        ["data", "show", "prefs:v1", "--model", "tok:v1", "--stage", "dpo"],
        ["artifacts", "export", "prefs:v1", "{folder}/out"],
        ["artifacts", "push", "prefs:v1", "file://{folder}/remote"],
    ],
    ids=lambda words: words[1],
)
def test_a_command_refuses_altered_rows(store, tmp_path, capsys, command):
    publish(store, "tok", {"model/tokenizer.json": _tokenizer()})
    alter(store.version("prefs", 1).path / "records" / "train.jsonl")
    words = [word.format(folder=tmp_path) for word in command]
    assert main([*words, "--artifacts", str(store.root)]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("error: prefs:v1 is corrupt and was quarantined") and len(err.splitlines()) == 1
    assert store.names() == ["tok"] and not (tmp_path / "remote" / "prefs").exists()


def _tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).to_str().encode()


def test_a_tokenizer_is_verified_before_it_is_loaded(store, capsys):
    publish(store, "tok", {"model/tokenizer.json": _tokenizer()})
    alter(store.version("tok", 1).path / "model" / "tokenizer.json", b'"a"', b'"b"')
    words = ["data", "show", "prefs:v1", "--model", "tok:v1", "--artifacts", str(store.root)]
    assert main(words) == 2
    assert "tok:v1 is corrupt and was quarantined" in capsys.readouterr().err


def test_a_version_that_is_whole_opens(store):
    assert open_version(store, "prefs").ref == open_input(store, "prefs").ref == "prefs:v1"
    with pytest.raises(UserError, match="'nothing:latest' is not in the store"):
        open_version(store, "nothing")


def test_a_version_that_was_replaced_after_it_was_resolved_is_refused(store):
    resolved = store.resolve("prefs")
    resolved.path.rename(store.root / "prefs" / ".trash-x")
    other = publish(store, "prefs", {"records/train.jsonl": ROWS + ROWS}, type="dataset", format="preference")
    other.path.rename(resolved.path)
    manifest = other.manifest.to_json().replace('"version": 2', '"version": 1')
    _rewrite(resolved.path / "manifest.json", manifest)
    with pytest.raises(UserError, match="prefs:v1 was replaced by another version while this command ran"):
        check_version(store, resolved)


def _rewrite(file, text):
    from align.artifacts.manifest import Manifest

    body = json.loads(text)
    for name in ("schema", "digest", "checksum"):
        body.pop(name, None)
    file.chmod(0o644)
    file.write_text(Manifest(**body).to_json())


def test_one_small_file_is_verified_alone(store):
    version = publish(store)
    assert read_file(version, "config.yaml") == b"stage: sft\n"
    with pytest.raises(UserError, match="sft:v1 holds no other.yaml"):
        read_file(version, "other.yaml")
    alter(version.path / "config.yaml", b"sft", b"dpo")
    with pytest.raises(UserError, match="config.yaml is not what was published; run: align artifacts verify sft:v1"):
        read_file(version, "config.yaml")
    (version.path / "config.yaml").unlink()
    with pytest.raises(UserError, match="config.yaml cannot be read"):
        read_file(version, "config.yaml")


def test_diff_does_not_compare_an_altered_config(store, capsys):
    first, _ = publish(store), publish(store)
    alter(first.path / "config.yaml", b"sft", b"dpo")
    assert main(["artifacts", "diff", "sft:v1", "sft:v2", "--artifacts", str(store.root)]) == 2
    assert "config.yaml is not what was published" in capsys.readouterr().err


def test_large_versions_are_pushed_only_after_every_file_was_hashed(store, tmp_path, monkeypatch):
    """Transfers never sample: what a remote store has vouches for every byte."""
    from align.artifacts import verification
    from align.artifacts.remote import Remote

    monkeypatch.setattr(verification, "_SMALL", 100)
    monkeypatch.setattr(verification.random, "choice", lambda large: large[-1])
    files = {f"model/{number}.json": b" " * (500 + number) for number in range(9)}
    version = publish(store, files=files)
    alter(version.path / "model" / "8.json", b"  ", b" \n")
    monkeypatch.setitem(check_version.__kwdefaults__, "below_gb", 1e-9)
    with pytest.raises(UserError, match="sft:v1 is corrupt"):
        push(store, version, Remote(f"file://{tmp_path}/remote"), say=lambda line: None)


def test_nothing_else_resolves_a_version_without_verifying_it():
    """A new reader calls open_version or open_input; one that only names versions is listed above, with its reason."""
    for file in sorted(PACKAGE.rglob("*.py")):
        inside = file.relative_to(PACKAGE).as_posix()
        if inside.startswith("artifacts/") or inside in RESOLVES_ONLY:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called != "resolve_input" and not called.endswith("store.resolve"), f"{inside}:{node.lineno}"

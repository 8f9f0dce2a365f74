"""What leaves the store for people's eyes: differences, and exports with a card."""

import json
import os

import pytest

from align.artifacts import disk, verification
from align.artifacts.store import Store
from align.cli import main


@pytest.fixture
def store(tmp_path):
    """pretrain:v1 -> dpo:v1 and v2, which differ in one of everything."""
    store = Store(tmp_path / "store")

    def publish(name, config, **facts):
        folder = store.stage(name)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        (folder / "model" / "tokenizer.json").write_text(f'"{config}"')
        (folder / "config.yaml").write_text(config)
        return store.publish(folder, name=name, type="model", ended="2026-11-21T10:20:30Z", **facts)

    base = {"ref": "hf:org/base@" + "a" * 40, "digest": "a" * 64, "kind": "hub"}
    texts = {"ref": "hf:org/texts@" + "b" * 40, "digest": "b" * 64}
    inputs = {"policy": base, "data.language_modeling": texts}
    parent = publish("pretrain", "stage: pretrain\n", inputs=inputs)
    policy = {"ref": parent.ref, "digest": parent.digest, "kind": "artifact", "type": "model"}
    for beta, trl, data in ((0.1, "1.16.0", "b"), (0.3, "1.17.0", "c")):
        publish(
            "dpo",
            f"stage: dpo\ntrainer:\n  beta: {beta}\n  seed: 1\n",
            inputs={"policy": policy, "data.preference": {"ref": "pairs.jsonl", "digest": data * 64}},
            packages={"trl": trl, "torch": "2.13.0"},
            metrics={"eval_loss": 0.5 - beta, "evil|": "\x1b[31m"},
        )
    return store


def run(capsys, store, *arguments):
    status = main(["artifacts", *arguments, "--artifacts", str(store.root)])
    return status, *capsys.readouterr()


def test_diff(store, capsys):
    status, out, _ = run(capsys, store, "diff", "dpo:v1", "dpo:v2")
    digests = [store.resolve(f"dpo:v{n}").manifest.files for n in (1, 2)]
    assert status == 0
    assert out.splitlines() == [
        "dpo:v1  ->  dpo:v2",
        "config:",
        "  trainer/beta  0.1 -> 0.3  (+0.2)",
        "data:",
        f"  data.preference  pairs.jsonl {'b' * 12} -> pairs.jsonl {'c' * 12}",
        "packages:",
        "  trl  1.16.0 -> 1.17.0",
        "metrics:",
        "  eval_loss  0.4 -> 0.2  (-0.2)",
        "files:",
        *(
            f"  {path:<20}  {digests[0][path]['size']} bytes {digests[0][path]['blake3'][:12]} -> "
            f"{digests[1][path]['size']} bytes {digests[1][path]['blake3'][:12]}"
            for path in ("config.yaml", "model/tokenizer.json")
        ),
    ]
    assert json.loads(run(capsys, store, "diff", "dpo:v1", "dpo:v2", "--json")[1])["config"] == {
        "trainer/beta": [0.1, 0.3]
    }
    assert run(capsys, store, "diff", "dpo:v1", "dpo:v1")[1] == "dpo:v1  ->  dpo:v1\nno difference\n"
    out = run(capsys, store, "diff", "pretrain", "dpo")[1]
    assert (
        "  data.preference         - -> pairs.jsonl" in out
        and f"policy  hf:org/base@{'a' * 40}" in out
        and "\x1b" not in out
    )


def test_export(store, capsys, tmp_path):
    target = tmp_path / "out" / "dpo"
    status, out, _ = run(capsys, store, "export", "dpo:v1", str(target))
    assert status == 0 and out == f"exported dpo:v1 to {target}\n"
    assert sorted(os.listdir(target)) == ["README.md", "config.json", "tokenizer.json"]
    assert os.access(target / "config.json", os.W_OK) and (target / "config.json").read_text() == "{}"
    card = (target / "README.md").read_text()
    for wanted in (
        'library_name: "transformers"',
        'base_model: "org/base"',
        'datasets: ["org/texts"]',
        "# dpo:v1",
        store.resolve("dpo:v1").digest,
        "├─ policy: hf:org/base@",
        "| eval_loss | 0.4 |",
        "| trl | 1.16.0 |",
        "  beta: 0.1",
        r"| evil\| | \x1b[31m |",
    ):
        assert wanted in card, wanted
    status, _, err = run(capsys, store, "export", "dpo:v1", str(target))
    assert status == 2 and "is not an empty folder; name a new one" in err
    assert 'base_model: "org/base"' in (
        run(capsys, store, "export", "pretrain", str(tmp_path / "base"))
        and (tmp_path / "base" / "README.md").read_text()
    )


def test_export_verifies(store, capsys, tmp_path):
    file = store.resolve("dpo:v1").path / "model" / "config.json"
    file.chmod(0o644)
    file.write_text("{ }")
    status, _, err = run(capsys, store, "export", "dpo:v1", str(tmp_path / "out"))
    assert status == 2 and "model/config.json has 3 bytes, 2 were published" in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("shares", [True, False])
def test_a_copy_shares_its_blocks_where_the_file_system_can(tmp_path, monkeypatch, shares):
    asked = []

    def ioctl(new, request, old):
        asked.append((os.readlink(f"/proc/self/fd/{new}"), request, os.readlink(f"/proc/self/fd/{old}")))
        if not shares:
            raise OSError(95, "Operation not supported")

    monkeypatch.setattr(disk.fcntl, "ioctl", ioctl)
    (tmp_path / "old").write_text("text")
    disk.clone_file(tmp_path / "old", tmp_path / "new")
    assert asked == [(str(tmp_path / "new"), 0x40049409, str(tmp_path / "old"))]  # FICLONE, linux/fs.h
    assert (tmp_path / "new").read_text() == ("" if shares else "text")  # no byte is copied beside


def test_what_cannot_be_read_is_not_exported(store, capsys, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verification, "hash_file", broken)
    status, _, err = run(capsys, store, "export", "dpo:v1", str(tmp_path / "out"))
    assert status == 2 and "dpo:v1 could not be verified: " in err and not (tmp_path / "out").exists()


def test_an_exported_model_loads_without_align(tiny_store, capsys, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(capsys, Store(tiny_store), "export", "sft", str(tmp_path / "sft"))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "sft").num_parameters() > 1000
    assert AutoTokenizer.from_pretrained(tmp_path / "sft").chat_template

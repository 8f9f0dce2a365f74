"""`align artifacts ...` as a person meets it."""

import json
import os
import subprocess
import sys

import pytest

from align.artifacts.store import Store
from align.artifacts.text import human_size, printable, shorten, table
from align.cli import main


@pytest.fixture
def store(tmp_path):
    """pretrain:v1 -> sft:v1, v2; dpo:v1 from sft:v2 twice, a hub model and a data file."""
    store = Store(tmp_path / "store")

    def publish(name, inputs=None, **facts):
        folder = store.stage(name)
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(f'"{name} {len(store.numbers(name))}"')
        facts = {"type": "model", "ended": "2026-11-21T10:20:30Z"} | facts
        return store.publish(folder, name=name, inputs=inputs or {}, **facts)

    def record(version):
        return {"ref": version.ref, "digest": version.digest, "kind": "artifact", "type": version.manifest.type}

    corpus = {"ref": "corpus", "digest": "c" * 64, "kind": "data", "files": ["data/corpus.jsonl", "data/more.jsonl"]}
    base = publish("pretrain", {"dataset": corpus})
    publish("sft", {"policy": record(base)})
    sft = publish("sft", {"policy": record(base)}, metrics={"eval_loss": 1.234567, "train_runtime": 3.0, "epoch": 1})
    hub = {"ref": "hf:org/judge@" + "e" * 40, "digest": "e" * 64, "kind": "hub"}
    gone = {"ref": "reward:v9", "digest": "f" * 64, "kind": "artifact", "type": "reward_model"}
    publish(
        "dpo",
        {"policy": record(sft), "ref_model": record(sft), "reward_model": gone, "baseline": [hub]},
        metrics={"rewards/accuracies": 0.91},
        seed=0,
        git_commit="abc123",
        packages={"trl": "1.16.0"},
        notes={"evil": "\x1b[31mred"},
    )
    return store


def run(capsys, *arguments):
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_ls(store, capsys):
    status, out, err = run(capsys, "artifacts", "ls", "--artifacts", str(store.root))
    lines = out.splitlines()
    assert status == 0 and err == ""
    assert lines[0].split() == ["NAME", "VERSION", "ALIASES", "TYPE", "SIZE", "CREATED", "(UTC)", "METRICS", "PARENTS"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["dpo", "v1"],
        ["pretrain", "v1"],
        ["sft", "v1"],
        ["sft", "v2"],
    ]
    assert "rewards/accuracies=0.91" in lines[1] and f"sft:v2, reward:v9, hf:org/judge@{'e' * 40}" in lines[1]
    assert "latest" in lines[4] and "latest" not in lines[3]
    assert "eval_loss=1.235" in lines[4] and "runtime" not in out


def test_ls_json(store, capsys):
    status, out, _ = run(capsys, "--artifacts", str(store.root), "artifacts", "ls", "--json")
    rows = json.loads(out)
    assert status == 0 and [row["ref"] for row in rows] == ["dpo:v1", "pretrain:v1", "sft:v1", "sft:v2"]
    assert rows[3]["aliases"] == ["latest"] and rows[3]["metrics"]["eval_loss"] == 1.234567


def test_ls_of_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ALIGN_ARTIFACTS", str(tmp_path / "none"))
    status, out, _ = run(capsys, "artifacts", "ls")
    assert status == 0 and out.startswith(f"no artifacts in {tmp_path / 'none'} yet")


def test_ls_shows_the_others_beside_a_damaged_one(store, capsys):
    manifest = store.root / "sft" / "v0001" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    status, out, err = run(capsys, "artifacts", "ls", "--artifacts", str(store.root))
    assert status == 2 and len(out.splitlines()) == 4
    assert err.startswith(f"error: {manifest} is damaged") and len(err.splitlines()) == 1


def test_show(store, capsys):
    status, out, _ = run(capsys, "artifacts", "show", "dpo", "--artifacts", str(store.root))
    assert status == 0
    digest = store.resolve("dpo").digest
    for wanted in (
        "dpo:v1\n",
        "latest",
        digest,
        "policy, ref_model ",
        "0.91",
        "model/config.json",
        "trl",
        "abc123",
        "2026-11-21",
    ):
        assert wanted in out, wanted
    assert "seed        0" in out and "\x1b" not in out and r"\x1b[31mred" in out


def test_show_json(store, capsys):
    _, out, _ = run(capsys, "artifacts", "show", "dpo:v1", "--json", "--artifacts", str(store.root))
    shown = json.loads(out)
    assert shown["ref"] == "dpo:v1" and shown["files"] and shown["path"].endswith("v0001")


def test_lineage(store, capsys):
    status, out, _ = run(capsys, "artifacts", "lineage", "dpo", "--artifacts", str(store.root))
    short = {ref: store.resolve(ref).digest[:12] for ref in ("dpo:v1", "sft:v2", "pretrain:v1")}
    assert status == 0
    assert out.splitlines() == [
        f"dpo:v1  model  {short['dpo:v1']}  2026-11-21 10:20  rewards/accuracies=0.91",
        f"├─ policy, ref_model: sft:v2  model  {short['sft:v2']}  2026-11-21 10:20  eval_loss=1.235",
        f"│  └─ policy: pretrain:v1  model  {short['pretrain:v1']}  2026-11-21 10:20",
        f"│     └─ dataset: corpus  {'c' * 12}",
        "│        ├─ data/corpus.jsonl",
        "│        └─ data/more.jsonl",
        f"├─ reward_model: reward:v9  reward_model  {'f' * 12}  (no longer in this store, or not what it was)",
        f"└─ baseline: hf:org/judge@{'e' * 40}  {'e' * 12}",
    ]


def test_lineage_json(store, capsys):
    _, out, _ = run(capsys, "artifacts", "lineage", "dpo", "--json", "--artifacts", str(store.root))
    tree = json.loads(out)
    assert tree["ref"] == "dpo:v1" and tree["parents"][0]["role"] == "policy"
    assert tree["parents"][0]["roles"] == ["policy", "ref_model"]
    assert tree["parents"][0]["parents"][0]["parents"][0]["files"] == ["data/corpus.jsonl", "data/more.jsonl"]


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("reward", "error: artifact 'reward:latest' is not in the store"),
        ("dpo:v3", "error: artifact 'dpo:v3' does not exist; dpo has v1"),
        ("../x", "error: '../x' is not an artifact reference"),
    ],
)
def test_mistakes_are_one_sentence(store, capsys, ref, says):
    status, out, err = run(capsys, "artifacts", "show", ref, "--artifacts", str(store.root))
    assert status == 2 and out == "" and err.startswith(says) and len(err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["artifacts"], ["artifcats"], ["artifacts", "show"]])
def test_a_command_line_that_is_none(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: align" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out.startswith("align ")


def test_a_bug_keeps_its_traceback(store, monkeypatch):
    monkeypatch.setattr(Store, "resolve", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["artifacts", "show", "dpo", "--artifacts", str(store.root)])


def test_help_imports_little():
    code = (
        "import sys, align.cli\n"
        "try: align.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "artifacts" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"torch", "transformers", "trl", "huggingface_hub", "numpy", "hydra", "omegaconf", "json"}


def test_a_reader_that_leaves_is_no_error(store):
    for _ in range(40):
        folder = store.stage("many")
        (folder / "a.json").write_text("{}" * 9)
        store.publish(folder, name="many", type="report", metrics={"gold": 0.5}, notes={"long": "x" * 4000})
    command = [sys.executable, "-m", "align.cli", "artifacts", "ls", "--json", "--artifacts", str(store.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.read(process.stdout.fileno(), 10)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0


def test_pieces_of_a_table():
    assert table(["A", "N"], [["x", "10"], ["long", "5"]], right=["N"]) == "A      N\nx     10\nlong   5"
    assert [human_size(size) for size in (0, 999, 1000, 999_960, 2_500_000_000)] == (
        ["0 B", "999 B", "1.0 kB", "1.0 MB", "2.5 GB"]
    )
    assert [human_size(size) for size in (0.4, 1e12, 78_400_000, 5e15)] == ["0 B", "1.0 TB", "78.4 MB", "5.0 PB"]
    assert (shorten("abcdefgh", 8), shorten("abcdefgh", 5)) == ("abcdefgh", "ab…gh")
    assert printable("a\nb") == r"a\x0ab"

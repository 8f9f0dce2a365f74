"""`align data import`: what becomes of every row, and a dataset that stages can use."""

import hashlib
import json
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.config.compose import compose
from align.data.loading.load import load_artifact
from align.data.readers.read import read_rows
from align.errors import UserError
from align.records import prompt_key
from align.run.plan import make_plan
from align.run.preflight import preflight
from tests.data.data_command import read_lines, rows_of, run

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/data/{name} is not on this machine")
    return str(path)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def pairs(count, **changes):
    rows = [
        {"prompt": f"question {i}", "chosen": f"a good answer to {i}", "rejected": f"bad {i}"} for i in range(count)
    ]
    for number, change in changes.items():
        rows[int(number[1:])] |= change
    return rows


def test_a_set_is_published_with_every_row_accounted_for(tmp_path, root, capsys):
    file = write(tmp_path / "pairs.jsonl", pairs(100, _3={"chosen": ""}, _5={"rejected": "a good answer to 5"}))
    status, out, err = run(capsys, root, "import", file, "--name", "mine")
    assert (status, err) == (0, "")
    assert "rows       100 in = 98 used + 2 refused" in out and "published mine:v1" in out
    version = Store(root).resolve("mine")
    manifest = version.manifest
    assert (manifest.type, manifest.format) == ("dataset", "preference")
    assert manifest.inputs["sources"] == [
        {
            "ref": "pairs.jsonl",
            "digest": hashlib.sha256(file.read_bytes()).hexdigest(),
            "kind": "data",
            "size": file.stat().st_size,
        }
    ]
    notes = manifest.notes
    assert notes["rows_in"] == 100 == notes["rows_used"] + sum(notes["rows_refused"].values())
    assert notes["rows_refused"] == {"chosen is empty": 1, "rejected is the same as chosen": 1}
    train, held = (rows_of(version, split) for split in ("train", "eval"))
    assert len(train) + len(held) == 98 and 0 < len(held) < 20
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    assert {row["id"] for row in train + held} == {f"pairs.jsonl:{i}" for i in range(100) if i not in (3, 5)}
    report = json.loads((version.path / "report.json").read_text("utf-8"))
    assert report["rows_refused"] == 2 and report["refused"]["chosen is empty"]["rows"] == ["3"]
    assert (version.path / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_the_same_again_is_nothing_to_do_and_any_change_is_a_new_version(tmp_path, root, capsys):
    file = write(tmp_path / "pairs.jsonl", pairs(50))
    run(capsys, root, "import", file, "--name", "mine")
    _, out, _ = run(capsys, root, "import", file, "--name", "mine")
    assert "nothing to do: mine:v1" in out
    run(capsys, root, "import", file, "--name", "mine", "--eval-fraction", "0.2")
    write(file, pairs(51))
    run(capsys, root, "import", file, "--name", "mine")
    assert Store(root).numbers("mine") == [1, 2, 3]


def test_the_digest_does_not_depend_on_where_or_when(tmp_path, capsys):
    digests = set()
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        file = write(tmp_path / place / "pairs.jsonl", pairs(50))
        run(capsys, tmp_path / place / "store", "import", file, "--name", "mine")
        digests.add(Store(tmp_path / place / "store").resolve("mine").digest)
    assert len(digests) == 1


def test_a_stage_takes_the_dataset(tmp_path, tiny_store, capsys):
    file = write(tmp_path / "pairs.jsonl", pairs(40))
    run(capsys, tiny_store, "import", file, "--name", "hh", "--as", "preference")
    cfg = compose(["stage=dpo", "inputs.dataset=hh:v1", f"artifacts.root={tiny_store}", "trainer.max_length=128"])
    plan = make_plan(cfg, Store(tiny_store), world_size=1)
    preflight(plan)
    version = Store(tiny_store).resolve("hh:v1")
    assert plan.to_manifest()["dataset"]["ref"] == "hh:v1"
    assert plan.to_manifest()["dataset"]["digest"] == version.digest
    loaded = load_artifact(version.path, "preference", "train")
    assert not loaded.refused and len(loaded.records) == version.manifest.metrics["train_records"]


def test_the_config_says_which_findings_stop_a_run(tmp_path, tiny_store, capsys):
    file = write(
        tmp_path / "pairs.jsonl", pairs(40, _3={"chosen": "key AKIAABCDEFGHIJKLMNOP"}, _4={"chosen": "\ufffd"})
    )

    def plan(dataset, *overrides):
        given = ["stage=dpo", f"inputs.dataset={dataset}", f"artifacts.root={tiny_store}", *overrides]
        return make_plan(compose(given), Store(tiny_store), world_size=1)

    status, _, err = run(capsys, tiny_store, "import", file, "--name", "hh")
    assert status == 2 and "secrets: 1 of 40" in err and "--allow secrets" in err
    run(capsys, tiny_store, "import", file, "--name", "hh", "--refuse", "never")
    with pytest.raises(
        UserError, match=r"inputs.dataset=hh:v1: its report has secrets \(1 of 40\).*data.refuse=never"
    ):
        plan("hh:v1")
    never = plan("hh:v1", "data.refuse=never")
    run(capsys, tiny_store, "import", file, "--name", "repaired", "--drop", "secrets")
    repaired = plan("repaired:v1")
    assert repaired.identity != never.identity
    with pytest.raises(UserError, match="replacement_characters"):
        plan("repaired:v1", "data.refuse=warning")
    run(capsys, tiny_store, "import", file, "--name", "allowed", "--allow", "secrets")
    assert plan("allowed:v1").identity == plan("allowed:v1", "data.refuse=never").identity


def test_eval_files_are_kept_apart_and_overlap_is_refused_or_left_out(tmp_path, root, capsys):
    train, held = write(tmp_path / "train.jsonl", pairs(60)), write(tmp_path / "test.jsonl", pairs(3))
    status, _, err = run(capsys, root, "import", train, "--eval", held, "--name", "mine")
    assert status == 2 and "eval_overlap: 3 of 3 eval records whose prompt is also in train" in err
    assert Store(root).names() == [] and not list(root.glob("*/.staging*"))
    status, out, _ = run(capsys, root, "import", train, "--eval", held, "--name", "mine", "--drop", "overlap")
    version = Store(root).resolve("mine")
    assert status == 0 and "left out: overlap: 3" in out
    assert len(rows_of(version)) == 57
    assert [row["id"] for row in rows_of(version, "eval")] == [f"test.jsonl:{i}" for i in range(3)]
    run(capsys, root, "import", train, "--eval", held, "--name", "anyway", "--allow", "eval_overlap")
    assert Store(root).resolve("anyway").manifest.notes["allowed"] == ["eval_overlap"]


def test_repairs_are_stated_counted_and_can_be_undone(tmp_path, root, capsys):
    dirty = {
        "_1": {"chosen": "cafÃ© is good"},
        "_2": {"rejected": "bad\x07 bell"},
        "_3": {"chosen": "done</s>"},
        "_4": pairs(6)[5],
        "_7": {"prompt": "question 8", "chosen": "bad 8", "rejected": "a good answer to 8"},
        "_9": {"chosen": "Human: hello"},
    }
    file = write(tmp_path / "pairs.jsonl", pairs(40, **dirty))
    fixes = ["--fix", "mojibake,control,end_markers", "--drop", "duplicates,contradictions,turn_markers"]
    status, _, _ = run(capsys, root, "import", file, "--name", "mine", *fixes, "--eval-fraction", "0")
    version = Store(root).resolve("mine")
    assert status == 0
    assert version.manifest.notes["repairs"] == {
        "fix mojibake": 1,
        "fix control": 1,
        "fix end_markers": 1,
        "left out: contradictions": 2,
        "left out: duplicates": 1,
        "left out: turn_markers": 1,
    }
    records = {row.pop("id"): row for row in rows_of(version)}
    assert records["pairs.jsonl:1"]["chosen"] == "café is good"
    assert records["pairs.jsonl:2"]["rejected"] == "bad bell"
    assert records["pairs.jsonl:3"]["chosen"] == "done"
    for entry in read_lines(version.path / "repairs.jsonl"):
        if "left_out" in entry:
            records[entry["id"]] = entry["record"]
        else:
            records[entry["id"]][entry["side"]] = entry["before"]
    again = [records[f"pairs.jsonl:{i}"] for i in range(40)]
    assert again == [row for _, row in read_rows(file)]


def test_import_then_check_of_the_artifact_gives_the_same_records(tmp_path, root, capsys):
    file = write(tmp_path / "pairs.jsonl", pairs(50))
    run(capsys, root, "import", file, "--name", "mine")
    status, out, _ = run(capsys, root, "check", "mine:v1", "--json")
    report = json.loads(out)
    assert status == 0 and report["records"] == 50 and report["rows_refused"] == 0
    assert report["splits"] == Store(root).resolve("mine").manifest.notes.get("splits", report["splits"])
    assert "eval_overlap" not in [finding["name"] for finding in report["findings"]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["import", "none.jsonl", "--name", "x"], "none.jsonl: there is no such file or folder"),
        (["import", "{file}", "--name", "x", "--layout", "hh"], "layout 'hh' is not known"),
        (["import", "{file}", "--name", "x", "--columns", "magin=m"], "'magin' is not a field"),
        (["import", "{file}", "--name", "x", "--columns", "prompt"], "is not NAME=VALUE"),
        (["import", "{file}", "--name", "x", "--fix", "all"], "--fix all: there is no such rule"),
        (["import", "{file}", "--name", "x", "--eval-fraction", "1"], "write a share from 0 to less than 1"),
        (["import", "{file}", "--name", "../x"], "../x"),
        (["import", "{file}", "--name", "x", "--as", "language_modeling"], "no record came of 5 rows"),
        (["import", "{file}", "--name", "x", "--eval", "{file}"], "is named both for training and for --eval"),
        (["check", "none:v1"], "artifact 'none:v1' is not in the store"),
        (["check", "{file}", "--against", "{file}", "--ngram", "1"], "--ngram 1"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, root, capsys, arguments, message):
    file = write(tmp_path / "pairs.jsonl", pairs(5))
    status, _, err = run(capsys, root, *[one.format(file=file) for one in arguments])
    assert status == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_chance_leaves_no_small_set_without_train(tmp_path, root, capsys):
    one = write(tmp_path / "one.jsonl", pairs(1))
    assert run(capsys, root, "import", one, "--name", "one", "--eval-fraction", "0.999999")[0] == 0
    assert len(rows_of(Store(root).resolve("one"))) == 1 and not rows_of(Store(root).resolve("one"), "eval")
    few = write(tmp_path / "few.jsonl", pairs(4))
    assert run(capsys, root, "import", few, "--name", "few", "--eval-fraction", "0.999999")[0] == 0
    version = Store(root).resolve("few")
    assert (len(rows_of(version)), len(rows_of(version, "eval"))) == (3, 1)
    assert version.manifest.metrics["train_records"] == 3


def test_labels_and_columns_of_ones_own(tmp_path, root, capsys):
    rows = [{"frage": f"q {i}", "output_1": "x", "output_2": "y", "label": "AB"[i % 2]} for i in range(10)]
    file = write(tmp_path / "own.jsonl", rows)
    status, _, _ = run(
        capsys, root, "import", file, "--name", "own", "--columns", "question=frage", "--labels", "A=2,B=1"
    )
    assert status == 0
    version = Store(root).resolve("own")
    found = {row["id"]: row["chosen"][0]["content"] for split in ("train", "eval") for row in rows_of(version, split)}
    assert found["own.jsonl:0"] == "y" and found["own.jsonl:1"] == "x"


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that `datasets` takes for the hub set org/pairs: two configs, one split of 30 rows each."""
    for language in ("en", "de"):
        (tmp_path / "org" / "pairs" / language).mkdir(parents=True)
        write(tmp_path / "org" / "pairs" / language / "test.jsonl", pairs(30))
    card = "".join(f"- config_name: {one}\n  data_dir: {one}\n" for one in ("en", "de"))
    (tmp_path / "org" / "pairs" / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("align.data.readers.files.hub_commit", lambda name: COMMIT)
    return ["hf:org/pairs@main", "--config", "en", "--split", "test"]


def test_a_hub_set_is_streamed_and_pinned_to_its_commit(root, hub, capsys):
    status, out, _ = run(capsys, root, "import", *hub, "--name", "hub")
    assert status == 0 and "30 in = 30 used" in out
    (source,) = Store(root).resolve("hub").manifest.inputs["sources"]
    assert source["ref"] == f"hf:org/pairs@{COMMIT}" and source["revision"] == COMMIT
    assert (source["config"], source["split"]) == ("en", "test")
    _, again, _ = run(capsys, root, "import", *hub, "--name", "hub")
    assert "nothing to do: hub:v1" in again
    status, out, _ = run(capsys, root, "check", *hub, "--first", "7")
    assert status == 0 and "rows       7 in = 7 used" in out
    _, first, _ = run(capsys, root, "import", *hub, "--name", "hub", "--first", "7")
    assert "published hub:v2" in first


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--split", "train"], "split train: cannot be loaded (Bad split: train"),
        (["--config", "fr"], "config fr"),
        (["--first", "0"], "--first 0: write a positive number"),
    ],
)
def test_a_hub_set_that_is_not_there_is_a_sentence(root, hub, capsys, wrong, message):
    status, _, err = run(capsys, root, "check", *hub, *wrong)
    assert status == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_small_set_holds_out_one_prompt(tmp_path, root, capsys):
    file = write(tmp_path / "few.jsonl", pairs(3))
    run(capsys, root, "import", file, "--name", "few", "--eval-fraction", "0.000001")
    version = Store(root).resolve("few")
    assert version.manifest.metrics["train_records"] == 2 and version.manifest.metrics["eval_records"] == 1
    assert len(rows_of(version, "eval")) == 1


# The public sets, with the counts of their README and PROVENANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "files, rows, used, format, layout",
    [
        (["hh-rlhf-harmless"], 1500, 1495, "preference", "hh_rlhf"),
        (["pandalm-human"], 607, 497, "preference", "annotators"),
        (["llmbar"], 448, 448, "preference", "two_outputs"),
        (["qa-feedback"], 300, 296, "preference", "pairwise_votes"),
        (["gsm8k/train.jsonl"], 3000, 3000, "prompt_completion", "question_answer"),
        (["gsm8k/example_model_solutions.jsonl"], 800, 800, "unpaired_preference", "gsm8k_solutions"),
        (["pubmedqa"], 500, 500, "prompt_completion", "question_answer"),
        (
            [
                f"mts-dialog/MTS-Dialog-{name}Set.csv"
                for name in ("Training", "Validation", "Automatic-Summaries-Validation")
            ],
            1701,
            1701,
            "prompt_completion",
            "question_answer",
        ),
        (["zhongjing-zh-medical"], 2100, 2100, "prompt_completion", "alpaca"),
        (["open-assistant/en_100_tree.jsonl"], 60, 60, "preference", "message_tree"),
        (["open-assistant/realistic_seed_data.json"], 444, 444, "prompt_completion", "message_tree"),
        (["open-assistant/prompt_lottery_en_250_text.jsonl"], 170, 170, "prompt_only", "string"),
        (["self-instruct-seed"], 175, 175, "prompt_completion", "instances"),
        (["mt-bench"], 80, 80, "prompt_only", "turns"),
        (["tinyshakespeare"], 398, 398, "language_modeling", "trl"),
    ],
)
def test_every_public_set_imports(files, rows, used, format, layout, root, capsys):
    paths = [shared(file) for file in files]
    status, out, err = run(capsys, root, "import", *paths, "--name", "set", "--refuse", "never")
    assert (status, err) == (0, "")
    manifest = Store(root).resolve("set").manifest
    notes = manifest.notes
    assert (notes["rows_in"], notes["rows_used"], manifest.format, notes["layout"]) == (rows, used, format, layout)
    assert rows == used + sum(notes["rows_refused"].values())
    path = Store(root).resolve("set").path
    loaded = [load_artifact(path, format, split) for split in ("train", "eval")]
    assert not any(one.refused for one in loaded)
    assert not {prompt_key(r) for r in loaded[0].records} & {prompt_key(r) for r in loaded[1].records}


def test_pandalm_ties_blanks_and_agreement(root, capsys):
    run(capsys, root, "import", shared("pandalm-human"), "--name", "set")
    version = Store(root).resolve("set")
    refused = version.manifest.notes["rows_refused"]
    # 91 majority ties, of which two rows hold no two answers; 14 blank answers, 6 that are `true`, a blank instruction
    assert refused == {
        "verdict is a tie: no answer is better than another": 89,
        "response2 is empty": 10,
        "response1 is empty": 4,
        "response1 is …, neither a string nor a list of messages": 4,
        "response2 is …, neither a string nor a list of messages": 2,
        "instruction is …, not a question": 1,
    }
    assert {row["agreement"] for row in rows_of(version)} == {0.6667, 1.0}


# -- scores in a file of their own ----------------------------------------------------------------------------------


@pytest.fixture
def scored(tmp_path):
    """Answers, and their scores in another file whose first column is theirs too."""
    (tmp_path / "answers.csv").write_text('\ufeffid,question,answer\r\n1,"a,\r\nb",one\r\n2,b,two\r\n3,c,three\r\n')
    (tmp_path / "scores.csv").write_text("id,F1\n1,0.5\n2,x\n3,1\n")
    return tmp_path


def test_columns_of_another_file_are_put_beside_the_rows(scored, root, capsys):
    command = [scored / "answers.csv", "--beside", scored / "scores.csv", "--columns", "score=F1"]
    status, _, err = run(capsys, root, "import", *command, "--name", "qa", "--eval-fraction", "0")
    assert (status, err) == (0, "")
    version = Store(root).resolve("qa")
    assert [row.get("score") for row in rows_of(version)] == [0.5, None, 1.0]
    (source,) = version.manifest.inputs["sources"]
    assert source["beside"]["ref"] == "scores.csv"
    (scored / "scores.csv").write_text("id,F1\n1,0.6\n2,x\n3,1\n")
    _, out, _ = run(capsys, root, "import", *command, "--name", "qa", "--eval-fraction", "0")
    assert "published qa:v2" in out, "other scores are another set"


@pytest.mark.parametrize(
    "text, message",
    [
        ("id,F1\n1,0.5\n2,1\n", "answers.csv has more than the 2 rows of scores.csv"),
        ("F1\n1\n1\n1\n1\n", "scores.csv has more than the 3 rows of answers.csv"),
        ("id,F1\n1,0.5\n3,1\n2,1\n", 'at row 1 id is "2" in one, "3" in the other'),
    ],
)
def test_files_that_do_not_fit_are_a_sentence(scored, root, capsys, text, message):
    (scored / "scores.csv").write_text(text)
    status, _, err = run(capsys, root, "check", scored / "answers.csv", "--beside", scored / "scores.csv")
    assert status == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1


def test_scores_are_beside_one_file(scored, root, capsys):
    both = [scored / "answers.csv", scored / "answers.csv", "--beside", scored / "scores.csv"]
    for command in (["check", *both], ["import", *both, "--name", "x"]):
        status, _, err = run(capsys, root, *command)
        assert status == 2 and "is joined row by row to one file, but 2 are named" in err


def test_every_row_of_mts_dialog_has_its_place(root, capsys):
    folder = SHARED / "mts-dialog"
    if not folder.is_dir():
        pytest.skip("shared/data/mts-dialog is not on this machine")
    name = "MTS-Dialog-{}.csv".format
    columns = ["--columns", "answer=Automatic Summary,score=FactualF1"]
    files = [
        folder / name("Automatic-Summaries-ValidationSet"),
        "--beside",
        folder / name("Manual-Scores4CorrelationStudy"),
    ]
    status, out, _ = run(capsys, root, "import", *files, *columns, "--name", "summaries", "--eval-fraction", "0")
    rows = rows_of(Store(root).resolve("summaries"))
    assert status == 0 and len(rows) == 400 and all(0 <= row["score"] <= 1 for row in rows)
    run(capsys, root, "make", "summaries:v1", "--name", "faithful", "--min-score", "0.8")
    kept = rows_of(Store(root).resolve("faithful"))
    assert len(kept) == sum(row["score"] >= 0.8 for row in rows) > 50

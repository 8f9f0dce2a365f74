"""Columns: what a layout does not read stays with the record, from the file to the reward function."""

import json

import pytest

from align.config.schema import DataConfig, DatasetConfig
from align.data.layouts.carried import RESERVED, Carrier
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.parse import Reading, held_records
from align.data.loading.examples import load_examples
from align.errors import UserError
from align.records import Demonstration, Prompt
from tests.data.data_command import check, load, read_lines, run, write
from tests.data.test_layouts import GOLDEN

GSM = [
    {
        "question": f"What is {n} and {n}?",
        "answer": f"It is {2 * n}.\n#### {2 * n}",
        "level": n,
        "tags": ["sum", str(n)],
    }
    for n in range(1, 9)
]


def user(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("layout, format, row, records", GOLDEN)
def test_what_a_layout_reads_is_not_carried(layout, format, row, records):
    reading = Reading(layout, format)
    carrier = Carrier(lambda row: held_records(row, reading), None)
    other = {**row, "extra": "x", "more": 1}
    columns, _ = carrier.take(other, held_records(other, reading))
    assert {"extra", "more"} <= columns.keys()
    assert LAYOUTS[layout]({name: value for name, value in row.items() if name not in columns}, format) == records


def test_gsm8k_gives_prompts_with_their_answers(tmp_path):
    loaded = load(write(tmp_path / "gsm.jsonl", GSM), "prompt_only", layout="auto", eval_fraction=0)
    assert loaded.records[0] == Prompt(
        user("What is 1 and 1?"), columns={"answer": "It is 2.\n#### 2", "level": 1, "tags": ["sum", "1"]}
    )
    assert "columns answer, level, tags" in loaded.summary()
    # read as demonstrations the answer is the completion, and the prompts made of them have it
    demonstrations = load(tmp_path / "gsm.jsonl", "prompt_completion", layout="auto", eval_fraction=0).records
    assert demonstrations[0].columns == {"level": 1, "tags": ["sum", "1"]}
    rows = [record.to_row() for record in demonstrations]
    prompts = load(write(tmp_path / "demo.jsonl", rows), "prompt_only", eval_fraction=0).records
    assert prompts[0] == loaded.records[0]


def test_a_prompt_is_one_whatever_its_completion(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": ""}])
    assert load(path, "prompt_only", eval_fraction=0).records == [Prompt("a", columns={"answer": "b"}), Prompt("c")]


def test_messages_with_an_answer_are_prompts(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": user(f"{n}?"), "answer": str(n)} for n in range(3)])
    records = load(path, "prompt_only", layout="auto", eval_fraction=0).records
    assert records == [Prompt(user(f"{n}?"), columns={"answer": str(n)}) for n in range(3)]


BAD = [
    ({"a": 1}, "an object"),
    ([{"a": 1}], "a list of something other than text, numbers or booleans"),
    ([1, "a"], "a list of numbers and text"),
    (float("inf"), "inf, which is not a finite number"),
    (2**70, "an integer of more than 64 bits"),
    ("a\ud800", "text with half a surrogate pair"),
]


@pytest.mark.parametrize("value, why", BAD, ids=range(len(BAD)))
def test_what_no_column_can_hold_is_left_out_or_refused(tmp_path, value, why):
    rows = [{"prompt": "a", "answer": "1", "extra": value}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load(path, "prompt_only", eval_fraction=0, layout="trl")
    assert loaded.records == [Prompt("a", columns={"answer": "1"})]
    assert why in loaded.not_carried["extra"] and f"not carried: extra ({why}" in loaded.summary()
    with pytest.raises(UserError, match="extra is .*a column holds text, numbers, booleans or a list"):
        load(path, "prompt_only", eval_fraction=0, keep=["extra"])


def test_kept_columns_are_those_named_and_no_others(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "1", "level": None}, {"prompt": "b", "answer": "2"}])
    assert load(path, "prompt_only", eval_fraction=0, keep=["answer"]).records[1] == Prompt(
        "b", columns={"answer": "2"}
    )
    assert load(path, "prompt_only", eval_fraction=0, keep=[]).records == [Prompt("a"), Prompt("b")]
    with pytest.raises(UserError, match=r"row 1.*level is missing \(the row has prompt, answer\)"):
        load(path, "prompt_only", eval_fraction=0, keep=["answer", "level"])
    renamed = load(path, "prompt_only", eval_fraction=0, keep=["solution"], columns={"solution": "answer"})
    assert renamed.records[0].columns == {"solution": "1"}
    with pytest.raises(UserError, match="columns: 'solution' is not a field"):
        load(path, "prompt_only", eval_fraction=0, columns={"solution": "answer"})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_name_is_refused(tmp_path, capsys, name):
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "trainer_state": "x"}])
    with pytest.raises(UserError, match=f"data.prompt_only.keep: {name} is a name that .* for themselves"):
        load(path, "prompt_only", eval_fraction=0, keep=[name])
    assert load(path, "prompt_only", eval_fraction=0).records == [Prompt("a")]
    status, _, err = run(capsys, tmp_path, "check", path, "--keep", name)
    assert status == 2 and f"--keep: {name} is a name" in err


def test_a_column_of_two_kinds(tmp_path):
    rows = [{"prompt": str(n), "answer": n if n < 3 else str(n), "size": n + 0.5 if n else n} for n in range(5)]
    path = write(tmp_path / "a.jsonl", rows)
    loaded = load(path, "prompt_only", eval_fraction=0)
    assert loaded.carried == ["size"]
    assert loaded.not_carried == {"answer": "numbers (record 0) and text (record 3)"}
    with pytest.raises(
        UserError, match=r"column answer holds numbers \(record 0\) and text \(record 3\); write one kind"
    ):
        load(path, "prompt_only", eval_fraction=0, keep=["answer"])


def test_tables_have_the_columns_only_where_functions_read_them(tmp_path):
    rows = [{**row, "tags": row["tags"] if row["level"] > 2 else None} for row in GSM]
    path = str(write(tmp_path / "gsm.jsonl", rows))
    data = DataConfig(prompt_only=DatasetConfig(train=path, eval=path), prompt_completion=DatasetConfig(train=path))
    table = load_examples(data, None, "prompt_only", tokenizer=None, columns=True).train
    assert set(table.column_names) == {"answer", "level", "prompt", "tags"}
    assert table[0]["tags"] is None and table[5]["tags"] == ["sum", "6"] and table[5]["answer"].endswith("#### 12")
    assert load_examples(data, None, "prompt_only", tokenizer=None).train.column_names == ["prompt"]
    train = load_examples(data, None, "prompt_completion", tokenizer=None).train
    assert set(train.column_names) == {"prompt", "completion"}


def test_later_turns_are_left_to_evaluation(tmp_path, capsys):
    path = str(write(tmp_path / "mt.jsonl", [{"turns": [f"{n}?", "And then?"], "category": "math"} for n in range(3)]))
    data = DataConfig(prompt_only=DatasetConfig(train=path, eval=path))
    assert set(load_examples(data, None, "prompt_only", tokenizer=None, columns=True).train.column_names) == {
        "prompt",
        "category",
    }
    assert "3 prompts have later turns: only the first is answered in training" in capsys.readouterr().out


def test_a_dataset_keeps_them_through_import_make_and_export(tmp_path, capsys):
    path, store = write(tmp_path / "gsm.jsonl", GSM), tmp_path / "store"
    assert run(capsys, store, "import", path, "--as", "prompt_only", "--name", "gsm", "--eval-fraction", "0.3")[0] == 0
    status, out, _ = run(capsys, store, "check", "gsm:v1")
    assert status == 0 and "column     answer of 8 records is handed to reward functions and judges" in out
    assert "format     prompt_only" in out, "a set is of the format that it was imported as"
    command = ["make", "gsm:v1", "--name", "more", "--system", "Add.", "--drop", "duplicates", "--fix", "space"]
    assert run(capsys, store, *command)[0] == 0
    made = [row for file in sorted((store / "more/v0001/records").glob("*.jsonl")) for row in read_lines(file)]
    said = {row["prompt"][1]["content"]: row for row in made}
    assert all(row["prompt"][0] == {"role": "system", "content": "Add."} for row in made)
    for row in GSM:
        assert {name: said[row["question"]][name] for name in ("answer", "level", "tags")} == {
            name: row[name] for name in ("answer", "level", "tags")
        }
    out = tmp_path / "out"
    from align.cli import main

    assert main(["artifacts", "export", "more:v1", str(out), "--artifacts", str(store)]) == 0
    capsys.readouterr()
    again = load(out / "records" / "train.jsonl", "prompt_only", eval_fraction=0).records
    assert [record.columns["answer"] for record in again] == [
        row["answer"] for row in read_lines(store / "more/v0001/records/train.jsonl")
    ]


def test_demonstrations_keep_theirs_and_so_do_pairs_of_answers(tmp_path, capsys):
    rows = [
        {"prompt": f"{n}?", "completion": f"{n} {'yes' if good else 'no'}", "label": good, "topic": "t", "who": good}
        for n in range(30)
        for good in (True, False)
    ]
    store = tmp_path / "store"
    path = write(tmp_path / "thumbs.jsonl", [{**row, "who": f"rater {row['who']}"} for row in rows])
    assert run(capsys, store, "import", path, "--name", "thumbs")[0] == 0
    assert run(capsys, store, "make", "thumbs:v1", "--name", "pairs", "--as", "preference")[0] == 0
    pair = read_lines(store / "pairs/v0001/records/train.jsonl")[0]
    assert pair["topic"] == "t" and "who" not in pair, "what only one answer has is not the pair's"
    assert run(capsys, store, "make", "thumbs:v1", "--name", "good", "--as", "prompt_completion")[0] == 0
    assert read_lines(store / "good/v0001/records/train.jsonl")[0]["who"] == "rater True"


def test_check_and_show_say_which_are_carried(tmp_path, capsys, tiny_store):
    rows = [{**row, "meta": {"a": 1}, "images": ["x"]} for row in GSM]
    path = write(tmp_path / "gsm.jsonl", rows)
    report = check(capsys, path, "--as", "prompt_only")
    assert report["carried"]["kept"] == {"answer": 8, "level": 8, "tags": 8}
    assert report["carried"]["not_carried"] == {
        "images": "'images' is a name that TRL's trainers use",
        "meta": "an object",
    }
    assert run(capsys, tmp_path, "check", path, "--as", "prompt_only", "--keep", "level")[1].count("column     ") == 1
    html = tmp_path / "report.html"
    assert run(capsys, tmp_path, "check", path, "--as", "prompt_only", "--html", html)[0] == 0
    assert "answer of 8 records is handed to reward functions and judges" in html.read_text("utf-8")
    status, out, err = run(capsys, tiny_store, "show", path, "--stage", "grpo", "--rows", "1")
    assert status == 0, err
    assert 'column answer: "It is 2.\\n#### 2"' in out and "column level: 1" in out
    shown = json.loads(run(capsys, tiny_store, "show", path, "--stage", "grpo", "--rows", "1", "--json")[1])
    assert shown[0]["columns"]["tags"] == ["sum", "1"]


def test_a_report_says_what_prompts_are_made_of_demonstrations(tmp_path, capsys):
    stages = check(capsys, write(tmp_path / "gsm.jsonl", GSM))["stages"]
    for stage in ("ppo", "rloo", "grpo", "sample", "evaluate"):
        assert stages[stage] == "makes 8 prompt_only records of it, whose completions are their column answer"


def test_addresses_and_keys_in_columns_are_found_and_dropped(tmp_path, capsys):
    rows = [{"prompt": f"Question {n}?", "answer": str(n), "author": "a"} for n in range(20)]
    rows[3]["author"] = "ann@example.org"
    rows[4]["tokens"] = ["ghp_" + "a1B2" * 9]
    path, store = write(tmp_path / "a.jsonl", rows), tmp_path / "store"
    named = {finding["name"]: finding for finding in check(capsys, path, "--layout", "trl")["findings"]}
    assert named["emails"]["count"] == 1 and "column author" in named["emails"]["examples"][0][1]
    assert named["secrets"]["severity"] == "error"
    command = ["import", path, "--name", "a", "--layout", "trl", "--as", "prompt_only"]
    status, _, err = run(capsys, store, *command)
    assert status == 2 and "secrets" in err
    assert run(capsys, store, *command, "--drop", "secrets,emails")[0] == 0
    kept = [row for split in ("train", "eval") for row in read_lines(store / f"a/v0001/records/{split}.jsonl")]
    assert len(kept) == 18
    assert run(capsys, store, *command[:-4], "--name", "b", *command[4:], "--keep", "answer")[0] == 0


def test_rows_that_say_the_same_are_duplicates_whatever_their_columns(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "level": n} for n in range(3)] + [{"prompt": "b"}])
    loaded = load(path, "prompt_only", eval_fraction=0, options={"drop": ["duplicates"]})
    assert loaded.records == [Prompt("a", columns={"level": 0}), Prompt("b")]


def test_demonstrations_are_equal_only_with_their_columns():
    assert Demonstration("a", "b", columns={"x": 1}) != Demonstration("a", "b")

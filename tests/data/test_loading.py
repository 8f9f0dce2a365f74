import hashlib
import json
from pathlib import Path

import pytest

from align.data.layouts.annotations import beside, margin, own, scores
from align.data.loading.examples import shuffled
from align.data.loading.load import load_artifact, load_records
from align.data.loading.sources import DatasetSource, digest, pinned
from align.data.loading.tables import to_dataset, write_jsonl
from align.data.readers.hub import hub_commit
from align.data.readers.read import read_rows
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, Text, UnpairedPreference, prompt_key
from tests.data.data_command import FILES, fixture, load

SHARED = Path(__file__).parents[3] / "shared" / "data"
PROMPTS = 400


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def shared(name):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"shared/data/{name} is not on this machine")
    return path


# Loading


def test_a_malformed_row_is_refused_or_skipped_and_listed(tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = write(tmp_path / "rows.jsonl", good, {**good, "chosen": ""}, {**good, "prompt": "x"}, {**good, "prompt": 7})
    with pytest.raises(UserError) as caught:
        load(path, "preference", eval_fraction=0)
    message = str(caught.value)
    assert f'{path}: row 1 (line 2): chosen is empty (""); 1 more are malformed (rows 3)' in message
    assert "data.on_bad_rows=skip" in message
    loaded = load(path, "preference", eval_fraction=0, options={"on_bad_rows": "skip"})
    assert (loaded.rows_in, len(loaded.records), len(loaded.refused)) == (4, 2, 2)
    assert str(loaded.refused[1]).startswith(f"{path}: row 3 (line 4): prompt is an integer (7)")
    assert "2 rows refused: 1 (chosen is empty" in loaded.summary()


def test_rows_of_the_other_kind_are_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a"}, {"prompt": [user("b")]})
    with pytest.raises(UserError, match=r"row 1 \(line 2\): prompt is conversational, row 0 is standard"):
        load(path, "prompt_only")


def test_nothing_to_load(tmp_path):
    with pytest.raises(UserError, match="nothing to load for data.prompt_only, it holds no rows"):
        load(write(tmp_path / "empty.jsonl"), "prompt_only")
    (tmp_path / "header.csv").write_text("prompt\n")
    with pytest.raises(UserError, match="it holds no rows"):
        load(tmp_path / "header.csv", "prompt_only")
    bad = write(tmp_path / "bad.jsonl", {"question": "a"})
    with pytest.raises(UserError, match="no row of it can be used: check data.prompt_only.layout"):
        load(bad, "prompt_only")
    with pytest.raises(UserError, match="all 1 rows are malformed"):
        load(bad, "prompt_only", options={"on_bad_rows": "skip"})


def test_a_file_of_another_format_is_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b"})
    with pytest.raises(UserError) as caught:
        load(path, "preference", options={"stage": "dpo"})
    assert str(caught.value) == (
        f"{path} holds prompt_completion rows (fields prompt, completion); "
        "stage dpo needs preference (fields prompt, chosen, rejected)"
    )
    with pytest.raises(UserError, match="holds unpaired_preference rows"):
        load(FILES / "unpaired.jsonl", "prompt_completion")
    with pytest.raises(UserError, match=r"\(fields messages\).*data.prompt_completion.layout=messages"):
        load(FILES / "messages.jsonl", "prompt_completion")


def test_a_format_that_converts_is_converted_and_said():
    loaded = load(FILES / "preference.jsonl", "unpaired_preference", eval_fraction=0)
    assert (loaded.rows_in, len(loaded.records), loaded.converted_from) == (3, 6, "preference")
    assert "made from preference" in loaded.summary()
    prompts = load(FILES / "ultrafeedback_binarized.jsonl", "prompt_only", eval_fraction=0)
    assert prompts.records == [Prompt([user("What is two plus two?")], columns={"prompt_id": "9c1"})]


def test_what_is_written_wrong_in_the_config(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a"})
    for source, message in (
        ({"layout": "shargpt"}, "layout is 'shargpt': write auto or one of trl, messages"),
        ({"eval_fraction": 1.5}, "eval_fraction is 1.5"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"source": "hf:a b"}, "not a Hugging Face repository"),
        ({"eval": "none.jsonl"}, "data.prompt_only.eval: there is no file none.jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            load(path, "prompt_only", "eval", **source)
    with pytest.raises(UserError, match="data.prompt_only.train is not set: name a file"):
        load_records(DatasetSource(), "prompt_only", "train", root=tmp_path)
    with pytest.raises(UserError, match="on_bad_rows is 'drop'"):
        load(path, "prompt_only", options={"on_bad_rows": "drop"})


def test_files_are_looked_for_here_then_in_the_project(tmp_path, monkeypatch):
    here, project = tmp_path / "here", tmp_path / "project"
    (project / "sub").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    write(project / "sub" / "a.jsonl", {"prompt": "project"})
    sources = [DatasetSource(train="sub/a.jsonl"), DatasetSource(source="sub", train="a.jsonl")]
    for source in (replace_fraction(source) for source in sources):
        assert load_records(source, "prompt_only", "train", root=project).records == [Prompt("project")]
    (here / "sub").mkdir()
    write(here / "sub" / "a.jsonl", {"prompt": "here"})
    for source in (replace_fraction(source) for source in sources):
        assert load_records(source, "prompt_only", "train", root=project).records == [Prompt("here")]


def replace_fraction(source):
    return DatasetSource(source=source.source, train=source.train, eval_fraction=0)


# Holding out


def test_hold_out_is_by_prompt_and_does_not_depend_on_order(tmp_path):
    rows = [{"prompt": f"question {i % PROMPTS}", "completion": f"answer {i}"} for i in range(3 * PROMPTS)]
    path, turned = write(tmp_path / "a.jsonl", *rows), write(tmp_path / "b.jsonl", *reversed(rows))
    train, held = (load(path, "prompt_completion", split, eval_fraction=0.2) for split in ("train", "eval"))
    prompts = [{prompt_key(record) for record in loaded.records} for loaded in (train, held)]
    assert not prompts[0] & prompts[1] and len(prompts[0] | prompts[1]) == PROMPTS
    assert len(train.records) + train.held_out == train.rows_in == held.rows_in
    # binomial: 400 prompts at 0.2 have a standard deviation of 8
    assert abs(len(prompts[1]) - 0.2 * PROMPTS) < 4 * 8
    other = load(turned, "prompt_completion", "eval", eval_fraction=0.2)
    assert sorted(map(str, other.records)) == sorted(map(str, held.records))


def test_hold_out_agrees_between_formats(tmp_path):
    strings = write(tmp_path / "a.jsonl", *({"prompt": f"q {i}", "completion": "a"} for i in range(PROMPTS)))
    chats = write(
        tmp_path / "b.jsonl",
        *(
            {"prompt": [user(f"q {i}")], "chosen": [assistant("a")], "rejected": [assistant("b")]}
            for i in range(PROMPTS)
        ),
    )
    held = [load(strings, "prompt_completion", "eval").records, load(chats, "preference", "eval").records]
    assert {prompt_key(r) for r in held[0]} == {prompt_key(r) for r in held[1]} != set()


def test_hold_out_of_a_small_file_takes_one_prompt(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"prompt": f"q {i}"} for i in range(3)))
    sizes = [len(load(path, "prompt_only", split, eval_fraction=1e-6).records) for split in ("train", "eval")]
    assert sizes == [2, 1]
    with pytest.raises(UserError, match="train is empty"):
        load(write(tmp_path / "b.jsonl", {"prompt": "q"}), "prompt_only", "train")
    with pytest.raises(UserError, match="eval is empty"):
        load(path, "prompt_only", "eval", eval_fraction=0)
    assert DatasetSource(train="a").has_eval and DatasetSource(eval="a").has_eval
    assert not DatasetSource(train="a", eval_fraction=0).has_eval


def test_max_rows_caps_train_only(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"prompt": f"q {i}"} for i in range(20)))
    train = load(path, "prompt_only", "train", eval=str(path), max_rows=5)
    assert (train.records, train.over_cap) == ([Prompt(f"q {i}") for i in range(5)], 15)
    assert len(load(path, "prompt_only", "eval", eval=str(path), max_rows=5).records) == 20


# Artifacts, digests, what goes out


def test_an_artifact_gives_back_what_was_written(tmp_path):
    records = load(FILES / "preference.jsonl", "preference", eval_fraction=0).records
    (tmp_path / "records").mkdir()
    write_jsonl(records, tmp_path / "records" / "train.jsonl")
    write_jsonl(records[:1], tmp_path / "records" / "eval.jsonl")
    assert load_artifact(tmp_path, "preference", "train").records == records
    assert load_artifact(tmp_path, "preference", "eval").records == records[:1]


def test_written_lines_hold_no_other_line_ends(tmp_path):
    records = [Prompt("a\u2028b\u2029c\x85d\x0be\r\n☃")]
    write_jsonl(records, tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1 and "☃" in text
    assert load(tmp_path / "a.jsonl", "prompt_only", eval_fraction=0).records == records


def test_digest_follows_content_and_not_place(tmp_path):
    path = write(tmp_path / "a.jsonl", {"prompt": "a"}, {"prompt": "b"})
    told = digest(DatasetSource(train=str(path)), "prompt_only", tmp_path)
    assert told["train"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["train"]["size"] == path.stat().st_size and told["train"]["file"] == str(path)
    moved = tmp_path / "b.jsonl"
    moved.write_bytes(path.read_bytes())
    assert digest(DatasetSource(train=str(moved)), "prompt_only", tmp_path)["digest"] == told["digest"]
    others = [
        DatasetSource(train=str(moved), eval=str(moved)),
        DatasetSource(train=str(moved), max_rows=1),
        DatasetSource(train=str(moved), eval_fraction=0.1),
        DatasetSource(train=str(moved), columns={"prompt": "prompt"}),
        DatasetSource(train=str(moved), layout="messages"),
        DatasetSource(train=str(write(tmp_path / "c.jsonl", {"prompt": "a"}, {"prompt": "c"}))),
    ]
    digests = {digest(source, "prompt_only", tmp_path)["digest"] for source in others}
    assert len(digests) == len(others) and told["digest"] not in digests
    with pytest.raises(UserError, match="there is no file"):
        digest(DatasetSource(train="none.jsonl"), "prompt_only", tmp_path)


def test_hub_sources_are_pinned_to_a_commit(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hf:org/name: its commit is not known.*local cache has no such data set"):
        hub_commit("hf:org/name")
    commit = "0123456789abcdef0123456789abcdef01234567"
    refs = tmp_path / "datasets--org--name" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)
    source = DatasetSource(source="hf:org/name", config="en", train="train", eval="test")
    told = digest(source, "prompt_only", tmp_path)
    assert told["train"] == {
        "dataset": "org/name",
        "config": "en",
        "split": "train",
        "revision": commit,
        "source": "hf:org/name",
    }
    assert pinned(source, told).source == f"hf:org/name@{commit}"
    assert digest(pinned(source, told), "prompt_only", tmp_path)["digest"] == told["digest"]


def test_hub_rows_are_loaded_as_named(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, **options):
        asked.append((args, options))
        return datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": ""}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = DatasetSource(source="hf:org/name@v1", config="en", train="train[:2]", eval_fraction=0)
    with pytest.raises(UserError, match=r"hf:org/name@v1 train\[:2\]: row 1: prompt is empty"):
        load_records(source, "prompt_only", "train", root=FILES)
    assert asked == [(("org/name", "en"), {"split": "train[:2]", "revision": "v1", "streaming": False})]

    def fail(*args, **options):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'org/name' doesn't exist on the Hub\nor is private")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match=r"split train\[:2\]: cannot be loaded \(Dataset 'org/name' doesn't exist"):
        load_records(source, "prompt_only", "train", root=FILES)


def test_to_dataset_has_trls_columns_only():
    records = load(FILES / "preference.jsonl", "preference", eval_fraction=0).records
    dataset = to_dataset(records)
    assert sorted(dataset.column_names) == ["chosen", "margin", "prompt", "rejected"]
    assert dataset[2]["prompt"] == records[2].prompt and dataset[0]["margin"] == 1.5
    unpaired = to_dataset(load(FILES / "unpaired.jsonl", "unpaired_preference", eval_fraction=0).records)
    assert unpaired["label"][:] == [True, False, True, False]
    with pytest.raises(UserError, match="record 1 has no margin"):
        to_dataset([records[0], Preference("a", "b", "c")])
    assert to_dataset([Text("a")]).column_names == ["text"]


# The public sets, where they are


def test_hh_rlhf_harmless_with_its_known_dirt():
    path = shared("hh-rlhf-harmless/harmless-base.test.jsonl")
    loaded = load(path, "preference", layout="hh_rlhf", eval_fraction=0, options={"on_bad_rows": "skip"})
    assert loaded.rows_in == 1500 and len(loaded.records) == 1495
    assert {refusal.row: refusal.field for refusal in loaded.refused} == {
        86: "chosen",
        516: "chosen",
        925: "chosen",
        1103: "chosen",
        1254: "rejected",
    }
    assert all("is empty" in refusal.why for refusal in loaded.refused[:4])
    assert "shares no prompt with chosen" in loaded.refused[4].why
    # an independent reading: the transcript is its turns again, but for the space around them
    rows = [row for number, row in read_rows(path) if number not in {r.row for r in loaded.refused}]
    names = {"user": "Human", "assistant": "Assistant"}
    for record, row in zip(loaded.records, rows, strict=True):
        for side in ("chosen", "rejected"):
            turns = record.prompt + getattr(record, side)
            text = "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in turns)
            assert "".join(text.split()) == "".join(row[side].split())


def test_gsm8k():
    columns = {"prompt": "question", "completion": "answer"}
    loaded = load(shared("gsm8k/train.jsonl"), "prompt_completion", columns=columns, eval_fraction=0)
    assert loaded.rows_in == len(loaded.records) == 3000
    assert "\u2028" in loaded.records[2381].prompt + loaded.records[2381].completion


def test_gsm8k_model_solutions():
    path = shared("gsm8k/example_model_solutions.jsonl")
    loaded = load(path, "unpaired_preference", layout="gsm8k_solutions", eval_fraction=0)
    assert (loaded.rows_in, len(loaded.records)) == (800, 3200)
    correct = path.read_text(encoding="utf-8").count('"is_correct": true')
    assert sum(record.label for record in loaded.records) == correct == 1234


@pytest.mark.parametrize("name, rows", [("MTS-Dialog-TrainingSet.csv", 1201), ("MTS-Dialog-ValidationSet.csv", 100)])
def test_mts_dialog(name, rows):
    columns = {"prompt": "dialogue", "completion": "section_text"}
    loaded = load(shared(f"mts-dialog/{name}"), "prompt_completion", columns=columns, eval_fraction=0)
    assert loaded.rows_in == len(loaded.records) == rows


def test_mts_dialog_with_bom():
    path = shared("mts-dialog/MTS-Dialog-Automatic-Summaries-ValidationSet.csv")
    columns = {"prompt": "Dialogue", "completion": "Reference Summary"}
    rows = fixture(path)
    assert list(rows[0])[0] == "ID" and any("\r\n" in row["Dialogue"] for row in rows)
    assert len(load(path, "prompt_completion", columns=columns, eval_fraction=0).records) == 400


def test_zhongjing():
    path = shared("zhongjing-zh-medical/CMtMedQA_test.json")
    loaded = load(path, "prompt_completion", layout="alpaca", eval_fraction=0)
    assert len(loaded.records) == 600
    assert any(len(record.prompt) > 1 for record in loaded.records)


# -- told from the content, and repaired on the way ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, format, layout",
    [
        ("hh_rlhf.jsonl", "preference", "hh_rlhf"),
        ("alpaca.json", "prompt_completion", "alpaca"),
        ("messages.jsonl", "prompt_completion", "messages"),
        ("messages.jsonl", "language_modeling", "messages"),
        ("gsm8k_solutions.jsonl", "unpaired_preference", "gsm8k_solutions"),
        ("preference.jsonl", "preference", "trl"),
        ("ultrafeedback_binarized.jsonl", "preference", "trl"),
    ],
)
def test_a_layout_is_told_from_the_rows(name, format, layout):
    options = {"eval_fraction": 0, "options": {"on_bad_rows": "skip"}}
    told = load(FILES / name, format, layout="auto", **options)
    named = load(FILES / name, format, layout=layout, **options)
    assert (told.layout, told.records, told.refused) == (layout, named.records, named.refused)


def test_what_looks_like_nothing_known_is_read_as_trls(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"a": 1}, {"a": 2})
    with pytest.raises(UserError, match="prompt is missing.*check data.preference.layout"):
        load(path, "preference", layout="auto")


def test_repairs_of_a_config_are_done_and_counted(tmp_path):
    rows = [
        {"prompt": "a\u200b", "completion": "one"},
        {"prompt": "a", "completion": "one"},
        {"prompt": "b", "completion": "write to me@example.com"},
        {"prompt": "c", "completion": "three"},
    ]
    path = write(tmp_path / "rows.jsonl", *rows)
    options = {"fix": ["control"], "drop": ["emails", "duplicates"]}
    loaded = load(path, "prompt_completion", eval_fraction=0, options=options)
    assert loaded.records == [Demonstration("a", "one"), Demonstration("c", "three")]
    assert loaded.repairs == {"fix control": 1, "left out: emails": 1, "left out: duplicates": 1}
    assert "left out: emails: 1" in loaded.summary()
    held = write(tmp_path / "held.jsonl", {"prompt": "c", "completion": "other"})
    overlap = {"options": {"drop": ["overlap"]}}
    train = load(path, "prompt_completion", eval=str(held), **overlap)
    assert Demonstration("c", "three") not in train.records and len(train.records) == 3
    assert load(path, "prompt_completion", "eval", eval=str(held), **overlap).records == [Demonstration("c", "other")]
    for wrong, message in (
        ({"fix": ["emails"]}, "data.fix emails"),
        ({"drop": ["x"]}, "data.drop x: there is no such"),
    ):
        with pytest.raises(UserError, match=message):
            load(path, "prompt_completion", options=wrong)
    mail = write(tmp_path / "mail.jsonl", {"prompt": "a@example.com", "completion": "b"})
    with pytest.raises(UserError, match="no record is left of data.prompt_completion"):
        load(mail, "prompt_completion", eval_fraction=0, options={"drop": ["emails"]})


def test_a_runs_metrics_count_what_was_mended_and_left_out(tmp_path, capsys):
    from align.config.schema import DataConfig, DatasetConfig
    from align.data.loading.examples import load_examples

    rows = [{"question": f"q{i}\u200b", "answer": f"a{i}" if i else "mail me@example.com"} for i in range(8)]
    source = DatasetConfig(train=str(write(tmp_path / "rows.jsonl", *rows)), eval_fraction=0)
    data = DataConfig(prompt_completion=source, fix=["control"], drop=["emails"])
    examples = load_examples(data, None, "prompt_completion", tokenizer=None)
    assert examples.train[0]["prompt"] == [{"role": "user", "content": "q1"}] and examples.eval is None
    assert examples.metrics == {
        "train_rows": 7,
        "train_refused": 0,
        "train_fix_control": 8,
        "train_left_out_emails": 1,
    }
    assert "read as question_answer, fix control: 8, left out: emails: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value, number",
    [(1, 1.0), (0.5, 0.5), ("0.25", 0.25), (True, None), ("x", None), ("nan", None), ("1e999", None), ([1], None)],
)
def test_a_score_is_a_finite_number(value, number):
    kept = beside({"score": value, "other": 1})
    assert kept == ({} if number is None else {"score": number})


def test_scores_belong_to_their_side():
    kept = {"score_chosen": 2.0, "score_rejected": -1.0}
    pair = Preference("p", "c", "r")
    assert own(kept, pair) == kept and margin(kept, pair) == 3.0
    assert own(kept, UnpairedPreference("p", "r", False)) == {"score": -1.0}
    assert own(kept, Demonstration("p", "c")) == {"score": 2.0}
    assert own(kept, Prompt("p")) == {} and scores({}, pair) == {}
    assert margin({}, Preference("p", "c", "r", 0.5)) == 0.5 and margin({}, Demonstration("p", "c")) is None


def test_shuffled_is_a_seeded_sample():
    items = list(range(100))
    assert shuffled(items, seed=0, limit=10) == shuffled(items, seed=0, limit=10) != shuffled(items, seed=1, limit=10)
    assert len(set(shuffled(items, seed=0, limit=10))) == 10
    assert shuffled(items, seed=0, limit=None) == shuffled(items, seed=0, limit=100) == items

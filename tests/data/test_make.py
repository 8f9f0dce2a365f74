"""`align data make`: sets out of sets, with every record accounted for."""

import json

import pytest

from align.artifacts.store import Store
from tests.data.data_command import read_lines, rows_of, run


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def sets(tmp_path, root, capsys):
    """a:v1 of 100 pairs and b:v1 of 60, of which b's first ten prompts are a's."""
    for name, count, start in (("a", 100, 0), ("b", 60, 90)):
        rows = [
            {
                "prompt": [{"role": "user", "content": f"question {i}"}],
                "chosen": [{"role": "assistant", "content": f"{name} says the good {i}" + " and more" * (i % 7)}],
                "rejected": [{"role": "assistant", "content": f"bad {i}"}],
            }
            for i in range(start, start + count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(capsys, root, "import", tmp_path / f"{name}.jsonl", "--name", name, "--eval-fraction", "0.2")
    return Store(root)


def test_a_mix_keeps_weights_order_and_account(sets, root, capsys):
    status, out, err = run(capsys, root, "make", "a:v1*0.75", "b:v1*0.25", "--name", "mix", "--rows", "40")
    assert (status, err) == (0, "")
    mix = sets.resolve("mix")
    train = rows_of(mix)
    names = [row["id"][0] for row in train]
    assert names.count("a") == 30 and names.count("b") == 10
    # spread evenly: every tenth of the file has its share
    assert all(2 <= names[i : i + 10].count("b") <= 3 for i in range(0, 40, 10))
    for part in mix.manifest.notes["parts"]:
        assert part["records_in"] == part["train"] + part["eval"] + sum(part["left_out"].values())
    assert [one["ref"] for one in mix.manifest.inputs["parts"]] == ["a:v1", "b:v1"]
    prompts = {split: {row["prompt"][0]["content"] for row in rows_of(mix, split)} for split in ("train", "eval")}
    assert not prompts["train"] & prompts["eval"] and "published mix:v1" in out
    _, again, _ = run(capsys, root, "make", "a:v1*0.75", "b:v1*0.25", "--name", "mix", "--rows", "40")
    assert "nothing to do: mix:v1" in again
    run(capsys, root, "make", "a:v1*0.75", "b:v1*0.25", "--name", "mix", "--rows", "40", "--seed", "1")
    assert {row["id"] for row in rows_of(sets.resolve("mix:v2"))} != {row["id"] for row in train}


def test_a_prompt_held_out_in_one_part_is_in_no_parts_train(sets, root, capsys):
    run(capsys, root, "make", "a:v1", "b:v1", "--name", "both")
    both = sets.resolve("both")
    held = {row["prompt"][0]["content"] for row in rows_of(both, "eval")}
    assert held == {row["prompt"][0]["content"] for name in ("a", "b") for row in rows_of(sets.resolve(name), "eval")}
    assert not held & {row["prompt"][0]["content"] for row in rows_of(both)}
    assert (
        len(rows_of(both))
        + len(rows_of(both, "eval"))
        + sum(count for part in both.manifest.notes["parts"] for count in part["left_out"].values())
        == 160
    )


def test_split_anew_is_stratified_by_part(sets, root, capsys):
    run(capsys, root, "make", "a:v1", "b:v1", "--name", "both", "--eval-fraction", "0.1")
    parts = sets.resolve("both").manifest.notes["parts"]
    assert [part["eval"] for part in parts] == [10, 6]


def test_filters_caps_conversion_and_a_system_message(sets, root, capsys):
    run(capsys, root, "make", "a:v1=20", "--name", "few", "--as", "unpaired_preference", "--system", "Be brief.")
    few = sets.resolve("few")
    assert few.manifest.format == "unpaired_preference" and len(rows_of(few)) == 20
    assert all(row["prompt"][0] == {"role": "system", "content": "Be brief."} for row in rows_of(few))
    run(capsys, root, "make", "a:v1", "--name", "long", "--max-chars", "45", "--min-chars", "5")
    (part,) = sets.resolve("long").manifest.notes["parts"]
    assert part["left_out"]["longer than max_chars"] > 10
    assert part["records_in"] == 100 == part["train"] + part["eval"] + sum(part["left_out"].values())


def test_repairs_are_done_and_can_be_undone(sets, root, capsys):
    rows = [{"prompt": f"q{i}", "chosen": f"yes\u200b{i}", "rejected": "no</s>"} for i in range(4)]
    rows.append({"prompt": "q9", "chosen": "yes", "rejected": "</s>"})
    write_set(sets, "dirty", "preference", [{**row, "id": str(i)} for i, row in enumerate(rows)])
    status, out, _ = run(capsys, root, "make", "dirty:v1", "--name", "clean", "--fix", "control,end_markers")
    clean = sets.resolve("clean")
    assert status == 0 and [row["chosen"] for row in rows_of(clean)] == ["yes0", "yes1", "yes2", "yes3"]
    assert clean.manifest.notes["repairs"] == {"fix control": 4, "fix end_markers": 4} and "fix control: 4" in out
    (part,) = clean.manifest.notes["parts"]
    assert part["left_out"] == {"repaired, rejected is empty": 1}
    before = {row["id"]: dict(row) for row in rows_of(clean)}
    for change in reversed(read_lines(clean.path / "repairs.jsonl")):
        assert before[change["id"]][change["side"]] == change["after"]
        before[change["id"]][change["side"]] = change["before"]
    assert [row["chosen"] for row in before.values()] == [row["chosen"] for row in rows[:4]]


def test_decontamination(sets, root, tmp_path, capsys):
    (tmp_path / "bench.jsonl").write_text(json.dumps({"q": "the good 3 and more"}) + "\n")
    bench = ["--against", tmp_path / "bench.jsonl", "--ngram", "4"]
    status, _, err = run(capsys, root, "make", "a:v1", "--name", "clean", *bench)
    assert status == 2 and "overlap_bench.jsonl" in err
    status, _, _ = run(capsys, root, "make", "a:v1", "--name", "clean", *bench, "--drop", "overlap")
    (part,) = sets.resolve("clean").manifest.notes["parts"]
    assert status == 0 and part["left_out"]["overlap"] == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["a:v1*x"], "is no part of a set"),
        (["a:v9"], "does not exist"),
        (["a:v1", "--max-chars", "1"], "no train record is left"),
        (["a:v1", "--drop", "contradictions"], "there is no such rule"),
        (["a:v1", "--as", "language_modeling"], "does not become language_modeling"),
        (["a:v1", "--rows", "0"], "--rows 0"),
        (["a:v1", "--eval-fraction", "2"], "--eval-fraction 2.0"),
    ],
)
def test_mistakes_are_one_sentence(sets, root, capsys, arguments, message):
    status, _, err = run(capsys, root, "make", *arguments, "--name", "x")
    assert status == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert "x" not in sets.names() and not list(root.glob("x/.staging*"))


def test_sets_of_different_formats_are_named(sets, root, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(9)))
    run(capsys, root, "import", tmp_path / "t.jsonl", "--name", "t")
    status, _, err = run(capsys, root, "make", "a:v1", "t:v1", "--name", "x")
    assert status == 2 and "a:v1 is preference, t:v1 is language_modeling" in err


# -- scores, pairs and the best of many -----------------------------------------------------------------------------


def write_set(store, name, format, rows, held=()):
    """A dataset artifact as an import or stage=score leaves it."""
    folder = store.stage(name)
    (folder / "records").mkdir()
    for split, given in (("train", rows), ("eval", held)):
        if given:
            (folder / "records" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    return store.publish(folder, name=name, type="dataset", format=format)


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def thumbs(root):
    """Seven answers to three prompts, judged by a thumb and scored; the last prompt has only bad ones."""
    answers = [
        ("one", "a", True, 0.5),
        ("one", "b", False, 0.7),
        ("two", "c", True, 0.1),
        ("one", "d", True, 2.0),
        ("two", "e", False, -1.0),
        ("one", "f", False, -3.0),
        ("three", "g", False, 0.0),
    ]
    rows = [
        {"prompt": [{"role": "user", "content": prompt}], "completion": said(text), "label": label, "score": score}
        for prompt, text, label, score in answers
    ]
    store = Store(root)
    write_set(store, "thumbs", "unpaired_preference", [{**row, "id": str(i)} for i, row in enumerate(rows)])
    return store


def pairs(version):
    return [(row["chosen"][0]["content"] + row["rejected"][0]["content"]) for row in rows_of(version)]


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], ["df", "ce"]),  # of the good the best, of the bad the worst
        (["--pairs", "all"], ["db", "df", "ab", "af", "ce"]),
        (["--by", "score"], ["df", "ce"]),
        (["--by", "score", "--pairs", "all"], ["db", "da", "df", "ba", "bf", "af", "ce"]),
        (["--pairs", "all", "--min-margin", "2"], ["df", "af"]),
        (["--min-score", "1"], ["df"]),
    ],
)
def test_single_answers_become_pairs(thumbs, root, capsys, options, expected):
    status, out, err = run(capsys, root, "make", "thumbs:v1", "--name", "pairs", "--as", "preference", *options)
    made = thumbs.resolve("pairs")
    assert (status, err) == (0, "") and made.manifest.format == "preference"
    assert sorted(pairs(made)) == sorted(expected)
    (first,) = [row for row in rows_of(made) if pairs_of(row) == expected[0]]
    scores = {"a": 0.5, "b": 0.7, "c": 0.1, "d": 2.0, "e": -1.0, "f": -3.0}
    assert (first["score_chosen"], first["score_rejected"]) == tuple(scores[one] for one in expected[0])
    (part,) = made.manifest.notes["parts"]
    assert part["answers"]["in"] == 7 == part["answers"]["paired"] + part["answers"]["in no pair"]
    assert part["records_in"] == part["train"] + part["eval"] + sum(part["left_out"].values())
    assert "7 answers to 3 prompts" in out


def pairs_of(row):
    return row["chosen"][0]["content"] + row["rejected"][0]["content"]


def test_the_best_of_many_are_demonstrations(thumbs, root, capsys):
    run(capsys, root, "make", "thumbs:v1", "--name", "good", "--as", "prompt_completion")
    (part,) = thumbs.resolve("good").manifest.notes["parts"]
    assert (part["train"], part["left_out"]) == (3, {"labelled bad": 4})
    run(capsys, root, "make", "thumbs:v1", "--name", "best", "--as", "prompt_completion", "--best", "1")
    assert [(row["completion"][0]["content"], row["score"]) for row in rows_of(thumbs.resolve("best"))] == [
        ("c", 0.1),
        ("d", 2.0),
    ]
    # and demonstrations that were scored become pairs again
    run(capsys, root, "make", "good:v1", "--name", "again", "--as", "preference")
    assert pairs(thumbs.resolve("again")) == ["da"]


def test_scores_follow_the_side_they_are_of(root, capsys):
    store = Store(root)
    prompt = [{"role": "user", "content": "q"}]
    row = {"prompt": prompt, "chosen": said("x"), "rejected": said("y"), "score_chosen": 1.0, "score_rejected": 3.0}
    other = {**row, "prompt": [{"role": "user", "content": "r"}], "score_rejected": 0.0, "tools": [{"name": "t"}]}
    write_set(store, "p", "preference", [row, other])
    run(capsys, root, "make", "p:v1", "--name", "u", "--as", "unpaired_preference")
    ids = [row["id"] for row in rows_of(Store(root).resolve("u"))]
    assert len(set(ids)) == len(ids) and {id.rpartition(".")[2] for id in ids} == {"0", "1"}
    assert [(one["label"], one["score"]) for one in rows_of(store.resolve("u"))] == [
        (True, 1.0),
        (False, 3.0),
        (True, 1.0),
        (False, 0.0),
    ]
    assert "tools" in rows_of(store.resolve("u"))[3]
    _, out, _ = run(capsys, root, "make", "p:v1", "--name", "agreed", "--min-margin", "0")
    assert [one["score_rejected"] for one in rows_of(store.resolve("agreed"))] == [0.0]
    _, out, _ = run(capsys, root, "make", "p:v1", "--name", "same")
    assert "score_disagrees: 1 of 2" in out and "p:v1:0: -2.00  chosen: x" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["thumbs:v1", "--min-margin", "1"], "these are unpaired_preference: make pairs with --as preference"),
        (["thumbs:v1", "--by", "label"], "it goes with --as preference"),
        (["bare:v1", "--as", "preference"], "score the set first: deepspeed launch/run.py stage=score"),
        (["bare:v1", "--as", "preference", "--by", "label"], "whose answers have no labels"),
        (["bare:v1", "--min-score", "0"], "--min-score needs scores"),
        (["bare:v1", "--best", "1"], "--best needs scores"),
        (["bare:v1", "--best", "0"], "--best 0"),
    ],
)
def test_what_needs_scores_says_so(thumbs, root, capsys, arguments, message):
    write_set(thumbs, "bare", "prompt_completion", [{"prompt": "q", "completion": "a"}])
    status, _, err = run(capsys, root, "make", *arguments, "--name", "x")
    assert status == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1

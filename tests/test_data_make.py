"""`align data make`: sets out of sets, with every record accounted for."""

import json

import pytest

from align.artifacts.store import Store
from align.cli import main


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


def run(capsys, root, *arguments):
    status = main(["data", *map(str, arguments), "--artifacts", str(root)])
    out, err = capsys.readouterr()
    return status, out, err


def lines(version, split="train"):
    path = version.path / "records" / f"{split}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line] if path.is_file() else []


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
    train = lines(mix)
    names = [row["id"][0] for row in train]
    assert names.count("a") == 30 and names.count("b") == 10
    # spread evenly: every tenth of the file has its share
    assert all(2 <= names[i : i + 10].count("b") <= 3 for i in range(0, 40, 10))
    for part in mix.manifest.notes["parts"]:
        assert part["records_in"] == part["train"] + part["eval"] + sum(part["left_out"].values())
    assert [one["ref"] for one in mix.manifest.inputs["parts"]] == ["a:v1", "b:v1"]
    prompts = {split: {row["prompt"][0]["content"] for row in lines(mix, split)} for split in ("train", "eval")}
    assert not prompts["train"] & prompts["eval"] and "published mix:v1" in out
    _, again, _ = run(capsys, root, "make", "a:v1*0.75", "b:v1*0.25", "--name", "mix", "--rows", "40")
    assert "nothing to do: mix:v1" in again
    run(capsys, root, "make", "a:v1*0.75", "b:v1*0.25", "--name", "mix", "--rows", "40", "--seed", "1")
    assert {row["id"] for row in lines(sets.resolve("mix:v2"))} != {row["id"] for row in train}


def test_a_prompt_held_out_in_one_part_is_in_no_parts_train(sets, root, capsys):
    run(capsys, root, "make", "a:v1", "b:v1", "--name", "both")
    both = sets.resolve("both")
    held = {row["prompt"][0]["content"] for row in lines(both, "eval")}
    assert held == {row["prompt"][0]["content"] for name in ("a", "b") for row in lines(sets.resolve(name), "eval")}
    assert not held & {row["prompt"][0]["content"] for row in lines(both)}
    assert (
        len(lines(both))
        + len(lines(both, "eval"))
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
    assert few.manifest.format == "unpaired_preference" and len(lines(few)) == 20
    assert all(row["prompt"][0] == {"role": "system", "content": "Be brief."} for row in lines(few))
    run(capsys, root, "make", "a:v1", "--name", "long", "--max-chars", "45", "--min-chars", "5")
    (part,) = sets.resolve("long").manifest.notes["parts"]
    assert part["left_out"]["longer than max_chars"] > 10
    assert part["records_in"] == 100 == part["train"] + part["eval"] + sum(part["left_out"].values())


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

"""What a label means: defined by the columns' names or by whoever reads the file, never guessed; and always said."""

import json
import re

import pytest

from align.data.layouts.detect import UndefinedLabels
from align.data.layouts.judged import read_responses, read_two_outputs
from align.data.layouts.labels import labels_option, pair_choices
from align.data.layouts.parse import read_outcomes
from align.data.layouts.recognition import recognise_source
from align.data.layouts.verdicts import Mapped, Verdict, as_outcome
from align.data.readers.files import find_sources
from align.errors import UserError
from align.records import RecordError
from tests.data.data_command import check, load, run, write

WORDS = ("north", "south", "east", "west", "up", "down", "left", "right", "red", "blue", "green", "gold")


def judged(labels, first="response_a", second="response_b", label="label"):
    """A row for each label: the first answer says `one`, the second `two`."""
    return [
        {"prompt": f"Which word? {WORDS[i % 12]} {i}", first: f"one {i}", second: f"two {i}", label: value}
        for i, value in enumerate(labels)
    ]


def chosen(path, **source):
    records = load(path, "preference", layout="auto", eval_fraction=0, **source).records
    return [record.chosen[0]["content"].split()[0] for record in records]


@pytest.mark.parametrize(
    "value, column, pair, outcome",
    [
        (0, "better_response_id", ("response_0", "response_1"), 1),
        (1, "better_response_id", ("response_0", "response_1"), 2),
        (1, "overall_response", ("response_1", "response_2"), 1),
        (-1, "preference_strength", ("response_1", "response_2"), 1),
        (0, "preference_strength", ("response_1", "response_2"), 0),
        (3.0, "overall_preference", ("response1", "response2"), 2),
        (-100, "overall_preference", ("response1", "response2"), None),
        ("2", "label", ("output_1", "output_2"), 2),
        (2.0, "preference", ("output_1", "output_2"), 2),
        (1.5, "preference", ("output_1", "output_2"), 0),
        ("model_b", "winner", ("conversation_a", "conversation_b"), 2),
        ("Response A", "preference", ("Response A", "Response B"), 1),
        ("tie (bothbad)", "winner", ("response_a", "response_b"), 0),
        ("response_1", "label", ("response_0", "response_1"), 2),
        # numbers that no name defines
        (0, "label", ("response_0", "response_1"), None),
        (0, "label", ("response 1", "response 2"), None),
        (1, "label", ("response_a", "response_b"), None),
        (1, "winner", ("answer_a", "answer_b"), None),
        (True, "label", ("output_1", "output_2"), None),
        (3, "label", ("output_1", "output_2"), None),
        # ours, whatever the columns are called
        (Mapped("1", "0"), "better_response_id", ("response_0", "response_1"), 1),
        (Mapped("second", "x"), "label", ("response_0", "response_1"), 2),
        (Mapped("tie", "2"), "label", ("response_0", "response_1"), 0),
    ],
)
def test_a_number_means_what_the_names_of_the_columns_say(value, column, pair, outcome):
    assert as_outcome(value, column, pair) == outcome


@pytest.mark.parametrize(
    "labels, first, second, choices",
    [
        ([0, 1] * 20, "response_a", "response_b", ["0=first,1=second", "0=second,1=first"]),
        ([1, 2] * 20, "response_a", "response_b", ["1=first,2=second", "1=second,2=first"]),
        ([1, 1, 2, 0] * 20, "response 1", "response 2", ["0=first,1=second,2=tie", "0=tie,1=first,2=second"]),
        ([True, False] * 20, "output_1", "output_2", ["true=first,false=second", "true=second,false=first"]),
        (["x", "y"] * 20, "output_1", "output_2", ["x=first,y=second", "x=second,y=first"]),
        # the first 200 rows are 1 and 2, which output_1 and output_2 define; a 0 further down shows that they do not
        ([1, 2] * 150 + [0], "output_1", "output_2", ["0=first,1=second,2=tie", "0=tie,1=first,2=second"]),
    ],
)
def test_a_label_that_nothing_defines_is_refused_with_the_choices(tmp_path, capsys, labels, first, second, choices):
    file = write(tmp_path / "pairs.jsonl", judged(labels, first, second))
    commands = [
        ["check", file],
        ["import", file, "--name", "x"],
        ["import", file, "--name", "x", "--as", "preference"],
    ]
    for command in commands[: 1 if len(labels) > 200 else 3]:
        status, _, err = run(capsys, tmp_path / "store", *command)
        assert status == 2 and f"--labels {choices[0]} or --labels {choices[1]}" in err
        assert f"({labels.count(labels[0])} rows)" in err and "label holds" in err
    with pytest.raises(UndefinedLabels, match="data.preference.labels"):
        load(file, "preference", layout="auto", eval_fraction=0)
    assert chosen(file, labels=dict(pair.split("=") for pair in choices[0].split(",")))


def test_the_answers_follow_the_labels_that_were_given(tmp_path):
    file = write(tmp_path / "three.jsonl", judged([0, 1, 2]))
    assert chosen(file, labels={"0": "first", "1": "second", "2": "tie"}) == ["one", "two"]
    assert chosen(file, labels={"0": "tie", "1": "first", "2": "second"}) == ["one", "two"]
    assert chosen(file, labels={"0": "second", "1": "tie", "2": "first"}) == ["two", "one"]
    file = write(tmp_path / "two.jsonl", judged([0, 1]))
    assert chosen(file, labels={"0": "2", "1": "1"}) == ["two", "one"]


def test_columns_that_are_mapped_keep_their_numbering(tmp_path, capsys):
    rows = judged([0, 1, 0], "response_0", "response_1", "better_response_id")
    file = write(tmp_path / "safe.jsonl", rows)
    assert chosen(file) == ["one", "two", "one"]
    mapped = "output_1=response_0,output_2=response_1,label=better_response_id"
    status, _, err = run(capsys, tmp_path / "store", "check", file, "--columns", mapped)
    assert status == 2 and "--labels 0=first,1=second" in err
    status, out, _ = run(
        capsys, tmp_path / "store", "check", file, "--columns", mapped, "--labels", "0=first,1=second"
    )
    assert status == 0 and "0 -> first answer better (2), 1 -> second answer better (1)" in out


def test_every_report_says_how_each_label_was_read(tmp_path, capsys):
    file = write(tmp_path / "pairs.jsonl", judged([0] * 7 + [1] * 4 + [2] * 3))
    labels = ["--labels", "0=first,1=second,2=tie"]
    line = "label 0 -> first answer better (7), 1 -> second answer better (4), 2 -> tie (3)"
    page = tmp_path / "report.html"
    status, out, _ = run(capsys, tmp_path / "store", "check", file, *labels, "--html", page)
    assert status == 0 and line in out
    assert re.sub("&gt;", ">", page.read_text()).count(line) == 1
    assert [(row["value"], row["meaning"], row["count"]) for row in check(capsys, file, *labels)["labels"]] == [
        ("0", "first answer better", 7),
        ("1", "second answer better", 4),
        ("2", "tie", 3),
    ]
    for _ in range(2):  # published, then found published
        status, out, _ = run(capsys, tmp_path / "store", "import", file, *labels, "--name", "x")
        assert status == 0 and line in out
    words = {"0": "first", "1": "second", "2": "tie"}
    assert load(file, "preference", layout="auto", eval_fraction=0, labels=words).columns == [line]


@pytest.mark.parametrize(
    "rows, line",
    [
        (
            [{"prompt": "a", "completion": f"b {i}", "label": i % 2} for i in range(4)],
            "label 0 -> bad (2), 1 -> good (2)",
        ),
        (
            [{"question": "a", "answer": f"b {i}", "thumbs": ("up", "down")[i % 2]} for i in range(4)],
            "thumbs down -> bad (2), up -> good (2)",
        ),
        (
            [{"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]}],
            "scores number -> score, the highest is best (1)",
        ),
        (
            [{"prompt": "a", "responses": [{"text": "b", "rank": 1}, {"text": "c", "rank": 2}]}],
            "rank number -> rank, the lowest is best (1)",
        ),
        (
            [
                {
                    "instruction": "a",
                    "response1": "b",
                    "response2": "c",
                    "annotator1": 1,
                    "annotator2": 0,
                    "annotator3": 1,
                }
            ],
            "annotators 0 -> tie (1), 1 -> first answer better (2)",
        ),
    ],
)
def test_labels_of_every_kind_are_counted(tmp_path, rows, line):
    (source,) = find_sources([str(write(tmp_path / "rows.jsonl", rows))])
    report_lines = load(source.path, recognise_source(source).format, layout="auto", eval_fraction=0).columns
    assert line in report_lines


def test_an_unknown_word_among_known_ones_is_a_row_refused(tmp_path):
    (source,) = find_sources([str(write(tmp_path / "rows.jsonl", judged(["A", "B", "skip", "tie"])))])
    reading = recognise_source(source)
    refusals = [str(outcome.refusal) for outcome in read_outcomes([source], reading) if outcome.refusal]
    assert 'label is "skip", and nothing says which answer that is' in refusals[0] and len(refusals) == 2


def test_numbers_that_no_name_defines_are_not_a_thumb(tmp_path, capsys):
    rows = [{"question": f"q {i}", "answer": f"a {i}", "label": i % 2} for i in range(6)]
    file = write(tmp_path / "rows.jsonl", rows)
    status, _, err = run(capsys, tmp_path / "store", "import", file, "--name", "x")
    assert status == 2 and "--labels 0=bad,1=good or --labels 0=good,1=bad" in err
    status, out, _ = run(capsys, tmp_path / "store", "import", file, "--name", "x", "--labels", "0=good,1=bad")
    assert status == 0 and "label 0 -> good (3), 1 -> bad (3)" in out and "unpaired_preference" in out
    with pytest.raises(UserError, match="label is .0., neither up nor down"):
        load(file, "unpaired_preference", layout="auto", eval_fraction=0)


def test_scores_of_two_answers_judge_them_where_no_label_does():
    row = {"question": "q", "response_a": "b", "response_b": "c", "rating_a": 3, "rating_b": "5"}
    assert read_two_outputs(row).verdicts == [Verdict(0, 1, 2, margin=2.0)]
    assert read_two_outputs({**row, "rating_b": 3}).verdicts == [Verdict(0, 1, 0)]
    assert read_two_outputs({**row, "winner": "a"}).verdicts == [Verdict(0, 1, 1)]
    with pytest.raises(RecordError, match="rating_b holds .x., not a finite number"):
        read_two_outputs({**row, "rating_b": "x"})


def test_a_ranking_that_could_be_an_order_is_refused():
    row = {"prompt": "a", "responses": ["b", "c", "d"]}
    with pytest.raises(RecordError, match=r"ranking is \[2, 0, 1\]: the rank of each answer, or .*ranks=ranking"):
        read_responses({**row, "ranking": [2, 0, 1]})
    same = read_responses({**row, "ranking": [1, 0, 2]})  # the second is the best either way
    assert same == read_responses({**row, "ranks": [1, 0, 2]})
    assert [verdict.outcome for verdict in read_responses({**row, "ranks": [2, 0, 1]}).verdicts] == [2, 2, 1]


def test_choices_for_values_of_many_kinds():
    assert pair_choices(["-1", "1", "0"]) == ["-1=first,0=tie,1=second", "-1=second,0=tie,1=first"]
    assert labels_option("-1=first") == "--labels=-1=first" and labels_option("1=first") == "--labels 1=first"
    assert pair_choices(["1"]) == ["1=first", "1=second"]
    assert pair_choices(list("abcde"))[0].startswith("a=first|second|tie,b=")


def test_a_stage_says_how_it_reads_a_label(tmp_path, capsys):
    from align.config.compose import compose
    from align.data.loading.examples import load_examples

    rows = [
        {
            "messages": [{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": f"a {i}"}],
            "label": i < 30,
        }
        for i in range(40)
    ]
    file = write(tmp_path / "kto.jsonl", [{**row, "second_label": "x"} for row in rows])
    data = compose(["stage=kto", "data=local", f"data.unpaired_preference.train={file}"]).data
    load_examples(data, None, "unpaired_preference", tokenizer=None)
    out = capsys.readouterr().out
    assert out.count("kto.jsonl: label false -> bad (10), true -> good (30)") == 1
    assert out.count("kto.jsonl: columns not read: second_label (looks like a label: x 40)") == 1
    with pytest.raises(UserError, match="holds unpaired_preference rows"):
        load(file, "prompt_completion", layout="auto", eval_fraction=0)


def test_a_config_takes_numbers_as_keys():
    from align.config.compose import compose

    cfg = compose(["stage=dpo", "data=local", "data.preference.labels={0: first, 1: second, 2: tie}"])
    assert json.loads(json.dumps(dict(cfg.data.preference.labels))) == {"0": "first", "1": "second", "2": "tie"}

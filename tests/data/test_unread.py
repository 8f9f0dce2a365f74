"""Columns that no record is made of: measured, said in every report, and never passed over where they judge."""

from dataclasses import dataclass, field

import pytest

from align.data.layouts.looks import looks_like
from align.data.layouts.mapping import Names
from align.data.layouts.parse import Reading, outcomes_of, read_outcomes
from align.data.layouts.recognition import recognise_source
from align.data.layouts.unread import ColumnUse
from align.data.quality.columns import column_findings
from align.data.readers.files import Source
from align.errors import UserError
from tests.data.data_command import check, found, run, write
from tests.data.test_layouts import GOLDEN


@dataclass(frozen=True)
class Rows(Source):
    """Rows that are in memory."""

    held: list = field(default_factory=list)

    def rows(self):
        yield from enumerate(self.held)


def use_of(rows, **options):
    source = Rows("rows.jsonl", None, held=rows)
    use = ColumnUse(recognise_source(source, **options))
    for outcome in read_outcomes([source], use.reading):
        use.observe(outcome)
    return use


def unread(rows, **options):
    return [column.name for column in use_of(rows, **options).unread()]


@pytest.mark.parametrize("layout, format, row, records", GOLDEN, ids=[f"{one[0]}-{i}" for i, one in enumerate(GOLDEN)])
def test_a_layout_reads_its_own_columns(layout, format, row, records):
    """What a layout names in its sample is read, save what is no part of a record."""
    names = {"message_tree_id", "question_id", "id", "ID", "section_header", "final_decision", "messages.weight"}
    assert set(unread([row], wanted=format)) <= names | ({"deleted", "rank"} if format != "preference" else set())


JUDGING = [("is_good", False), ("kto_tag", True), ("preference", "x9"), ("rating", "4/5"), ("quality_score", 3.5)]
JUDGING += [
    ("winner_id", 17),
    ("human_label", "meh"),
    ("Verdict ", "unclear"),
    ("rejected_by", "k"),
    ("annotation", 2),
]


@pytest.mark.parametrize("layout, format, row, records", GOLDEN, ids=[f"{one[0]}-{i}" for i, one in enumerate(GOLDEN)])
def test_no_layout_passes_over_a_judgement(layout, format, row, records):
    """A column that judges, added to the sample of any layout, is read, or it is a finding, or the file is refused."""
    for name, value in JUDGING:
        if name in row:
            continue
        judged = {**row, name: value}
        try:
            use = use_of([judged] * 3)
        except UserError:
            continue
        findings = []
        column_findings(use, findings, rows=3, chosen=False)
        is_read = any(label["column"] == name for label in use.labels.rows()) or name not in unread([judged])
        flagged = [finding for finding in findings if name in finding.message]
        assert is_read or (flagged and flagged[0].severity == "error"), (layout, name)


@pytest.mark.parametrize("layout, format, row, records", GOLDEN, ids=[f"{one[0]}-{i}" for i, one in enumerate(GOLDEN)])
@pytest.mark.parametrize(
    "name, value", [("system", "Be terse."), ("system_prompt", "Be terse."), ("history", [["Be terse.", "Yes."]])]
)
def test_no_layout_loses_a_system_message_or_earlier_turns(layout, format, row, records, name, value):
    """They are in the prompt, or the row is refused, or the column is a finding."""
    if "system" in row:
        return
    source = Rows("rows.jsonl", None, held=[{**row, name: value}])
    reading = recognise_source(source, wanted=format)
    (outcome, *_) = read_outcomes([source], reading)
    use = ColumnUse(reading)
    use.observe(outcome)
    if outcome.records and name not in [column.name for column in use.unread() if column.looks_like]:
        turns = getattr(outcome.records[0], "prompt", None) or outcome.records[0].content
        assert turns[0] == {"role": "system" if name != "history" else "user", "content": "Be terse."}
        assert layout not in ("instances", "hh_rlhf", "message_tree", "turns", "string", "openai_preference")


@pytest.mark.parametrize(
    "row, name, what",
    [
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "verdict_2",
            "a label",
        ),
        ({"prompt": "a", "completion": "b"}, "label", "a label"),
        ({"prompt": "a", "completion": "b"}, "input", "a part of the prompt"),
        ({"prompt": "a", "completion": "b"}, "images", "an image, sound or video"),
        ({"prompt": "a"}, "Response B", "another answer"),
        ({"question": "a", "answer": "b"}, "persona", "a system prompt"),
        ({"question": "a", "answer": "b"}, "previous_turns", "earlier turns"),
        ({"question": "a", "answer": "b"}, "available_functions", "tools"),
    ],
)
def test_what_an_unread_column_seems_to_be(row, name, what):
    use = use_of([{**row, name: 7 if name == "label" else "x"}])
    assert [(column.name, column.looks_like) for column in use.unread()] == [(name, what)]


@pytest.mark.parametrize(
    "name", ["id", "prompt_id", "source", "url", "question_id", "model", "category", "language", "topic"]
)
def test_an_id_or_a_source_needs_no_saying(name):
    assert looks_like(name) is None


def test_keys_inside_a_column_are_columns_too():
    row = {"instruction": "a", "completions": [{"response": "b", "overall_score": 1, "custom_system_prompt": "x"}]}
    row["completions"].append({"response": "c", "overall_score": 2, "custom_system_prompt": "y"})
    (column,) = use_of([row]).unread()
    assert (column.name, column.looks_like) == ("completions.custom_system_prompt", "a system prompt")
    tree = {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Two?", "quality": 0.5}
    replies = [
        {
            "message_id": f"b{rank}",
            "parent_id": "a",
            "role": "assistant",
            "text": f"{rank}",
            "rank": rank,
            "quality": 0.2,
        }
        for rank in (0, 1)
    ]
    assert ("quality", "a score") in [(column.name, column.looks_like) for column in use_of([tree, *replies]).unread()]


def test_a_column_that_is_read_in_some_rows_is_read():
    rows = [{"question": f"q {i}", "answer": "a", "system": ""} for i in range(300)]
    assert unread(rows) == []  # it holds nothing
    assert unread([*rows, {"question": "q", "answer": "a", "system": "Be brief."}]) == []


def test_columns_are_called_as_the_file_calls_them():
    rows = [{"Frage": "a", "Antwort": "b", "Note": "c"}]
    names = Names({"question": "Frage", "answer": "Antwort", "output": "Note"})
    use = ColumnUse(Reading("question_answer", "prompt_completion", names))
    use.observe(next(outcomes_of("rows.jsonl", enumerate(rows), use.reading)))
    assert [column.name for column in use.unread()] == ["Note"]


def test_a_column_that_gave_way_to_a_mapped_one_needs_no_saying(tmp_path, capsys):
    rows = [{"question": f"q {i}", "answer": "b", "label": "x", "human": "good"} for i in range(9)]
    (column,) = use_of(rows, names=Names({"label": "human"})).unread()
    assert column.name.startswith("label (") and column.looks_like is None
    file = write(tmp_path / "rows.jsonl", rows)
    status, out, _ = run(capsys, tmp_path / "store", "import", file, "--name", "x", "--columns", "label=human")
    assert status == 0 and "columns not read: label (" in out


def test_reports_name_the_columns_that_were_not_read(tmp_path, capsys):
    rows = [{"question": f"q {i}", "answer": f"a {i}", "source": "web", "human_label": "maybe"} for i in range(20)]
    file, page = write(tmp_path / "rows.jsonl", rows), tmp_path / "report.html"
    line = "columns not read: source, human_label (looks like a label)"
    status, out, _ = run(capsys, tmp_path / "store", "check", file, "--html", page)
    assert status == 0 and line in out and line in page.read_text()
    assert "columns read: prompt <- question; completion <- answer" in out
    assert "columns read: prompt &lt;- question; completion &lt;- answer" in page.read_text()
    report = check(capsys, file)
    assert [column["name"] for column in report["unread"]] == ["source", "human_label"]
    assert report["read"] == {"question": ["prompt"], "answer": ["completion"]}
    assert report["unread"][1] == {"name": "human_label", "rows": 20, "looks_like": "a label", "values": {"maybe": 20}}
    assert found(report)["unread_columns"]["severity"] == report["verdict"] == "warning"


def test_an_import_stops_at_a_judgement_that_it_would_leave_out(tmp_path, capsys):
    rows = [{"question": f"q {i}", "answer": f"a {i}", "human_label": "yes"} for i in range(20)]
    file = write(tmp_path / "rows.jsonl", rows)
    status, _, err = run(capsys, tmp_path / "store", "import", file, "--name", "x")
    assert status == 2 and "unread_columns" in err and "human_label looks like a label: yes 20 (20 rows)" in err
    assert "--columns label=human_label" in err and "--as prompt_completion" in err
    status, out, _ = run(capsys, tmp_path / "store", "import", file, "--name", "x", "--as", "prompt_completion")
    assert status == 0 and "WARNING: unread_columns" in out
    mapped = ["--columns", "label=human_label"]
    status, out, _ = run(capsys, tmp_path / "store", "import", file, "--name", "y", *mapped)
    assert status == 0 and "label yes -> good (20)" in out


@pytest.mark.parametrize(
    "row, read",
    [
        ({"instruction": "a", "input": "b", "output": "c", "system": "d"},
         {"instruction": ["prompt"], "input": ["prompt"], "output": ["completion"], "system": ["prompt"]}),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
         {"messages": ["prompt", "completion"]}),
        ({"question": "a", "answer": "b", "liked": True, "score": 0.5},
         {"question": ["prompt"], "answer": ["completion"], "liked": ["label"], "score": ["score"]}),
        ({"prompt": "a", "output_1": "b", "output_2": "c", "label": 2},
         {"prompt": ["prompt"], "output_1": ["rejected"], "output_2": ["chosen"], "label": ["label"]}),
        ({"prompt": "a", "responses": ["b", "c"], "scores": [1, 2]},
         {"prompt": ["prompt"], "responses": ["chosen", "rejected"], "scores": ["label"]}),
        ({"input": "a", "response1": "b", "response2": "c", "annotator1": 1, "annotator2": 1},
         {"input": ["prompt"], "response1": ["chosen"], "response2": ["rejected"], "annotator1": ["label"],
          "annotator2": ["label"]}),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1.0, "tools": [{"name": "x"}]},
         {"prompt": ["prompt"], "chosen": ["chosen"], "rejected": ["rejected"], "margin": ["margin"],
          "tools": ["tools"]}),
    ],
)  # fmt: skip
def test_each_column_that_is_read_is_told_with_the_fields_made_of_it(row, read):
    assert use_of([row] * 3).read() == read


def test_fields_are_gathered_from_several_rows():
    rows = [{"prompt": f"a{i}", "output_1": f"b{i}", "output_2": f"c{i}", "label": 1 + i % 2} for i in range(4)]
    assert use_of(rows).read()["output_1"] == ["chosen", "rejected"]

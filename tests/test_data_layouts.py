"""Each layout on rows written for this project, each kind of file, and how a file is recognised."""

import gzip
import json
import zipfile

import pytest

from align.data.layouts.formats import LAYOUTS
from align.data.layouts.judged import read_annotators
from align.data.layouts.recognise import recognise
from align.data.layouts.trees import gather
from align.data.layouts.verdicts import majority
from align.data.readers import MAX_LINE, Unreadable, read_rows
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, RecordError, Text, UnpairedPreference


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return [{"role": "assistant", "content": text}]


Q = "How many legs has a spider?"
P = [user(Q)]
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "role": "prompter",
        "text": Q,
        "replies": [
            {"role": "assistant", "text": "six", "rank": 2, "replies": []},
            {
                "role": "assistant",
                "text": "eight",
                "rank": 0,
                "replies": [
                    {
                        "role": "prompter",
                        "text": "Sure?",
                        "replies": [
                            {"role": "assistant", "text": "yes", "rank": 0, "replies": []},
                            {"role": "assistant", "text": "no", "replies": []},
                        ],
                    }
                ],
            },
            {"role": "assistant", "text": "8", "rank": 1, "replies": []},
            {"role": "assistant", "text": "none", "rank": 3, "deleted": True, "replies": []},
        ],
    },
}
SHAREGPT = {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": "8"}]}

GOLDEN = [
    ("sharegpt", "prompt_completion", SHAREGPT, [Demonstration(P, said("8"))]),
    ("sharegpt", "language_modeling", SHAREGPT, [Text(P + said("8"))]),
    (
        "sharegpt",
        "prompt_completion",
        {"system": "Count.", **SHAREGPT},
        [Demonstration([{"role": "system", "content": "Count."}, *P], said("8"))],
    ),
    (
        "sharegpt",
        "preference",
        {
            "conversations": [{"from": "human", "value": Q}],
            "chosen": {"from": "gpt", "value": "8"},
            "rejected": {"from": "gpt", "value": "6"},
        },
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "messages",
        "prompt_completion",
        {
            "messages": [
                user("Rain?"),
                {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "weather"}}]},
                {"role": "tool", "tool_call_id": "1", "content": "dry"},
                *said("No."),
            ]
        },
        [
            Demonstration(
                [
                    user("Rain?"),
                    {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "weather"}}]},
                    {"role": "tool", "tool_call_id": "1", "content": "dry"},
                ],
                said("No."),
            )
        ],
    ),
    (
        "openai_preference",
        "preference",
        {"input": {"messages": P}, "preferred_output": said("8"), "non_preferred_output": said("6")},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "two_outputs",
        "preference",
        {"input": Q, "output_1": "6", "output_2": "8", "label": 2},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "two_outputs",
        "preference",
        {"instruction": "Count.", "input": "aa", "output_1": "2", "output_2": "3", "preference": "1"},
        [Preference([user("Count.\n\naa")], said("2"), said("3"))],
    ),
    (
        "two_outputs",
        "preference",
        {"conversation_a": P + said("6"), "conversation_b": P + said("8"), "winner": "model_b"},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "annotators",
        "preference",
        {"instruction": Q, "input": "", "response1": "8", "response2": "6", "annotator1": 1, "annotator2": 1}
        | {"annotator3": 2},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "responses",
        "preference",
        {"prompt": Q, "responses": ["6", "8", "eight"], "scores": [0, 2, 2]},
        [Preference(P, said("8"), said("6"), 2.0), Preference(P, said("eight"), said("6"), 2.0)],
    ),
    (
        "responses",
        "preference",
        {"instruction": Q, "completions": [{"response": "6", "rank": 2}, {"response": "8", "rank": 1}]},
        [Preference(P, said("8"), said("6"))],
    ),
    (
        "pairwise_votes",
        "preference",
        {"question": Q, "passages": [["Spiders", "They have eight legs."]], "preference": [2, 0, 1]}
        | {"prediction 1": "6", "prediction 2": "8", "prediction 3": "7"},
        [
            Preference([user(f"Spiders\nThey have eight legs.\n\n{Q}")], said("8"), said("6")),
            Preference([user(f"Spiders\nThey have eight legs.\n\n{Q}")], said("8"), said("7")),
        ],
    ),
    (
        "verdict",
        "unpaired_preference",
        {"prompt": Q, "response": "8", "thumbs": "up"},
        [UnpairedPreference(P, said("8"), True)],
    ),
    (
        "verdict",
        "unpaired_preference",
        {"question": Q, "solution": "6", "is_correct": False},
        [UnpairedPreference(P, said("6"), False)],
    ),
    (
        "message_tree",
        "preference",
        TREE,
        [
            Preference(P, said("eight"), said("8")),
            Preference(P, said("eight"), said("six")),
            Preference(P, said("8"), said("six")),
        ],
    ),
    (
        "message_tree",
        "prompt_completion",
        TREE,
        [Demonstration(P, said("eight")), Demonstration([*P, *said("eight"), user("Sure?")], said("yes"))],
    ),
    ("message_tree", "prompt_only", TREE, [Prompt(P)]),
    (
        "question_answer",
        "prompt_completion",
        {"id": "7", "QUESTION": Q, "CONTEXTS": ["A.", "B."], "LONG_ANSWER": "Eight.", "final_decision": "yes"},
        [Demonstration([user(f"A.\nB.\n\n{Q}")], said("Eight."))],
    ),
    (
        "question_answer",
        "prompt_completion",
        {"ID": "0", "section_header": "CC", "section_text": "Pain.", "dialogue": "Doctor: What?"},
        [Demonstration([user("Doctor: What?")], said("Pain."))],
    ),
    (
        "instances",
        "prompt_completion",
        {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "?"}]},
        [Demonstration([user("Add.\n\n1 1")], said("2")), Demonstration([user("Add.")], said("?"))],
    ),
    ("turns", "prompt_only", {"question_id": 1, "turns": [Q, "And an ant?"]}, [Prompt(P)]),
    ("string", "prompt_only", {"string": Q}, [Prompt(P)]),
    ("alpaca", "prompt_completion", {"instruction": [Q], "input": "", "output": ["8"]}, [Demonstration(P, said("8"))]),
]


@pytest.mark.parametrize("layout, format, row, records", GOLDEN, ids=[f"{one[0]}-{i}" for i, one in enumerate(GOLDEN)])
def test_a_row_becomes_these_records(layout, format, row, records):
    assert LAYOUTS[layout](row, format) == records


@pytest.mark.parametrize("layout, format, row, records", GOLDEN, ids=[f"{one[0]}-{i}" for i, one in enumerate(GOLDEN)])
def test_a_layout_is_recognised_by_content(layout, format, row, records):
    found = recognise([row], "rows.jsonl")
    assert found.layout == layout
    assert found.format == format or format in ("language_modeling", "prompt_only", "prompt_completion")


@pytest.mark.parametrize(
    "layout, row, why",
    [
        ("two_outputs", {"input": "a", "output_1": "b", "output_2": "c", "label": 0}, "is a tie"),
        ("two_outputs", {"input": "a", "output_1": "b", "output_2": "c", "label": "x"}, 'label is "x", not 1'),
        ("two_outputs", {"input": "a", "output_1": True, "output_2": "c", "label": 1}, "output_1 is true"),
        ("two_outputs", {"input": "a", "output_1": " ", "output_2": "c", "label": 1}, "output_1 is empty"),
        ("two_outputs", {"input": "a", "output_1": "b", "output_2": "b", "label": 1}, "same as chosen"),
        ("annotators", {"response1": "a", "response2": "b", "annotator1": 5}, "annotator1 is 5"),
        ("annotators", {"response1": "a", "response2": "b"}, "annotator1 is missing"),
        ("responses", {"prompt": "a", "responses": ["b", "c"], "scores": [1, 1]}, "is a tie"),
        ("responses", {"prompt": "a", "responses": ["b", "c"]}, "scores are missing"),
        ("responses", {"prompt": "a", "responses": ["b", "c"], "scores": [1, float("nan")]}, "not a finite number"),
        ("responses", {"prompt": "a", "responses": ["b", "c"], "scores": [1]}, "are 1 for 2"),
        (
            "pairwise_votes",
            {"question": "a", "prediction 1": "b", "prediction 2": "c", "preference": []},
            "1 verdicts",
        ),
        ("verdict", {"prompt": "a", "response": "b", "thumbs": "sideways"}, "neither up nor down"),
        ("message_tree", {"prompt": {"role": "prompter", "text": "a", "replies": []}}, "hold no two ranked"),
        ("sharegpt", {"conversations": [{"from": "alien", "value": "a"}]}, 'from is "alien"'),
        ("sharegpt", {"conversations": [{"from": "human", "value": "a"}]}, "there is no completion"),
        ("turns", {"turns": []}, "not a list of questions"),
    ],
)
def test_a_malformed_row_says_why(layout, row, why):
    with pytest.raises(RecordError) as caught:
        LAYOUTS[layout](row, "preference")
    assert why in str(caught.value)


def test_majority_is_more_than_half():
    assert [majority(votes) for votes in ((1, 1, 2), (0, 1, 2), (1, 2), (2,), (0, 0, 1))] == [1, 0, 0, 2, 0]
    row = {"instruction": "a", "response1": "b", "response2": "c", "annotator1": 1, "annotator2": None}
    assert read_annotators(row).verdicts[0].votes == (1,)


def test_a_flat_list_of_messages_becomes_trees():
    flat = [
        (0, {"message_id": "a", "parent_id": None, "role": "prompter", "text": Q}),
        (1, {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "8", "rank": 0}),
        (2, {"message_id": "c", "parent_id": "a", "role": "assistant", "text": "6", "rank": 1}),
        (3, {"message_id": "d", "parent_id": "gone", "role": "assistant", "text": "?"}),
    ]
    (first, tree), (orphan, row) = gather(flat)
    assert (first, orphan) == (0, 3)
    assert LAYOUTS["message_tree"](tree, "preference") == [Preference(P, said("8"), said("6"))]
    with pytest.raises(RecordError, match='no message "gone"'):
        LAYOUTS["message_tree"](row, "preference")


def test_what_no_layout_fits_is_named_with_its_fields():
    with pytest.raises(UserError, match="rows.csv: no layout is known that has the fields Frage, Recall.*--columns"):
        recognise([{"Frage": "was?", "Recall": "0"}], "rows.csv")
    with pytest.raises(UserError, match="rows.csv: holds numbers alone.*--beside"):
        recognise([{"Precision": "1", "Recall": "0"}, {"Precision": "", "Recall": 0.5}], "rows.csv")
    with pytest.raises(UserError, match="no row of it can be read, the first: is bad"):
        recognise([Unreadable("is bad")], "rows.jsonl")


# Files


ROWS = [{"prompt": "a", "completion": "b\u2028c"}, {"prompt": "d", "completion": "e"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data):
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name, pack", [("rows.jsonl.gz", gzip.compress), ("rows.jsonl.zst", zstd)])
def test_packed_lines(tmp_path, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(LINES))
    assert list(read_rows(path)) == list(enumerate(ROWS))
    path.write_bytes(pack(LINES * 2000)[:-9])
    with pytest.raises(UserError, match="is not a whole"):
        list(read_rows(path))
    path.write_bytes(b"no such thing")
    with pytest.raises(UserError, match=r"is not a whole"):
        list(read_rows(path))


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow(tmp_path, kind):
    import pyarrow

    table, path = pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.arrow"
    make = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with pyarrow.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table)
    assert list(read_rows(path)) == list(enumerate(ROWS))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="is not an Arrow file"):
        list(read_rows(path))


def test_xlsx_and_its_formulas(tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl comes with align[data]")
    book = openpyxl.Workbook()
    for cells in (["prompt", "completion"], ["a", "b"], ["=A2", "c"], [None, None], ["d", 5]):
        book.active.append(cells)
    book.save(tmp_path / "rows.xlsx")
    (_, first), (number, formula), (_, last) = read_rows(tmp_path / "rows.xlsx")
    assert first == {"prompt": "a", "completion": "b"} and last == {"prompt": "d", "completion": 5}
    assert number == 1 and formula.why == 'has a formula in A3 ("=A2"): paste its value'
    (tmp_path / "rows.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="is not a workbook"):
        list(read_rows(tmp_path / "rows.xlsx"))


def test_a_workbook_is_not_unpacked_without_a_bound(tmp_path, monkeypatch):
    pytest.importorskip("openpyxl", reason="openpyxl comes with align[data]")
    with zipfile.ZipFile(tmp_path / "rows.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/sharedStrings.xml", "x" * 2**20)
    monkeypatch.setattr("align.data.readers.MAX_FILE", 2**19)
    with pytest.raises(UserError, match="unpacks to more than"):
        list(read_rows(tmp_path / "rows.xlsx"))


def test_a_table_line_without_end_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("align.data.readers.MAX_LINE", 1000)
    (tmp_path / "rows.csv").write_bytes(b"prompt,completion\na,b\n" + b"x" * 5000)
    rows = read_rows(tmp_path / "rows.csv")
    assert next(rows) == (0, {"prompt": "a", "completion": "b"})
    with pytest.raises(UserError, match="holds a line of more than"):
        next(rows)


def test_json_keyed_by_id(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"x": {"a": 1}, "y": {"a": 2, "id": "own"}}))
    assert [row for _, row in read_rows(tmp_path / "rows.json")] == [{"id": "x", "a": 1}, {"id": "own", "a": 2}]


def test_plain_text_is_cut_at_blank_lines_and_loses_nothing(tmp_path):
    text = "".join(f"line {i}\r\n{'' if i % 7 else chr(10)}" for i in range(2000)) + "end without a line end é"
    (tmp_path / "book.txt").write_bytes(text.encode())
    blocks = [row["text"] for _, row in read_rows(tmp_path / "book.txt")]
    assert "".join(blocks) == text and len(blocks) > 5
    assert all(block.endswith("\n\n") and len(block) < 2300 for block in blocks[:-1])
    (tmp_path / "book.txt").write_bytes(b"x" * 250_000)
    assert [len(row["text"]) for _, row in read_rows(tmp_path / "book.txt")] == [100_000, 100_000, 50_000]


def test_a_line_without_end_is_refused_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("align.data.readers.MAX_LINE", 1000)
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": "' + b"x" * 5000 + b'"}\n{"a": "b"}\n')
    (_, first), (number, second) = read_rows(tmp_path / "rows.jsonl")
    assert isinstance(first, Unreadable) and "is a line of more than" in first.why
    assert (number, second) == (1, {"a": "b"}) and MAX_LINE >= 2**20

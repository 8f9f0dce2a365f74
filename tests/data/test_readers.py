"""Files as rows: every kind that is read, what is broken in one, and no read without a bound."""

import gzip
import json

import pytest

from align.data.loading.sources import DatasetSource, digest
from align.data.readers import files
from align.data.readers.read import read_rows
from align.data.readers.row import Unreadable
from align.errors import UserError
from tests.data.data_command import FILES, check, fixture, found, load


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_is_split_at_line_feeds_only(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"text": "a\u2028b\u2029c\x85d"}\r\n\n{"text": "e\\r\\nf"}'.encode())
    assert list(read_rows(path)) == [(0, {"text": "a\u2028b\u2029c\x85d"}), (2, {"text": "e\r\nf"})]


def test_jsonl_names_each_broken_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'{"text": "a"}\n{"text": \n"a"\n' + b'{"text": "\xff"}\n' + deep + b'\n{"text": "z"}\n')
    rows = list(read_rows(path))
    assert [row for _, row in rows if not isinstance(row, Unreadable)] == [{"text": "a"}, {"text": "z"}]
    reasons = [row.why for _, row in rows if isinstance(row, Unreadable)]
    expected = [
        "is not JSON",
        'is "a", not an object',
        "is not UTF-8 (byte 0xff at offset 10)",
        "is not JSON that can",
    ]
    assert all(reason.startswith(start) for reason, start in zip(reasons, expected, strict=True))


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"data": rows, "version": 1}], ids=["list", "data"])
def test_json(tmp_path, wrap):
    path = tmp_path / "rows.json"
    path.write_text("\ufeff" + json.dumps(wrap([{"text": "a"}, 3, {"text": "b"}])), encoding="utf-8")
    (_, first), (_, second), (number, third) = read_rows(path)
    assert (first, number, third) == ({"text": "a"}, 2, {"text": "b"})
    assert second == Unreadable("is 3, not an object with named fields")


def test_csv_with_bom_and_line_ends_in_quotes(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes('\ufeffprompt,completion\r\n"a, ""b""\r\nc",d\r\n\r\ne,"f\u2028\n"\r\ng\r\n'.encode())
    assert list(read_rows(path)) == [
        (0, {"prompt": 'a, "b"\r\nc', "completion": "d"}),
        (1, {"prompt": "e", "completion": "f\u2028\n"}),
        (2, Unreadable('has 1 cells, the header has 2 (["g"])')),
    ]


def test_tsv_and_a_large_cell(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("prompt\tcompletion\na, b\t" + "x" * 300_000 + "\n")
    assert list(read_rows(path)) == [(0, {"prompt": "a, b", "completion": "x" * 300_000})]


def test_parquet_keeps_messages_and_leaves_out_what_is_null(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = fixture("messages.jsonl")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    options = {"layout": "messages", "eval_fraction": 0}
    from_parquet = load(tmp_path / "rows.parquet", "prompt_completion", **options)
    assert from_parquet.records == load(FILES / "messages.jsonl", "prompt_completion", **options).records


def test_json_lines_under_the_name_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('\ufeff{"a": 1}\n\n{"a": \n{"a": 3, "a": 4}\n{"a": 5}\n', encoding="utf-8")
    rows = list(read_rows(path))
    assert [number for number, _ in rows] == [0, 2, 3, 4]
    assert rows[0][1] == {"a": 1} and rows[3][1] == {"a": 5}
    assert rows[1][1].why.startswith("is not JSON") and 'has the key "a" twice' in rows[2][1].why


@pytest.mark.parametrize("piece", [1, 7, 2**18])
def test_a_json_list_is_read_value_by_value_however_it_is_cut(tmp_path, monkeypatch, piece):
    monkeypatch.setattr("align.data.readers.json_values.CHUNK", piece)
    rows = [{"text": 'é "quoted" \\ \u4f60' * n, "n": n * 1234567, "deep": [[{"x": None}]]} for n in range(9)]
    (tmp_path / "rows.json").write_text(
        json.dumps([*rows, 12345, "last"], indent=4 if piece == 7 else None), encoding="utf-8"
    )
    read = [row for _, row in read_rows(tmp_path / "rows.json")]
    assert read[:9] == rows and [row.value for row in read[9:]] == [12345, "last"]
    for broken, why in (
        ('[{"a": 1}, {"a": 2', "is not JSON"),
        ('[{"a": 1}] x', "more follows"),
        ("[1 2]", "expecting"),
    ):
        (tmp_path / "rows.json").write_text(broken)
        with pytest.raises(UserError, match=why):
            list(read_rows(tmp_path / "rows.json"))


@pytest.mark.parametrize(
    "text, rows",
    [
        ('{"version": {"a": 1}, "data": [{"b": 1}, 3], "more": 2}', [{"b": 1}, None]),
        ('{"data": {"b": 1}, "y": {"b": 2}}', [{"id": "data", "b": 1}, {"id": "y", "b": 2}]),
        ("{" + ", ".join(f'"k{i}": {{"b": {i}}}' for i in range(150)) + ', "last": 3}', 151),
    ],
)
def test_json_objects_that_hold_rows(tmp_path, text, rows):
    (tmp_path / "rows.json").write_text(text)
    read = [None if isinstance(row, Unreadable) else row for _, row in read_rows(tmp_path / "rows.json")]
    assert read == rows or (len(read), read[149], read[150]) == (rows, {"id": "k149", "b": 149}, None)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_a_key_given_twice_is_refused_and_not_one_of_its_values_taken(tmp_path, name):
    twice = '{"prompt": "a", "messages": [{"role": "user", "content": "x", "content": "y"}]}'
    lines = [twice, '{"prompt": "b"}']
    (tmp_path / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
    (_, first), (_, second) = read_rows(tmp_path / name)
    assert first.why == 'has the key "content" twice in one object: keep one of the two values'
    assert second == {"prompt": "b"}
    (tmp_path / "ids.json").write_text('{"x": {"a": 1}, "y": {"a": 2}, "x": {"a": 3}}')
    with pytest.raises(UserError, match='has the key "x" twice'):
        list(read_rows(tmp_path / "ids.json"))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("rows.doc", b"a", "name ends in one of .jsonl, .ndjson"),
        (
            "rows.json",
            b'{"a": {"b": 1}}',
            'holds a list of rows, {"data": [rows]}, {id: row, ...} or an object per line',
        ),
        ("rows.json", b"[1,", "is not JSON"),
        ("rows.jsonl", '{"text": "a"}'.encode("utf-16"), "is UTF-16"),
        ("rows.csv", b"a,b,a\n1,2,3\n", 'names "a" more than once'),
        ("rows.csv", b'a,b\n1,"2\n3,4\n', "is not CSV"),
        ("rows.csv", b"a,b\n1,\xe9\n", "is not UTF-8 (byte 0xe9)"),
        ("rows.parquet", b"PAR1", "is not a Parquet file"),
    ],
)
def test_a_file_that_is_none(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_rows(tmp_path / name))
    assert message in str(caught.value) and str(tmp_path / name) in str(caught.value)


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


def workbook(path, **sheets):
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl comes with align[data]")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for cells in rows:
            sheet.append(cells)
    book.save(path)
    return path


def test_xlsx_and_its_formulas(tmp_path):
    rows = ["prompt", "completion"], ["a", "b"], ["=A2", "c"], [None, None], ["d", 5]
    (_, first), (number, formula), (_, last) = read_rows(workbook(tmp_path / "rows.xlsx", one=rows))
    assert first == {"prompt": "a", "completion": "b"} and last == {"prompt": "d", "completion": 5}
    assert number == 1 and formula.why == 'has a formula in A3 ("=A2"): paste its value'
    (tmp_path / "rows.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="is not a workbook"):
        list(read_rows(tmp_path / "rows.xlsx"))


def test_a_workbook_of_several_sheets_asks_which_one(tmp_path, capsys):
    head = ["prompt", "completion"]
    sheets = {"notes": [["made by hand"]], "train": [head, ["a", "b"]], "held out": [head, ["c", "d"]]}
    path = workbook(tmp_path / "book.xlsx", **sheets)
    with pytest.raises(
        UserError, match="2 sheets hold rows .train, held out.; name one of them after a #.*'book.xlsx#train'"
    ):
        list(read_rows(path))
    report = check(capsys, f"{path}#held out")
    assert [file["name"] for file in report["files"]] == ["book.xlsx#held out"] and report["records"] == 1
    assert "(book.xlsx#held out: train)" in found(report)["other_sheets"]["message"]
    both = load(f"{path}#train", "prompt_completion", "eval", eval=f"{path}#held out")
    assert both.records[0].prompt == [{"role": "user", "content": "c"}] or both.records[0].prompt == "c"
    source = {"train": f"{path}#train", "eval_fraction": 0.0}
    digests = {
        digest(DatasetSource(**source | {"train": f"{path}#{sheet}"}), "prompt_completion", FILES, ["train"])["digest"]
        for sheet in ("train", "held out")
    }
    assert len(digests) == 2
    with pytest.raises(UserError, match="has no sheet 'trian'; its sheets are notes, train, held out"):
        list(read_rows(path, "trian"))
    only = workbook(tmp_path / "only.xlsx", notes=[["made by hand"]], train=[[None], head, ["a", "b"]])
    assert [row for _, row in read_rows(only)] == [{"prompt": "a", "completion": "b"}]


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


def test_a_folder_that_is_a_disk_is_refused(tmp_path, monkeypatch):
    """`align data check /` would read it through."""
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_text("{}\n")
    monkeypatch.setattr(files, "MOST_FILES", 2)
    with pytest.raises(UserError, match="holds more than 2 files; name the folder that the data are in"):
        files.find_sources([str(tmp_path)])


def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path, monkeypatch):
    def refuse(folder, onerror):
        onerror(PermissionError(13, "Permission denied", str(folder)))
        return iter(())

    monkeypatch.setattr(files.os, "walk", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        files.find_sources([str(tmp_path)])

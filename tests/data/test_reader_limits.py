"""No file, however small, makes a reader take much memory or time: each bound, and what comes of what is beyond it."""

import gzip
import zipfile

import pytest

from align.data.readers import columnar
from align.data.readers.arrow_messages import unpacked_sizes
from align.data.readers.columnar import unpacked_size
from align.data.readers.limits import MAX_LINE
from align.data.readers.read import read_rows
from align.data.readers.row import Unreadable
from align.data.readers.tables import check_header
from align.errors import UserError
from tests.data.test_readers import workbook, zstd


def test_a_workbook_is_not_unpacked_without_a_bound(tmp_path, monkeypatch):
    pytest.importorskip("openpyxl", reason="openpyxl comes with align[data]")
    with zipfile.ZipFile(tmp_path / "rows.xlsx", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("xl/sharedStrings.xml", "x" * 2**20)
    monkeypatch.setattr("align.data.readers.limits.MAX_PART", 2**19)
    with pytest.raises(UserError, match="unpacks to 1048576 bytes"):
        list(read_rows(tmp_path / "rows.xlsx"))


@pytest.mark.parametrize("change", [("A1:B2", "A1:XFD1048576"), ('r="2"', 'r="999999999999"')], ids=["size", "row"])
def test_a_sheet_that_says_it_is_enormous_is_not_filled_up(tmp_path, change):
    path = workbook(tmp_path / "rows.xlsx", one=[["prompt", "completion"], ["a", "b"]])
    with zipfile.ZipFile(path) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in parts.items():
            sheet = name.startswith("xl/worksheets/")
            packed.writestr(name, data.replace(*(part.encode() for part in change)) if sheet else data)
    assert change[1].encode() in path.read_bytes()
    if change[1].startswith("A1"):
        assert [row for _, row in read_rows(path)] == [{"prompt": "a", "completion": "b"}]
    else:
        with pytest.raises(UserError, match="has more than 1048576 rows"):
            list(read_rows(path))


@pytest.mark.parametrize("name, pack", [("rows.json.gz", gzip.compress), ("rows.jsonl.zst", zstd)])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_on_the_way(tmp_path, monkeypatch, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(b'[{"a": 1}]' + b"\n" * 2**20))
    monkeypatch.setattr("align.data.readers.limits.MAX_UNPACKED", 2**18)
    with pytest.raises(UserError, match=f"its {path.stat().st_size} bytes unpack to more than"):
        list(read_rows(path))


def test_a_json_value_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("align.data.readers.limits.MAX_LINE", 5000)
    monkeypatch.setattr("align.data.readers.json_values.CHUNK", 1000)
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a": "' + "x" * 50_000 + '"}]')
    rows = read_rows(tmp_path / "rows.json")
    assert next(rows) == (0, {"a": 1})
    with pytest.raises(UserError, match="a value of more than"):
        next(rows)


def parquet(path, table, **options):
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, path, **options)
    return path


@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "DELTA_BYTE_ARRAY"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_a_parquet_file_of_a_few_bytes_takes_no_gigabytes(tmp_path, monkeypatch, encoding, nested):
    import pyarrow

    text, count = "x" * 200_000, 400  # 80 MB of text in 600 bytes
    cells = [[{"role": "user", "content": text}]] * count if nested else [text] * count
    path = tmp_path / "rows.parquet"
    name = "a.list.element.content" if nested else "a"
    options = {"use_dictionary": False, "column_encoding": {name: encoding}} if "DELTA" in encoding else {}
    parquet(path, pyarrow.table({"a": cells}), compression="zstd", **options)
    monkeypatch.setattr("align.data.readers.limits.MAX_PART", 2**22)
    monkeypatch.setattr("align.data.readers.limits.MAX_RATIO", 10**5)
    pieces = []
    to_pylist = pyarrow.RecordBatch.to_pylist
    monkeypatch.setattr(
        "align.data.readers.columnar.to_pylist", lambda one: pieces.append(one.num_rows) or to_pylist(one)
    )
    before = pyarrow.total_allocated_bytes()
    peak = 0
    for number, row in read_rows(path):
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
        assert row == {"a": cells[number]}
    assert number == count - 1 and path.stat().st_size < 20_000
    assert peak < 2**24 and max(pieces) <= 10


@pytest.mark.parametrize("what", ["rows", "values", "text"])
def test_a_parquet_file_that_says_it_is_enormous_is_refused_before_it_is_read(tmp_path, monkeypatch, what):
    import pyarrow

    cells = {"rows": [None] * 5000, "values": [[None] * 5000], "text": ["x" * 5000]}[what]
    kind = {"values": pyarrow.list_(pyarrow.int32())}.get(what)
    path = parquet(tmp_path / "rows.parquet", pyarrow.table({"a": pyarrow.array(cells, kind)}), compression="zstd")
    assert len(list(read_rows(path))) == len(cells)
    for name, limit in (("FREE_VALUES", 100), ("MAX_RATIO", 1), ("MAX_PART", 1000)):
        monkeypatch.setattr(f"align.data.readers.limits.{name}", limit)
    with pytest.raises(UserError, match="claims .* (rows|values)"):
        next(read_rows(path))


def test_a_row_too_large_for_memory_is_refused_and_the_next_is_read(tmp_path, monkeypatch):
    import pyarrow

    path = parquet(tmp_path / "rows.parquet", pyarrow.table({"a": ["x" * 5000, "y"]}))
    monkeypatch.setattr("align.data.readers.limits.MAX_LINE", 1000)
    monkeypatch.setattr("align.data.readers.limits.MAX_PART", 8000)
    (_, first), (_, second) = read_rows(path)
    assert isinstance(first, Unreadable) and second == {"a": "y"}


def test_arrow_batches_are_read_in_pieces_and_must_be_as_large_as_the_file(tmp_path, monkeypatch):
    import pyarrow

    path = tmp_path / "rows.arrow"
    table = pyarrow.table({"a": pyarrow.array(["x" * 1000] * 5000), "n": pyarrow.nulls(5000)})
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    pieces = []
    to_pylist = pyarrow.RecordBatch.to_pylist
    monkeypatch.setattr(
        "align.data.readers.columnar.to_pylist", lambda one: pieces.append(one.num_rows) or to_pylist(one)
    )
    assert len(list(read_rows(path))) == 5000 and max(pieces) <= 1024
    monkeypatch.setattr("align.data.readers.limits.MAX_RATIO", 10)
    monkeypatch.setattr("align.data.readers.limits.MAX_PART", 2**16)
    before = pyarrow.total_allocated_bytes()
    monkeypatch.setattr(pyarrow.ipc, "open_file", None)  # nothing is unpacked before the check
    with pytest.raises(UserError, match="a batch unpacks to 50.* bytes, and the file has"):
        list(read_rows(path))
    assert pyarrow.total_allocated_bytes() - before < 2**20


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_the_unpacked_size_of_a_batch_is_read_from_its_header(tmp_path, kind, compression):
    import pyarrow

    path = tmp_path / "rows.arrow"
    table = pyarrow.table({"a": ["x" * 1000] * 300, "b": pyarrow.array(["y", "z"] * 150).dictionary_encode()})
    make = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.OSFile(str(path), "wb") as sink, make(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    with pyarrow.memory_map(str(path)) as source:
        sizes = [size for size in unpacked_sizes(source) if size]
    # a's text, its offsets and b's numbers; then the two texts of b's dictionary
    assert sorted(sizes) == ([] if compression is None else [14, 300_000 + 4 * 301 + 4 * 300])
    assert len(list(read_rows(path))) == 300


@pytest.mark.parametrize("kind", ["string_view", "list_view", "run_end_encoded"])
def test_arrow_columns_that_share_their_bytes_are_read_in_pieces(tmp_path, monkeypatch, kind):
    import pyarrow

    text, count = "x" * 10_000, 600
    if kind == "string_view":
        column = pyarrow.array([text] * count, pyarrow.string_view())
    elif kind == "list_view":
        starts, sizes = pyarrow.array([0] * count, pyarrow.int32()), pyarrow.array([1] * count, pyarrow.int32())
        column = pyarrow.ListViewArray.from_arrays(starts, sizes, pyarrow.array([text]))
    else:
        column = pyarrow.RunEndEncodedArray.from_arrays([count], [text])
    assert unpacked_size(column) >= 10_000 * count
    path = tmp_path / "rows.arrow"
    table = pyarrow.table({"a": column})
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    monkeypatch.setattr("align.data.readers.limits.MAX_PART", 2**22)
    pieces = []
    to_pylist = columnar.to_pylist
    monkeypatch.setattr(columnar, "to_pylist", lambda piece: pieces.append(piece.num_rows) or to_pylist(piece))
    rows = [row for _, row in read_rows(path)]
    assert len(rows) == count and rows[-1] == {"a": [text] if kind == "list_view" else text} and max(pieces) <= 104


def test_a_header_of_many_columns_is_checked_in_one_pass(tmp_path):
    class Name(str):
        compared = 0

        __hash__ = str.__hash__

        def __eq__(self, other):
            Name.compared += 1
            return str.__eq__(self, other)

    check_header(tmp_path, [Name(f"c{i}") for i in range(2000)])
    assert Name.compared < 10_000  # every column with every other one were two million comparisons


def test_a_quote_that_is_never_closed_does_not_take_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr("align.data.readers.limits.MAX_LINE", 1000)
    (tmp_path / "rows.csv").write_text('a,b\n1,2\n3,"' + "short\n" * 500)
    rows = read_rows(tmp_path / "rows.csv")
    assert next(rows) == (0, {"a": "1", "b": "2"})
    with pytest.raises(UserError, match="is a closing quote missing"):
        next(rows)


def test_a_table_line_without_end_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("align.data.readers.limits.MAX_LINE", 1000)
    (tmp_path / "rows.csv").write_bytes(b"prompt,completion\na,b\n" + b"x" * 5000)
    rows = read_rows(tmp_path / "rows.csv")
    assert next(rows) == (0, {"prompt": "a", "completion": "b"})
    with pytest.raises(UserError, match="holds a row of more than"):
        next(rows)


def test_a_line_without_end_is_refused_and_the_next_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("align.data.readers.limits.MAX_LINE", 1000)
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": "' + b"x" * 5000 + b'"}\n{"a": "b"}\n')
    (_, first), (number, second) = read_rows(tmp_path / "rows.jsonl")
    assert isinstance(first, Unreadable) and "is a line of more than" in first.why
    assert (number, second) == (1, {"a": "b"}) and MAX_LINE >= 2**20

"""Broken input to `align data`: a sentence or a refused row, never a traceback or a row without account."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.artifacts.store import Store
from align.cli import main
from align.data.layouts.detect import recognise
from align.data.layouts.formats import LAYOUTS
from align.data.quality.repairs import DROPS, FIXES
from align.data.readers.read import SUFFIXES
from align.errors import UserError
from align.records import RecordError
from tests.data.data_command import check, clean

JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = """
prompt chosen rejected completion label text messages conversations role from value content output_1 output_2
responses scores ranks annotator1 response1 response2 preference question answer instances turns replies rank
instruction input output is_correct margin solution history string message_id parent_id user_message_id
tools functions tool_calls
"""
NAMES = st.sampled_from(FIELDS.split())
ROWS = st.dictionaries(NAMES, JSONS, max_size=6)


@given(row=ROWS, format=st.sampled_from(["preference", "prompt_completion", "prompt_only", "language_modeling"]))
@settings(max_examples=150, deadline=None)
def test_no_row_breaks_a_layout(row, format):
    for name, layout in LAYOUTS.items():
        try:
            records = layout(row, format)
        except RecordError:
            continue
        assert records, name
        json.dumps([record.to_row() for record in records])


@given(rows=st.lists(ROWS, min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_no_rows_break_recognition(rows):
    try:
        recognise(rows, "rows.json")
    except UserError as error:
        assert "\n" not in str(error)


GOOD = "".join(json.dumps(row) + "\n" for row in clean(3)).encode()
DEEP = b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}\n"


@given(
    suffix=st.sampled_from(SUFFIXES),
    data=st.binary(max_size=200)
    | st.sampled_from([b"", GOOD[:101], GOOD[:100] + b"\xff" + GOOD[100:], DEEP, b"PK\x03\x04"])
    | JSONS.map(lambda value: json.dumps(value).encode()),
    packed=st.booleans(),
)  # fmt: skip
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_gives_a_traceback(tmp_path, capsys, suffix, data, packed):
    file = tmp_path / f"rows{suffix}{'.gz' if packed else ''}"
    file.write_bytes(gzip.compress(data) if packed else data)
    status = main(["data", "check", str(file)])
    err = capsys.readouterr().err
    assert status == 0 or (status == 2 and err.startswith("error: ")), err


WORDS_OF_SIDES = {side: st.text(max_size=20) for side in ("prompt", "chosen", "rejected")}
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": st.none() | st.text(max_size=20)}
)
NODE = st.fixed_dictionaries(
    {
        "message_id": st.text(max_size=2),
        "parent_id": st.none() | st.text(max_size=2),
        "role": st.sampled_from(["prompter", "assistant", "nobody"]),
        "text": st.text(max_size=9),
        "rank": st.none() | st.integers(0, 3),
    }
)
NEARLY = (
    st.fixed_dictionaries(WORDS_OF_SIDES)
    | st.fixed_dictionaries({side: st.lists(MESSAGE, max_size=3) for side in WORDS_OF_SIDES})
    | st.fixed_dictionaries({"prompt": st.text(), "completion": st.text(), "label": st.booleans() | JSONS})
    | NODE
    | ROWS
)
EVERY_RULE = ["--fix", ",".join(FIXES), "--drop", ",".join(DROPS)]


@pytest.mark.slow
@given(rows=st.lists(NEARLY, min_size=1, max_size=6), more=st.sampled_from([[], EVERY_RULE, ["--as", "prompt_only"]]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_import_accounts_for_every_row_or_says_a_sentence(tmp_path, capsys, rows, more):
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        file, root = Path(folder, "rows.json"), Path(folder, "store")
        file.write_text(json.dumps(rows))
        command = ["data", "import", str(file), "--name", "x", "--refuse", "never", "--artifacts", str(root)]
        status = main([*command, *more])
        err = capsys.readouterr().err
        if status:
            assert status == 2 and err.startswith("error: ") and err.count("\n") == 1 and not Store(root).names()
            return
        notes = Store(root).resolve("x").manifest.notes
        assert notes["rows_in"] == len(rows) == notes["rows_used"] + sum(notes["rows_refused"].values())


def test_deeply_nested_values_are_refused(tmp_path, capsys):
    for depth in (100, 900, 5000):
        nested = "[" * depth + "]" * depth
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps(clean(1)[0]) + f'\n{{"prompt": {nested}, "chosen": "a", "rejected": "b"}}\n')
        report = check(capsys, file)
        assert (report["records"], report["rows_refused"]) == (1, 1)

"""What is imported comes out again: records of every format, written, imported, exported, imported once more."""

import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from align.artifacts.export import export
from align.artifacts.store import Store
from align.data.build.importing import Options, import_dataset
from align.data.build.publish import Tolerance
from align.data.loading.tables import json_line
from align.data.readers.files import find_sources
from align.data.readers.read import read_rows
from align.records import FORMATS, Record

SAID = st.text(max_size=30).filter(str.strip)
CALL = st.fixed_dictionaries({"function": st.dictionaries(SAID, SAID | st.integers())})
TOOLS = st.none() | st.lists(st.dictionaries(SAID, SAID, min_size=1), min_size=1, max_size=2)


def message(role, **more):
    return st.fixed_dictionaries({"role": st.just(role), "content": SAID} | more)


CALLING = st.fixed_dictionaries({"role": st.just("assistant"), "tool_calls": st.lists(CALL, min_size=1, max_size=2)})
ANSWERS = st.lists(message("assistant") | CALLING, min_size=1, max_size=1)


@st.composite
def record_sets(draw) -> list[Record]:
    """Records of one format and one kind."""
    made = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
    chat = draw(st.booleans())

    def prompt():
        if not chat:
            return draw(SAID)
        before = [draw(message("system"))] if draw(st.booleans()) else []
        for _ in range(draw(st.integers(0, 1))):
            before += [draw(message("user")), draw(CALLING | message("assistant"))]
        return [*before, draw(message("user"))]

    def row():
        if made.format == "language_modeling":
            content = prompt()
            return {"messages" if chat else "text": content}
        answer = ANSWERS if chat else SAID
        one, other = draw(answer), draw(answer)
        fields = {"prompt": prompt(), "completion": one, "label": draw(st.booleans())}
        if made.format == "preference":
            other = other if other != one else [*other, draw(message("assistant"))] if chat else other + "!"
            margin = draw(st.none() | st.floats(min_value=0, allow_infinity=False))
            fields |= {"chosen": one, "rejected": other, "margin": margin}
        return fields

    return [made.from_row(row() | {"tools": draw(TOOLS)}) for _ in range(draw(st.integers(1, 5)))]


def told(records):
    return Counter(json.dumps(record.to_row(), sort_keys=True) for record in records)


def imported(store, name, paths, format):
    options = Options(format=format, layout="trl", eval_fraction=0.3)
    version, _ = import_dataset(
        store, name, find_sources([str(path) for path in paths]), options=options, tolerance=Tolerance("never")
    )
    files = sorted((version.path / "records").glob("*.jsonl"))
    return version, [FORMATS[format].from_row(row) for file in files for _, row in read_rows(file)]


@pytest.mark.slow
@given(records=record_sets(), suffix=st.sampled_from([".jsonl", ".json", ".jsonl.gz"]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_import_then_export_gives_the_same_records(tmp_path, records, suffix):
    rows = [record.to_row() for record in records]
    text = json.dumps(rows) if suffix == ".json" else "".join(map(json_line, rows))
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        file, store = Path(folder, f"rows{suffix}"), Store(Path(folder, "store"))
        file.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
        version, first = imported(store, "once", [file], records[0].format)
        assert told(first) == told(records)
        out = export(store, version, Path(folder, "out"))
        assert told(imported(store, "again", sorted(out.glob("records/*.jsonl")), records[0].format)[1]) == told(
            records
        )

"""Records in a file instead of in memory."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from align.config.paths import PROJECT
from align.data.loading import load, record_file
from align.data.loading.load import load_records
from align.data.loading.record_file import RecordFile, choose, keep
from align.data.loading.sources import DatasetSource
from align.data.loading.tables import to_dataset
from align.errors import UserError
from align.records import Demonstration, Preference, Prompt, Text, UnpairedPreference

CHAT = [{"role": "user", "content": "was kostet das? \u00e9\u4e2d \u2028"}]
TOOLS = [{"type": "function", "function": {"name": "sum", "parameters": {"x": {"type": "number"}}}}]
CALL = [{"role": "assistant", "tool_calls": [{"function": {"name": "sum", "arguments": {"x": 1.5}}}]}]
RECORDS = [
    Text("a\nb\x00c"),
    Text(CHAT, TOOLS),
    Demonstration("a", " b", columns={"answer": 4, "tags": ["x", "y"], "gold": None}),
    Demonstration(CHAT, CALL, TOOLS),
    Preference("a", "b", "c", 0.1 + 0.2),
    UnpairedPreference(CHAT, [{"role": "assistant", "content": "nein"}], False),
    Prompt(CHAT, later_turns=("und dann?", "warum?")),
]


def test_what_goes_in_comes_out():
    kept = keep(record for record in RECORDS)
    assert isinstance(kept, RecordFile) and keep(kept) is kept
    assert kept == RECORDS and list(kept) == RECORDS and [*reversed(kept)] == RECORDS[::-1]
    assert (kept[0], kept[-1], kept[2:5]) == (RECORDS[0], RECORDS[-1], RECORDS[2:5])
    assert kept[1:][1:][::2] == RECORDS[2::2] and len(kept[:0]) == 0 and not kept[:0]
    assert kept != RECORDS[:-1] and kept != [*RECORDS[:-1], RECORDS[0]] and kept != "text"
    for places in ([3, 0, 3], []):
        indices = np.array(places, np.int64)
        assert choose(kept, indices) == choose(RECORDS, indices) == [RECORDS[place] for place in places]
    for outside in (7, -8):
        with pytest.raises(IndexError):
            kept[outside]
    assert keep([]) == [] and len(keep([])) == 0


def test_it_leaves_nothing_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    kept = keep(RECORDS)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [] and kept[1] == RECORDS[1]


def test_another_process_of_the_host_reads_the_same_pages():
    kept = keep(RECORDS)
    code = (
        "import pickle, sys; them = pickle.load(sys.stdin.buffer); print(them.reachable, *map(repr, them), sep='\\n')"
    )
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=pickle.dumps(kept[1:4]), env=env, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == ["True", *map(str, RECORDS[1:4])]


def test_a_file_of_another_host_is_not_reached():
    attach, (place, *others) = keep(RECORDS).__reduce__()
    for other in (("/proc/0/fd/3", *place[1:]), (place[0], place[1], place[2] + 1, place[3])):
        assert not attach(other, *others).reachable


def test_a_folder_that_takes_nothing_is_no_reason_to_fail_and_a_full_disk_is(monkeypatch):
    def refuses():
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(record_file, "_temporary", refuses)
    assert keep(iter(RECORDS)) == RECORDS

    class Full:
        def write(self, line):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_file, "_temporary", Full)
    with pytest.raises(UserError, match="No space left on device.: free some, or name another folder in .* HF_"):
        keep(RECORDS)


def test_both_splits_and_preflight_parse_a_file_once(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"what is {number}?"}) + "\n" for number in range(40)))
    parsed = []
    whole = load._read
    monkeypatch.setattr(load, "_read", lambda *arguments: parsed.append(arguments) or whole(*arguments))
    source = DatasetSource(train=str(rows), eval_fraction=0.25)

    def splits():
        return [load_records(source, "prompt_only", split, root=tmp_path).records for split in ("train", "eval")]

    first = splits()
    assert splits() == first and len(parsed) == 1 and sum(map(len, first)) == 40
    load_records(replace(source, columns={"prompt": "prompt"}), "prompt_only", "train", root=tmp_path)
    assert len(parsed) == 2, "another way of reading is another result"
    rows.write_text(rows.read_text().replace("what", "that"))
    assert splits() != first and len(parsed) == 3


def test_a_table_has_the_types_of_all_its_rows():
    """Of more rows than are looked at together, the types are those that fit them all."""
    records = [Demonstration("a", "b", columns={"answer": number, "note": None}) for number in range(1500)]
    records[-1] = Demonstration("a", "b", columns={"answer": 0.5, "note": "late"})
    table = to_dataset(keep(records))
    assert str(table.features["answer"].dtype) == "float64" and str(table.features["note"].dtype) == "string"
    assert table[1499] == {"prompt": "a", "completion": "b", "answer": 0.5, "note": "late"} and table[3]["answer"] == 3
    with pytest.raises(UserError, match="record 1 has no margin, others have: give it to every row or to none"):
        to_dataset([Preference("a", "b", "c", 1.0), Preference("a", "b", "c")])
    with pytest.raises(UserError, match="record 0 has no margin"):
        to_dataset([Preference("a", "b", "c"), Preference("a", "b", "c", 1.0)])


@pytest.mark.slow
def test_a_set_takes_little_memory_of_its_own():
    """300 MB of texts, loaded as a stage loads them, in a process of their own (benchmarks/data_memory.py)."""
    script = PROJECT / "benchmarks" / "data_memory.py"
    done = subprocess.run(
        [sys.executable, str(script), "--rows", "30000", "--print"], capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout)
    for format in ("language_modeling", "preference"):
        first = measured[f"{format}, first"]
        assert first["peak_anonymous_mb"] < 60 < 5 * first["file_mb"], first

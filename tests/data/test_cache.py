"""Tables and token counts are kept between runs, and never mistaken for another's."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from align.data.loading.tables import to_dataset
from align.data.tokens import cache
from align.data.tokens.lengths import fingerprint
from align.data.tokens.loss_mask import Loss
from align.records import Demonstration
from tests.conftest import run_stage

RECORDS = [Demonstration(f"what is {number}?", f" it is {number}") for number in range(20)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    return tmp_path


def kept(place):
    """What later runs find, and when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in place.glob("align/*/rows/*/*.arrow")}


def double(row):
    return {"twice": row["prompt"] * 2}


def test_a_table_lies_on_disk_once_and_what_is_mapped_is_kept(place):
    table = cache.cached_dataset(RECORDS)
    assert table.to_list() == to_dataset(RECORDS).to_list() and table.cache_files
    before = table.map(double)
    assert kept(place) == {}
    cache.keep()
    first = kept(place)
    assert len(first) == 2
    again = cache.cached_dataset(list(RECORDS)).map(double)
    cache.keep()
    assert again.to_list() == before.to_list() and kept(place) == first
    other = cache.cached_dataset([*RECORDS[:-1], replace(RECORDS[-1], completion="another")])
    assert other[19]["completion"] == "another"
    assert cache.rows_digest(RECORDS) != cache.rows_digest(RECORDS[::-1])


@pytest.mark.parametrize("which", ["rows.arrow", "cache-*.arrow"])
@pytest.mark.parametrize("damage", ["flip", "zero", "cut", "empty", "no hash", "another hash"])
def test_what_was_altered_is_made_again(place, which, damage):
    """A table or a tokenised table that is not what was kept would train another model under the same identity."""
    expected = cache.cached_dataset(RECORDS).map(double).to_list()
    cache.keep()
    (file,) = place.glob(f"align/*/rows/*/{which}")
    content = bytearray(file.read_bytes())
    hash_file = file.with_name(file.name + ".blake3")
    if damage == "flip":
        content[content.index(b"what is 7?")] ^= 1
    elif damage == "zero":
        content[-400:] = bytes(400)
    elif damage == "no hash":
        hash_file.unlink()
    elif damage == "another hash":
        hash_file.write_text("[" * 100_000)
    file.unlink()
    file.write_bytes({"cut": content[:100], "empty": b""}.get(damage, content))
    assert cache.cached_dataset(RECORDS).map(double).to_list() == expected
    cache.keep()
    assert len(kept(place)) == 2
    assert cache.cached_dataset(RECORDS).map(double).to_list() == expected


def test_what_is_altered_while_a_run_works_reaches_no_other(place):
    """Each run has a folder of its own; an incomplete file in it is never kept."""
    table = cache.cached_dataset(RECORDS)
    folder = Path(table.cache_files[0]["filename"]).parent
    (folder / "tmp0123").write_bytes(b"half")
    cache.keep()
    assert sorted(path.name for path in place.glob("align/*/rows/*/*")) == ["rows.arrow", "rows.arrow.blake3"]


def test_a_rank_finds_what_the_main_process_opened(place, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_PORT", "12345")
    assert not cache.cached_dataset(RECORDS).cache_files  # on a host where nothing was opened, in memory
    monkeypatch.setenv("RANK", "0")
    opened = cache.cached_dataset(RECORDS).map(double).cache_files
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(cache, "_session", None)
    assert cache.cached_dataset(RECORDS).map(double).cache_files == opened


def test_a_dead_run_leaves_nothing(place):
    cache.cached_dataset(RECORDS)
    (session,) = place.glob("align/*/sessions/*")
    (owner,) = session.glob("*.*.*")
    mine = owner.name.split(".")
    dead = session.with_name("dead")
    session.rename(dead)
    (dead / owner.name).rename(dead / f"{mine[0]}.4194305.{mine[2]}")
    cache._session = None
    cache.cached_dataset(RECORDS)
    assert [path.name for path in place.glob("align/*/sessions/*")] == [session.name]


@pytest.mark.slow
def test_a_sweep_tokenises_once(tiny_store, monkeypatch):
    """A second run on the same data, under other settings, finds it counted and tokenised."""
    from transformers import PreTrainedTokenizerBase

    calls = []
    render = PreTrainedTokenizerBase.apply_chat_template

    def counted(self, *args, **options):
        calls.append(args)
        return render(self, *args, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", counted)
    spent = []
    for beta in ("0.1", "0.2"):
        run_stage(tiny_store, "stage=dpo", f"trainer.beta={beta}", "data.preference.max_rows=48")
        spent.append(len(calls) - sum(spent))
    assert spent[0] > 300 and spent[1] < 10


def test_the_fingerprint_is_of_what_counts_depend_on(tiny_models):
    from align.models.load import load_tokenizer

    def load(**options):
        return load_tokenizer(tiny_models / "sft" / "v0001" / "model", **options)

    tokenizer = load()
    first = fingerprint(tokenizer, Loss())
    tokenizer(["a", "bb"], padding=True, truncation=True, max_length=4)
    assert fingerprint(tokenizer, Loss()) == first == fingerprint(load(), Loss())
    assert fingerprint(tokenizer, Loss(assistant_only=True)) != first
    tokenizer.chat_template += " "
    assert fingerprint(tokenizer, Loss()) != first


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_disk_that_takes_nothing_is_no_reason_to_fail(place):
    place.chmod(0o500)
    assert cache.cached_dataset(RECORDS).to_list() == to_dataset(RECORDS).to_list()


def test_counts_are_kept_by_records_and_key(place):
    asked = []

    def count(records):
        asked.append(len(records))
        return [(number, number + 1) for number in range(len(records))]

    first = cache.cached_lengths(RECORDS, "a" * 64, count)
    assert first.tolist() == [[number, number + 1] for number in range(20)]
    assert np.array_equal(cache.cached_lengths(RECORDS, "a" * 64, count), first) and asked == [20]
    cache.cached_lengths(RECORDS, "b" * 64, count)
    cache.cached_lengths(RECORDS[:5], "a" * 64, count)
    cache.cached_lengths(RECORDS, None, count)
    assert asked == [20, 20, 5, 20]
    (file,) = (path for path in place.rglob("*.npy") if path.name.startswith("b"))
    altered = io.BytesIO()
    np.save(altered, np.zeros((20, 2), np.int64))
    for number, content in enumerate((b"\x93NUMPY torn", b"", altered.getvalue()), start=5):
        file.write_bytes(content)
        assert np.array_equal(cache.cached_lengths(RECORDS, "b" * 64, count), first) and len(asked) == number


def test_nothing_is_kept_before_it_is_durable(place, monkeypatch):
    """After a power cut a file is whole or has no hash."""
    synced = set()
    real = os.fsync

    def fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        real(descriptor)

    def write_hash(file, written=cache._write_hash):
        assert file.stat().st_ino in synced, file.name
        written(file)
        assert file.with_name(file.name + ".blake3").stat().st_ino in synced

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(cache, "_write_hash", write_hash)
    cache.cached_dataset(RECORDS).map(double)
    cache.keep()
    cache.cached_lengths(RECORDS, "a" * 64, lambda records: [(1, 2)] * len(records))
    assert len(kept(place)) == 2 and len(list(place.rglob("*.npy"))) == 1

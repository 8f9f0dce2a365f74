"""Tables and token counts are kept between runs, and never mistaken for another's."""

import os
from dataclasses import replace

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
    return tmp_path


def arrows(place):
    return {path.name: path.stat().st_mtime_ns for path in place.rglob("*.arrow")}


def test_a_table_lies_on_disk_once_and_what_is_mapped_is_kept(place):
    table = cache.cached_dataset(RECORDS)
    assert table.to_list() == to_dataset(RECORDS).to_list() and table.cache_files

    def double(row):
        return {"twice": row["prompt"] * 2}

    before = table.map(double)
    kept = arrows(place)
    assert len(kept) == 2
    again = cache.cached_dataset(list(RECORDS)).map(double)
    assert again.to_list() == before.to_list() and arrows(place) == kept
    other = cache.cached_dataset([*RECORDS[:-1], replace(RECORDS[-1], completion="another")])
    assert other[19]["completion"] == "another"
    assert cache.rows_digest(RECORDS) != cache.rows_digest(RECORDS[::-1])


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


def test_what_was_cut_off_is_made_again(place):
    cache.cached_dataset(RECORDS)
    (file,) = place.rglob("rows.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert cache.cached_dataset(RECORDS).to_list() == to_dataset(RECORDS).to_list()


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
    assert cache.cached_lengths(RECORDS, "a" * 64, count) == first and asked == [20]
    cache.cached_lengths(RECORDS, "b" * 64, count)
    cache.cached_lengths(RECORDS[:5], "a" * 64, count)
    cache.cached_lengths(RECORDS, None, count)
    assert asked == [20, 20, 5, 20]
    (file,) = (path for path in place.rglob("*.npy") if path.name.startswith("b"))
    file.write_bytes(b"\x93NUMPY torn")
    assert cache.cached_lengths(RECORDS, "b" * 64, count) == first and asked[-1] == 20 and len(asked) == 5
    np.save(file, np.zeros((3, 2), np.int64))
    assert cache.cached_lengths(RECORDS, "b" * 64, count) == first

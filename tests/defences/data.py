"""Data: the cache and the bounds of the readers."""

from tests.defences.defence import Defence

_CACHE = "data/test_cache.py"
_LIMITS = "data/test_reader_limits.py"

DEFENCES = (
    # -- the cache of the data -------------------------------------------------------------------------------------
    Defence(
        "counts that were altered or cut are counted again",
        "data/tokens/cache.py",
        "        if _is_sound(file, hash_file(file)):",
        "        if True:",
        f"{_CACHE}::test_counts_are_kept_by_records_and_key",
    ),
    Defence(
        "a table that was altered is made again",
        "data/tokens/cache.py",
        "        if _is_sound(files[name], entry):",
        "        if True:",
        f"{_CACHE}::test_what_was_altered_is_made_again",
    ),
    Defence(
        "what is kept of a table is made durable before its hash",
        "data/tokens/cache.py",
        "    sync_file(file)\n",
        "",
        f"{_CACHE}::test_nothing_is_kept_before_it_is_durable",
    ),
    Defence(
        "counts are made durable before their hash",
        "data/tokens/cache.py",
        "        write_durably(file, buffer.getvalue())\n",
        "        file.write_bytes(buffer.getvalue())\n",
        f"{_CACHE}::test_nothing_is_kept_before_it_is_durable",
    ),
    # -- parser bombs ----------------------------------------------------------------------------------------------
    Defence(
        "the header of a CSV is checked in one pass",
        "data/readers/tables.py",
        "for name, count in Counter(header).items() if count > 1",
        "for name in header if header.count(name) > 1",
        f"{_LIMITS}::test_a_header_of_many_columns_is_checked_in_one_pass",
    ),
    Defence(
        "a Parquet file's claims are checked before it is read",
        "data/readers/columnar.py",
        "            _check_sizes(file.metadata, path)\n",
        "",
        f"{_LIMITS}::test_a_parquet_file_that_says_it_is_enormous_is_refused_before_it_is_read",
    ),
    Defence(
        "a text that is repeated by number takes no gigabytes",
        "data/readers/columnar.py",
        "read_dictionary=texts)",
        "read_dictionary=[])",
        f"{_LIMITS}::test_a_parquet_file_of_a_few_bytes_takes_no_gigabytes",
    ),
    Defence(
        "a compressed file that unpacks to gigabytes is refused",
        "data/readers/compression.py",
        "        if limits.is_bomb(self.size, self.packed):",
        "        if False:",
        f"{_LIMITS}::test_a_small_file_that_unpacks_to_gigabytes_is_refused_on_the_way",
    ),
    Defence(
        "a workbook that unpacks to too much is refused",
        "data/readers/workbooks.py",
        "        _check_size(path)\n",
        "",
        f"{_LIMITS}::test_a_workbook_is_not_unpacked_without_a_bound",
    ),
    Defence(
        "an Arrow batch is known before it is unpacked",
        "data/readers/columnar.py",
        "                _check_batch(size, path)",
        "                pass",
        f"{_LIMITS}::test_arrow_batches_are_read_in_pieces_and_must_be_as_large_as_the_file",
    ),
    Defence(
        "a config.yaml of aliases stands for itself alone",
        "artifacts/config_file.py",
        "        if self.check_event(yaml.AliasEvent):",
        "        if False:",
        "artifacts/test_forged.py::test_a_config_that_no_run_writes_is_no_config",
    ),
    Defence(
        "an integer of hundreds of digits is no metric",
        "runs/metrics_file.py",
        " and not (isinstance(value, int) and abs(value) >= _MOST):",
        ":",
        "artifacts/test_forged.py::test_metrics_of_hundreds_of_digits_are_none",
    ),
)

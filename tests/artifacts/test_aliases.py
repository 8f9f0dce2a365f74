"""Aliases: numbered entries, created exclusively. Real files, real threads."""

import errno
import os
import re
import threading

import pytest

from align.artifacts import aliases, disk
from align.artifacts.store import Store
from align.errors import UserError
from tests.artifacts.versions import publish


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_an_alias_moves_and_keeps_its_log(store):
    first, second = publish(store), publish(store)
    store.point(first, "best")
    store.point(second, "best")
    store.point(first, "best")
    assert [entry.version for entry in store.alias_log("sft", "best")] == [1, 2, 1]
    assert store.aliases("sft") == {"best": 1, "latest": 2}
    assert store.resolve("sft:best") == first
    store.point(first, "latest")
    assert store.resolve("sft:latest") == second  # latest moves forward only
    assert (store.root / "sft" / "aliases" / "best" / "000003").is_file()


@pytest.mark.parametrize("alias", ["v2", "2", "../x", "", "Best"])
def test_alias_names_are_checked(store, alias):
    with pytest.raises(UserError, match="alias"):
        store.point(publish(store), alias)


def test_a_torn_alias_entry_is_skipped(store):
    publish(store)
    folder = store.root / "sft" / "aliases" / "latest"
    (folder / "000002").write_text('{"version": 9')
    assert store.aliases("sft") == {"latest": 1}
    second = publish(store)
    assert store.resolve("sft") == second and (folder / "000003").is_file()


def test_many_threads_move_one_alias(tmp_path):
    folder = tmp_path / "aliases" / "latest"
    movers = [
        threading.Thread(target=aliases.move, args=(folder, version, "now"), kwargs={"forward_only": True})
        for version in range(1, 33)
    ]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    log = aliases.read_log(folder)
    assert log[-1].version == 32
    assert [entry.version for entry in log] == sorted(entry.version for entry in log)
    assert [entry.number for entry in log] == list(range(1, len(log) + 1))
    assert all(re.fullmatch(r"\d{6}", name) for name in os.listdir(folder))


def test_without_hard_links_an_entry_is_still_exclusive(tmp_path, monkeypatch):
    def no_links(*_, **__):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    assert disk.create_exclusively(tmp_path / "000001", b"one\n")
    assert not disk.create_exclusively(tmp_path / "000001", b"two\n")
    assert os.listdir(tmp_path) == ["000001"] and (tmp_path / "000001").read_bytes() == b"one\n"

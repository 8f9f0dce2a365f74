"""Who holds a run: one live process, whatever locks say; a dead one's run is free."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align.artifacts import run_lock
from align.artifacts.run_lock import FAILED, INTERRUPTED, PUBLISHED, RUNNING, STOPPED, Hold, is_held, read_holder
from align.distributed.preemption import Stopped
from align.errors import UserError


def record(run_dir: Path, **facts) -> Path:
    """The record of a first holder: this very process, but for `facts`."""
    folder = run_dir / "holders"
    folder.mkdir()
    body = {**run_lock._this_process(), "since": "2026-01-01T00:00:00Z"}
    body |= {"state": RUNNING, "step": 4, "published": None}
    file = folder / "000001"
    file.write_text(json.dumps(body | facts))
    return file


def test_a_second_start_is_refused_with_host_and_pid(tmp_path):
    with Hold(tmp_path) as hold:
        assert is_held(tmp_path)
        with pytest.raises(UserError, match=f"process {os.getpid()} on {os.uname().nodename}.*end that process"):
            Hold(tmp_path)
        hold.note(step=7)
    assert not is_held(tmp_path)
    assert (read_holder(tmp_path).state, read_holder(tmp_path).step) == (FAILED, 7)
    with Hold(tmp_path) as hold:
        assert (hold.holder.number, hold.holder.step) == (2, 7)
        hold.note(state=PUBLISHED, published="sft:v1")
    assert read_holder(tmp_path).published == "sft:v1"


@pytest.mark.parametrize(
    ("error", "state", "says"),
    [
        (UserError("no luck; try tomorrow"), FAILED, "no luck; try tomorrow"),
        (ZeroDivisionError("division by zero"), FAILED, "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), INTERRUPTED, None),
        (Stopped(3), STOPPED, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_record_says_how_its_run_ended(tmp_path, error, state, says):
    with pytest.raises(type(error)), Hold(tmp_path):
        raise error
    holder = read_holder(tmp_path)
    assert (holder.state, holder.error) == (state, says) and holder.ended.endswith("Z")


def _fails(code: int, *names: str):
    def fail(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    return dict.fromkeys(names, fail)


def test_a_full_disk_hides_no_error_and_the_record_says_failed(tmp_path, monkeypatch):
    """No new file can be made there, and the record is written into the blocks that it has."""
    with pytest.raises(UserError, match="no space left, free some"), Hold(tmp_path):
        monkeypatch.setattr(run_lock, "write_durably", _fails(errno.ENOSPC, "write")["write"])
        raise UserError("no space left, free some")
    assert (read_holder(tmp_path).state, read_holder(tmp_path).error) == (FAILED, "no space left, free some")


def test_a_read_only_disk_hides_no_error_and_is_said(tmp_path, monkeypatch, capsys):
    with pytest.raises(ZeroDivisionError), Hold(tmp_path):
        for name, fail in _fails(errno.EROFS, "write_durably", "_overwrite").items():
            monkeypatch.setattr(run_lock, name, fail)
        raise ZeroDivisionError
    err = capsys.readouterr().err
    assert "000001 could not be written (Read-only file system)" in err and "counts as died" in err
    assert read_holder(tmp_path).state == RUNNING


def test_a_disk_that_takes_no_record_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "create_exclusively", _fails(errno.EROFS, "create")["create"])
    with pytest.raises(UserError, match="cannot record who runs this: .*000001 may not be written"):
        Hold(tmp_path)


def test_a_record_of_a_newer_align_is_read(tmp_path):
    record(tmp_path, state=PUBLISHED, published="sft:v1", unheard_of=1)
    assert read_holder(tmp_path).published == "sft:v1"


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", ""])
def test_a_damaged_record_is_none(tmp_path, text):
    record(tmp_path).write_text(text)
    assert read_holder(tmp_path) is None


def test_a_run_of_a_killed_process_is_free_at_once(tmp_path):
    words = (
        "import sys, time; from pathlib import Path; "
        "from align.artifacts.run_lock import Hold; Hold(Path(sys.argv[1])); print(1)"
    )
    child = subprocess.Popen(
        [sys.executable, "-uc", f"{words}; time.sleep(60)", str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "1\n"
    assert is_held(tmp_path) and read_holder(tmp_path).pid == child.pid
    child.send_signal(signal.SIGKILL)
    until = time.monotonic() + 10
    while is_held(tmp_path) and time.monotonic() < until:  # also while it is a zombie
        time.sleep(0.01)
    with Hold(tmp_path) as hold:
        assert hold.holder.number == 2
    child.communicate()


@pytest.mark.parametrize(
    "facts",
    [{"began": "12345"}, {"pid": 2**22 + 1}, {"state": PUBLISHED}],
    ids=["its pid is another process now", "no such process", "it has ended"],
)
def test_a_stale_record_of_this_host_is_taken_over(tmp_path, facts):
    record(tmp_path, **facts)
    assert not is_held(tmp_path)
    with Hold(tmp_path) as hold:
        assert hold.holder.number == 2


@pytest.mark.parametrize("facts", [{"host": "elsewhere"}, {"boot": "another namespace of process ids"}])
def test_a_record_of_another_host_holds_while_it_is_touched(tmp_path, facts):
    """Its process ids mean nothing here: also one that this host has is no proof of life, nor of death."""
    file = record(tmp_path, **facts, pid=2**22 + 1)
    with pytest.raises(UserError, match="has it since 2026-01-01"):
        Hold(tmp_path)
    silent = time.time() - run_lock.STALE - 1
    os.utime(file, (silent, silent))
    with Hold(tmp_path) as hold:
        assert hold.holder.number == 2


def test_a_torn_record_holds_until_it_is_old(tmp_path):
    file = record(tmp_path)
    file.write_text('{"host": "')
    with pytest.raises(UserError, match="just being taken"):
        Hold(tmp_path)
    os.utime(file, (0, 0))
    with Hold(tmp_path) as hold:
        assert hold.holder.number == 2


def _take(run_dir: str, ready, results) -> None:
    ready.wait()
    try:
        Hold(Path(run_dir))
        results.put("held")
    except UserError:
        results.put("refused")
    ready.wait()  # alive until all have looked


def test_of_many_that_start_at_once_one_has_the_run(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(8), context.Queue()
    workers = [context.Process(target=_take, args=(str(tmp_path), ready, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    assert sorted(results.get(timeout=30) for _ in workers) == ["held"] + ["refused"] * 7
    for worker in workers:
        worker.join()


def test_who_was_silent_for_too_long_learns_that_the_run_was_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT", 0.01)
    taken = []
    with Hold(tmp_path, lost=taken.append) as hold:
        before = (tmp_path / "holders" / "000001").stat().st_mtime_ns
        (tmp_path / "holders" / "000002").write_text((tmp_path / "holders" / "000001").read_text())
        hold._thread.join(10)
        assert [holder.number for holder in taken] == [2]
        assert (tmp_path / "holders" / "000001").stat().st_mtime_ns > before

"""Who holds a run, and what became of it: of two processes that start the same run, one is refused.

`<run>/holders/000003` is created exclusively, so only one process can be the third holder of a run, also where file
locks are granted to everyone. The highest number is the holder. On this host it is alive while its process is; from
another host, while its record is touched, which a thread of the holder does every few seconds.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from align.artifacts.disk import (
    create_exclusively,
    explain_disk_errors,
    make_folder,
    read_regular,
    unique_name,
    write_durably,
)
from align.distributed.preemption import Stopped
from align.distributed.processes import boot, start_of
from align.errors import UserError

BEAT = 10.0  # seconds between two touches of a holder's record ...
STALE = 120.0  # ... and without one after which a holder on another host counts as dead
LOST = 70  # exit code of a process whose run was taken over: EX_SOFTWARE
_HOLDERS = "holders"

RUNNING, STOPPED, PUBLISHED, FAILED, INTERRUPTED = "running", "stopped", "published", "failed", "interrupted"
_LONGEST_ERROR = 2000  # characters of an error that a record keeps
_LARGEST = 1_000_000  # bytes of a record


@dataclass(frozen=True)
class Holder:
    """One process that had, or has, a run."""

    number: int
    host: str
    boot: str  # of the host, so that the process ids before a reboot are no one's; and the namespace of process ids
    pid: int
    began: str  # the kernel's start time of the process: an id that is used again is another process
    since: str  # ISO 8601, UTC
    state: str = RUNNING
    step: int | None = None  # the last whole checkpoint
    published: str | None = None  # the ref
    error: str | None = None  # why the run failed, in one sentence or as `TypeError: ...`
    ended: str | None = None  # ISO 8601, UTC

    def is_alive(self, file: Path) -> bool:
        """Whether this process may still be at work; `file` is its record."""
        if self.state != RUNNING:
            return False
        here = _this_process()
        if (self.host, self.boot) == (here["host"], here["boot"]):
            return start_of(self.pid) == self.began
        return _age(file) < STALE


_FIELDS = tuple(field.name for field in fields(Holder) if field.name != "number")


def read_holder(run_dir: Path) -> Holder | None:
    """The last process that had the run in `run_dir`, None for a run that never began."""
    numbers = _numbers(run_dir)
    return _read(run_dir, numbers[-1]) if numbers else None


def is_held(run_dir: Path) -> bool:
    """True while a live process has the run in `run_dir`."""
    holder = read_holder(run_dir)
    return holder is not None and holder.is_alive(_file(run_dir, holder.number))


class Hold:
    """This process's hold on a run: a context; left by an error, the record says that the run failed, and why.

    Args:
        run_dir: the run's folder.
        lost: called, on the watching thread, when another process has taken the run over because this one was silent
            for too long; the default ends the process, which must not write beside the other.

    Raises:
        UserError: another process holds the run, or the disk takes no record.
    """

    def __init__(self, run_dir: Path, lost: Callable[[Holder], None] | None = None):
        self.run_dir = run_dir
        self._lost = lost or _end
        with explain_disk_errors("record who runs this", run_dir):
            self.holder = _take(run_dir)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-heartbeat", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        if self.holder.state == RUNNING:
            self.note(**_how_it_ended(error))

    def note(self, **facts: Any) -> None:
        """Write down `state`, `step`, `published` or `error`.

        A disk that takes nothing is said on stderr and raises nothing: whatever else the caller has to say, an error
        above all, matters more than the record.
        """
        self.holder = replace(self.holder, **facts)
        if self.holder.state != RUNNING:
            self.holder = replace(self.holder, ended=_now())
        file = _file(self.run_dir, self.holder.number)
        try:
            write_durably(file, _text(self.holder))
        except OSError as error:
            try:
                _overwrite(file, _text(self.holder))
            except OSError:
                print(
                    f"the run's record {file} could not be written ({error.strerror}): it still says "
                    f'"{RUNNING}", and counts as died when this process has ended',
                    file=sys.stderr,
                    flush=True,
                )

    def _beat(self) -> None:
        while not self._done.wait(BEAT):
            with contextlib.suppress(OSError):  # a disk that is away for a moment is the writer's business
                os.utime(_file(self.run_dir, self.holder.number))
                last = read_holder(self.run_dir)
                if last is not None and last.number > self.holder.number:
                    self._lost(last)
                    return


class Held(UserError):
    """Another process has the run."""


@contextlib.contextmanager
def borrow(run_dir: Path) -> Iterator[Holder]:
    """Hold a run that has ended, for a moment, and leave its record as it was.

    Nothing may write to the run meanwhile, and the block must be done long before `STALE` seconds are over: nothing
    touches the record.

    Raises:
        Held: another process holds the run.
    """
    with explain_disk_errors("hold this run", run_dir):
        holder = _take(run_dir)
    try:
        yield holder
    finally:
        with contextlib.suppress(OSError):
            _file(run_dir, holder.number).unlink()


def _take(run_dir: Path) -> Holder:
    make_folder(run_dir / _HOLDERS, 0o700)
    while True:
        numbers = _numbers(run_dir)
        last = numbers[-1] if numbers else 0
        before = _read(run_dir, last) if last else None
        if before is not None and before.is_alive(_file(run_dir, last)):
            raise Held(
                f"this run is under way: process {before.pid} on {before.host} has it since {before.since} "
                f"({run_dir}); wait for it, or end that process first"
            )
        if last and before is None and _age(_file(run_dir, last)) < STALE:
            raise Held(f"this run is just being taken by another process ({run_dir}); wait for it")
        step = before.step if before else None
        holder = Holder(number=last + 1, since=_now(), step=step, **_this_process())
        # Who came first has the number: the other looks again, and finds a live holder.
        if create_exclusively(_file(run_dir, holder.number), _text(holder)):
            return holder


def _read(run_dir: Path, number: int) -> Holder | None:
    """The record of a holder; None if it is torn, which only a file system without hard links can leave."""
    try:
        body = json.loads(read_regular(_file(run_dir, number), _LARGEST))
        return Holder(number=number, **{name: body[name] for name in _FIELDS if name in body})
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _overwrite(file: Path, content: bytes) -> None:
    """Write into the blocks that a small file has already: that works on a full disk, where a new file does not."""
    os.chmod(file, 0o644)
    with open(file, "r+b") as stream:
        stream.write(content)
        stream.truncate()
        stream.flush()
        os.fsync(stream.fileno())


def _how_it_ended(error: BaseException | None) -> dict[str, Any]:
    """The facts that a record keeps of a run that left its context without saying how it ended."""
    if isinstance(error, Stopped):
        return {"state": STOPPED}
    if isinstance(error, KeyboardInterrupt):
        return {"state": INTERRUPTED}
    if error is None:
        return {"state": FAILED}
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return {"state": FAILED, "error": text[:_LONGEST_ERROR]}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _file(run_dir: Path, number: int) -> Path:
    return run_dir / _HOLDERS / f"{number:06d}"


def _numbers(run_dir: Path) -> list[int]:
    try:
        names = os.listdir(run_dir / _HOLDERS)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _text(holder: Holder) -> bytes:
    body = {key: value for key, value in asdict(holder).items() if key != "number"}
    return (json.dumps(body, indent=2) + "\n").encode()


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": os.uname().nodename, "boot": boot(), "pid": pid, "began": start_of(pid)}


def _age(file: Path) -> float:
    """Seconds since a file was touched, by the clock of the file system it is on: hosts may disagree."""
    probe = file.with_name(unique_name(".now-"))
    try:
        probe.touch()
        return probe.stat().st_mtime - file.stat().st_mtime
    except FileNotFoundError:
        return STALE
    except OSError:  # who may only read the store has this host's clock
        return time.time() - file.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _end(taker: Holder) -> None:
    print(
        f"error: this run was taken over by process {taker.pid} on {taker.host}, because nothing was heard of this "
        "process for too long; it ends here",
        file=sys.stderr,
        flush=True,
    )
    os._exit(LOST)

"""Being asked to stop: SIGTERM, from a cluster that wants its machine back or a launcher that is gone.

A run in training takes the step to its end, writes a checkpoint and leaves; at any other time it leaves at once. The
exit code is that of "try again later", and the same command goes on.
"""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class Stopped(BaseException):
    """SIGTERM came. Like an interrupt it is no error, so that nothing catches it by accident.

    Attributes:
        step: after which a checkpoint was written, None where none was.
    """

    def __init__(self, step: int | None = None):
        super().__init__(step)
        self.step = step


_asked = False
_waits = 0


def asked() -> bool:
    """Whether this process has been asked to stop; its ranks agree by `distributed.any_rank`."""
    return _asked


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM in the block raises `Stopped` in the main thread, unless that is in a `wait`."""
    global _asked

    def stop(number: int, frame: Any) -> None:
        global _asked
        if _asked:
            return  # launchers ask more than once, and what is done on the way out is not broken off
        _asked = True
        if not _waits:
            raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        _asked = False
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def wait() -> Iterator[None]:
    """A block that is not broken off: who is in it looks at `asked` now and then, or is soon done."""
    global _waits
    _waits += 1
    try:
        yield
    finally:
        _waits -= 1

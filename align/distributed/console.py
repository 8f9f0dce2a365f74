"""Standard output and error that may go away: a closed pipe, a terminal that hung up, a full disk under a log file.

A run that has trained for days does not end because nobody reads its progress any more.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Unbroken:
    """A text stream that drops what it cannot write, and everything after it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop, a text; its length."""
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        """Send the rest, and what is still in the stream's buffer, to nowhere."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()


@contextlib.contextmanager
def unbroken_output() -> Iterator[None]:
    """In the block, or the function that it decorates, printing never raises."""
    _fill_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Unbroken(stream or open(os.devnull, "w")) for stream in before)  # noqa: SIM115
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Open /dev/null in place of a standard stream that was closed: else the next file that is opened would be it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)

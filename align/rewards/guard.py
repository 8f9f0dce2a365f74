"""A guard around the user's own code, reward functions and judges: it may fail, but not end or copy the run unseen.

`sys.exit`, `os._exit` and any exception become one sentence that names the function. A copy of the process that the
code made with `os.fork` and that leaves the guard is ended there, so that one run publishes once. What no guard in
Python can hold, such as a C library that calls `exit`, is not held.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from align.distributed.preemption import Stopped
from align.errors import UserError

COPY_ENDED = 70  # exit code of a forked copy: EX_SOFTWARE of sysexits.h

_inside = threading.local()
_exit_process = os._exit


class ProcessExit(BaseException):
    """`os._exit` was called in guarded code."""


@contextmanager
def guarded(what: str, where: str = "") -> Iterator[None]:
    """Run user code whose failure is a sentence.

    Args:
        what: names the code, at the beginning of the sentence.
        where: the case at hand, behind what happened.

    Raises:
        UserError: the code raised, or tried to end the process. Ctrl-C and SIGTERM go through.
    """
    owner, outer = os.getpid(), getattr(_inside, "owner", None)
    os._exit = _refuse_exit
    _inside.owner = owner
    try:
        yield
    except (KeyboardInterrupt, Stopped, UserError, GeneratorExit):
        raise
    except ProcessExit as error:
        raise UserError(f"{what} called os._exit({error}){where}; let it return or raise instead") from error
    except SystemExit as error:
        raise UserError(f"{what} called sys.exit({error.code!r}){where}; let it return or raise instead") from error
    except BaseException as error:
        raise UserError(f"{what} raised {explain(error)}{where}") from error
    finally:
        _inside.owner = outer
        if os.getpid() != owner:
            print(f"error: {what} forked this process; the copy ends here", file=sys.stderr, flush=True)
            _exit_process(COPY_ENDED)


def explain(error: BaseException) -> str:
    """An error of the user's own code, with the line that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text + place


def _refuse_exit(code: int) -> None:
    """`os._exit`, but not of the process itself in guarded code; a forked child of that code ends as it asks to."""
    if getattr(_inside, "owner", None) == os.getpid():
        raise ProcessExit(code)
    _exit_process(code)

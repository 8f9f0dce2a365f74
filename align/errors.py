"""Mistakes of the user, each reported in one sentence, and the codes that a command exits with."""

import enum


class ExitCode(enum.IntEnum):
    """What a command exits with; `meaning` is what the documentation says of it."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """An integer with a meaning."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "published, or nothing to do"
    FAILED = (
        1,
        "a step of a pipeline failed, or a check found something: `artifacts verify`, `data check --strict`, "
        "`runs watch`, `review ratings`. Python exits with it too after a traceback, which is a bug of align",
    )
    MISTAKE = 2, "your mistake, in one sentence; for `artifacts ls`, versions that cannot be read"
    # EX_TEMPFAIL of sysexits.h: try again later
    STOPPED = 75, "stopped by SIGTERM, with a checkpoint where training had begun; the same command resumes"
    INTERRUPTED = 130, "interrupted by Ctrl-C; the same command resumes from the last checkpoint"


class UserError(Exception):
    """A mistake that the user can correct: the message names the thing, its value and the remedy.

    The front ends (`launch/run.py`, `launch/pipeline.py`, `align`) print it as `error: ...` and exit with 2, without
    a traceback. Anything else that is raised is a bug and keeps its traceback.
    """

    def __str__(self) -> str:
        """The message without control characters: names, rows and templates in it may come from anybody."""
        return escaped(super().__str__())


def escaped(text: str) -> str:
    """A text that can do nothing to a terminal: lines stay, and what cannot be printed is shown as its number."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)

"""Mistakes of the user, each reported in one sentence."""


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

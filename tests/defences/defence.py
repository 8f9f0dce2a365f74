"""One defence: a piece of code, what the code is without it, and the test that then fails."""

from typing import NamedTuple


class Defence(NamedTuple):
    """A piece of code that keeps a promise of SECURITY.md.

    Attributes:
        clause: what is promised.
        file: below align/.
        code: stands in the file exactly once.
        without: what takes its place.
        test: pytest's name of a test below tests/.
    """

    clause: str
    file: str
    code: str
    without: str
    test: str

    def without_it(self, text: str) -> str:
        """The text of the file, the defence taken out. ValueError where it does not stand there exactly once."""
        if (count := text.count(self.code)) != 1:
            raise ValueError(f"{self.clause}: {self.file} has {self.code!r} {count} times")
        return text.replace(self.code, self.without)

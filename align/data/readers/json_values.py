"""JSON values one at a time, from a line or from a file of any size, with repeated keys refused.

Python's `json` keeps the last of two equal keys of an object and says nothing, so that a row with two answers would
lose one; and it wants the whole file in memory.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from align.data.readers import limits
from align.data.readers.row import Unreadable
from align.records import shown

CHUNK = 2**18  # characters read at a time
_SPACE = re.compile(r"[ \t\n\r]*")


class _RepeatedKeyError(Exception):
    def __init__(self, key: str):
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(key)
            seen.add(key)
    return value


_STRICT = json.JSONDecoder(object_pairs_hook=_object)
_LENIENT = json.JSONDecoder()


def parse(text: str) -> Any:
    """The JSON value in `text`, or Unreadable with the reason."""
    try:
        return _STRICT.decode(text)
    except _RepeatedKeyError as error:
        return _repeated(error)
    except json.JSONDecodeError as error:
        return Unreadable(f"is not JSON ({error.msg} at character {error.pos}: {shown(error.doc[:80], 40)})")
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        return Unreadable(f"is not JSON that can be read ({error})")


def _repeated(error: _RepeatedKeyError) -> Unreadable:
    return Unreadable(f"has the key {shown(error.key)} twice in one object: keep one of the two values")


class JSONStream:
    """The values of one JSON text, read in pieces: no more than one value is in memory.

    Every method raises ValueError, with the reason, where the text is not JSON.
    """

    def __init__(self, file: TextIO):
        self._file = file
        self._text = ""
        self._at = 0
        self._before = 0  # characters that are no longer in _text

    @property
    def position(self) -> int:
        """Characters passed so far."""
        return self._before + self._at

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, character: str) -> bool:
        """Whether the next character is this one, which is then passed."""
        if self.peek() != character:
            return False
        self._at += 1
        return True

    def expect(self, *characters: str) -> str:
        """The next character, which is one of these, passed."""
        for character in characters:
            if self.take(character):
                return character
        raise self._error(f"expecting {' or '.join(map(repr, characters))}")

    def value(self) -> Any:
        """The next value; Unreadable where an object in it repeats a key."""
        self.peek()
        while True:
            try:
                value, end = self._decode()
            except json.JSONDecodeError as error:
                # what is wrong well before the end of the piece stays wrong with the next piece
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if not (cut and self._more()):
                    raise self._error(error.msg, error.pos) from None
                continue
            except RecursionError:
                raise self._error("nested too deep") from None
            # a number that ends where the piece ends may go on in the next one
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def elements(self) -> Iterator[Any]:
        """The values of the list that begins here."""
        self.expect("[")
        if self.take("]"):
            return
        while True:
            yield self.value()
            if self.expect(",", "]") == "]":
                return

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here; whoever takes one reads its value before the next."""
        self.expect("{")
        if self.take("}"):
            return
        while True:
            key = self.value() if self.peek() == '"' else None
            if not isinstance(key, str):
                raise self._error("expecting a key in double quotes")
            self.expect(":")
            yield key
            if self.expect(",", "}") == "}":
                return

    def end(self) -> None:
        """Nothing but white space is left."""
        if self.peek():
            raise self._error("more follows after the first value; an object per line goes into a .jsonl file")

    def _decode(self) -> tuple[Any, int]:
        try:
            return _STRICT.raw_decode(self._text, self._at)
        except _RepeatedKeyError as error:
            return _repeated(error), _LENIENT.raw_decode(self._text, self._at)[1]

    def _more(self) -> bool:
        """Read on, twice as much as what is held: a long value is then decoded a few times only."""
        held = len(self._text) - self._at
        if held > limits.MAX_LINE:
            raise self._error(f"a value of more than {limits.MAX_LINE // 2**20} Mi characters begins")
        piece = self._file.read(max(CHUNK, 2 * held))
        if piece:
            self._before += self._at
            self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)

    def _error(self, why: str, at: int | None = None) -> ValueError:
        place = self._at if at is None else at
        around = shown(self._text[max(0, place - 20) : place + 20], 60)
        return ValueError(f"{why} at character {self._before + place}: {around}")

"""The format of a store: a number that a later release raises when it lays out folders and files in another way.

A manifest has a schema of its own; the number here covers everything else: names, aliases, claims, runs, checkpoints.
"""

import os
from pathlib import Path

from align.artifacts.disk import create_exclusively, make_folder, read_regular, unreadable
from align.artifacts.manifest import NewerFormat
from align.errors import UserError

FORMAT = 1
FORMAT_FILE = ".format"
_LARGEST = 1000  # bytes


def check_format(root: Path) -> None:
    """Refuse a store whose format this release does not know; one without `.format` is of release 0.1.0.

    Raises:
        UserError: a later release has changed the format, or the file that names it is damaged.
    """
    file = root / FORMAT_FILE
    try:
        text = read_regular(file, _LARGEST).decode("ascii").strip()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise unreadable(file, error) from None
    except ValueError as error:
        text = str(error)
    if not text.isdigit():
        raise UserError(f"{file} is {text[:40]!r} and should name the format of the store: write {FORMAT} into it")
    if int(text) > FORMAT:
        raise NewerFormat(
            f"the store {root} has format {text}, and this align reads up to {FORMAT}: use the release of align that "
            "wrote it, or a later one"
        )


def mark_format(root: Path) -> None:
    """Write the format into a store that does not name it yet. Raises OSError."""
    file = root / FORMAT_FILE
    if not os.path.lexists(file):
        make_folder(root)
        create_exclusively(file, f"{FORMAT}\n".encode())

"""Files that a config names."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]  # the folder that holds conf/ and data/


def local_path(text: str) -> Path:
    """A file or folder as it is from the working directory, else from the project's root; it need not exist."""
    path = Path(text).expanduser()
    return path if path.is_absolute() or path.exists() or not (PROJECT / path).exists() else PROJECT / path

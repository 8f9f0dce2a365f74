"""What the tests of `align data` share: the command run in this process, and the rows of what it published."""

import json
from pathlib import Path

from align.artifacts.version import Version
from align.cli import main


def run(capsys, root: Path, *arguments: object) -> tuple[int, str, str]:
    """Exit status, output and errors of `align data ...` on the store `root`."""
    status = main(["data", *map(str, arguments), "--artifacts", str(root)])
    out, err = capsys.readouterr()
    return status, out, err


def rows_of(version: Version, split: str = "train") -> list[dict]:
    """The rows of one split of a dataset, none where it has no such split."""
    return read_lines(version.path / "records" / f"{split}.jsonl")


def read_lines(path: Path) -> list[dict]:
    """The rows of a .jsonl file, none where there is no such file."""
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line] if path.is_file() else []

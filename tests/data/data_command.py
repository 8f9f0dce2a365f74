"""What the tests of `align data` share: the command run in this process, rows without dirt, what was published."""

import json
import random
import string
from pathlib import Path

from align.artifacts.version import Version
from align.cli import main
from align.data.loading.load import Loaded, load_records
from align.data.loading.sources import DatasetSource
from align.data.readers.read import read_rows

FILES = Path(__file__).parent / "files"
WORDS = [one + two for one in ("ri", "sto", "la", "co", "ga") for two in ("ver", "ne", "mp", "pper", "rden")]


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


def fixture(name: str) -> list[dict]:
    """The rows of a file in tests/data/files."""
    return [row for _, row in read_rows(FILES / name)]


def load(path: Path, format: str, split: str = "train", *, options: dict | None = None, **source: object) -> Loaded:
    """The records of one file, as a `data:` block would have them."""
    return load_records(DatasetSource(train=str(path), **source), format, split, root=FILES, **options or {})


def said(count: int, seed: object) -> str:
    """Words that are nobody's: two seeds share hardly a triple."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + draw.choice(string.ascii_lowercase) for _ in range(count))


def clean(count: int, start: int = 0) -> list[dict]:
    """Pairs whose sides are as long as each other."""
    return [
        {
            "prompt": [{"role": "user", "content": said(12, f"p{i}")}],
            "chosen": [{"role": "assistant", "content": said(20, f"c{i}")}],
            "rejected": [{"role": "assistant", "content": said(20, f"r{i}")}],
        }
        for i in range(start, start + count)
    ]


def change(row: dict, side: str, text: str) -> dict:
    """The pair with another last message on one side."""
    return row | {side: [{**row[side][-1], "content": text}]}


def write(path: Path, rows: list[dict]) -> Path:
    """Rows as a .jsonl file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def check(capsys, *arguments: object) -> dict:
    """The report of `align data check --json`."""
    status = main(["data", "check", *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return json.loads(out)


def found(report: dict) -> dict[str, dict]:
    """The findings of a report, by name."""
    return {finding["name"]: finding for finding in report["findings"]}

"""Where a format's rows are, and the digest that says which rows they were."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from align.artifacts.inputs import parse_hub
from align.artifacts.refs import HUB_PREFIX
from align.data.layouts.carried import check_keep
from align.data.layouts.formats import LAYOUTS
from align.data.layouts.mapping import Names
from align.data.readers.files import Source
from align.data.readers.hub import hub_commit
from align.data.readers.read import split_sheet
from align.errors import UserError
from align.records import FORMATS

AUTO = "auto"


@dataclass(frozen=True)
class DatasetSource:
    """Where one format's rows are; the fields are those of `data.<format>` in the config."""

    source: str | None = None  # null: train and eval are files; hf:org/name@revision: splits; a directory: files in it
    config: str | None = None  # the hub's name for a part of a data set
    train: str | None = None
    eval: str | None = None  # null: held out of train, by prompt
    layout: str = "trl"  # AUTO is told from the first rows
    columns: Mapping[str, str] = field(default_factory=dict)  # our field -> their column
    labels: Mapping[str, str] = field(default_factory=dict)  # their word for a verdict -> ours
    roles: Mapping[str, str] = field(default_factory=dict)  # who speaks, in their word -> ours
    eval_fraction: float = 0.05  # share of the prompts, used only where eval is null
    max_rows: int | None = None  # at most so many train records, the first ones
    keep: Sequence[str] | None = None  # columns that stay with the records; None: all that the layout does not read

    @property
    def names(self) -> Names:
        return Names(self.columns, self.labels, self.roles)

    @property
    def has_eval(self) -> bool:
        return self.eval is not None or (self.train is not None and self.eval_fraction > 0)


def check(source: DatasetSource, format: str) -> None:
    """Raises UserError where a field of the source holds what it cannot."""
    if format not in FORMATS:
        raise UserError(f"{format!r} is no data format: {', '.join(FORMATS)}")
    if source.layout not in (AUTO, *LAYOUTS):
        raise UserError(f"data.{format}.layout is {source.layout!r}: write {AUTO} or one of {', '.join(LAYOUTS)}")
    source.names.check(f"data.{format}.", kept=source.keep or ())
    check_keep(source.keep, f"data.{format}.keep")
    if not 0 <= source.eval_fraction < 1:
        raise UserError(f"data.{format}.eval_fraction is {source.eval_fraction}: write a share from 0 to less than 1")
    if source.max_rows is not None and source.max_rows < 1:
        raise UserError(f"data.{format}.max_rows is {source.max_rows}: write a positive number, or null for all")


def digest(
    source: DatasetSource, format: str, root: Path, splits: Sequence[str] = ("train", "eval")
) -> dict[str, Any]:
    """What the manifest says of a source: the sha256 of each file or the hub's commit, and how rows became records.

    `digest` in it covers what can change a record, not where the files lie: it is what a run's identity takes.
    Raises UserError for a missing file, or a hub data set whose commit nobody can tell.
    """
    check(source, format)
    names = {"train" if split == "eval" and source.eval is None else split for split in splits}
    content: dict[str, Any] = {"format": format, "layout": source.layout, "columns": dict(source.columns)}
    content |= {name: dict(words) for name in ("labels", "roles") if (words := getattr(source, name))}
    content |= {} if source.keep is None else {"keep": list(source.keep)}
    content |= {"eval_fraction": source.eval_fraction if source.eval is None else None, "max_rows": source.max_rows}
    places: dict[str, Any] = {}
    for name in sorted(names):
        where = _where(source, format, name)
        if _is_hub(source):
            commit = hub_commit(source.source)
            content[name] = {"dataset": parse_hub(source.source)[0], "config": source.config, "split": where}
            content[name]["revision"] = commit
            places[name] = {"source": source.source}
        else:
            path, sheet = _file(source, format, name, root)
            with path.open("rb") as file:
                content[name] = {
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                    "size": path.stat().st_size,
                }
            content[name] |= {} if sheet is None else {"sheet": sheet}
            places[name] = {"file": str(Path(source.source or "", where))}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    told = {key: {**value, **places[key]} if key in places else value for key, value in content.items()}
    return {**told, "digest": hashlib.sha256(canonical.encode()).hexdigest()}


def pinned(source: DatasetSource, told: Mapping[str, Any]) -> DatasetSource:
    """`source` at the commit that its `digest` found, so that what is loaded is what was named."""
    commits = {part["revision"] for part in told.values() if isinstance(part, Mapping) and "revision" in part}
    if not _is_hub(source) or not commits:
        return source
    name, _ = parse_hub(source.source)
    return replace(source, source=f"{HUB_PREFIX}{name}@{commits.pop()}")


def _is_hub(source: DatasetSource) -> bool:
    return (source.source or "").startswith(HUB_PREFIX)


def _where(source: DatasetSource, format: str, name: str) -> str:
    where = source.eval if name == "eval" else source.train
    if not where:
        what = "split" if _is_hub(source) else "file"
        raise UserError(f"data.{format}.{name} is not set: name a {what}, such as data.{format}.{name}=my.jsonl")
    return where


def _file(source: DatasetSource, format: str, name: str, root: Path) -> tuple[Path, str | None]:
    """The file of a split, and its sheet where it is a workbook."""
    wanted = Path(source.source or "", _where(source, format, name))
    places = (split_sheet(place) for place in (wanted, root / wanted))
    path, sheet = next(((path, sheet) for path, sheet in places if path.is_file()), (None, None))
    if path is None:
        places = (
            f"{Path.cwd()} or {root}"
            if not wanted.is_absolute() and Path.cwd() != root
            else str(wanted.absolute().parent)
        )
        raise UserError(f"data.{format}.{name}: there is no file {wanted} (looked in {places})")
    return path, sheet


def source_of(source: DatasetSource, format: str, name: str, root: Path) -> Source:
    """Where the rows of `name` (`train` or `eval`) are; a hub set is kept on disk, for it is read more than once."""
    where = _where(source, format, name)
    if _is_hub(source):
        return Source(f"{source.source} {where}", None, (source.source, source.config, where), streaming=False)
    path, sheet = _file(source, format, name, root)
    return Source(str(Path(source.source or "", where)), path, sheet=sheet)

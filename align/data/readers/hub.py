"""Rows of data sets on the Hugging Face hub, or in its local cache."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.artifacts.inputs import parse_hub
from align.errors import UserError


def read_hub(
    source: str, config: str | None, split: str, *, streaming: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of one split of a hub data set, or of the local cache, offline.

    Args:
        streaming: read what is asked for as it comes, and keep nothing; else the whole split is fetched and kept.

    Raises:
        UserError: it cannot be had, or not to its end.
    """
    import datasets

    name, revision = parse_hub(source)
    what = f"{source}, config {config}" if config else source
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision, streaming=streaming)
        yield from enumerate(rows)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{what}, split {split}: cannot be loaded ({_first_line(error)})") from error


def hub_commit(source: str) -> str:
    """The commit that a hub data set's revision is now, from the hub, else from the local cache. Raises UserError."""
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.file_download import repo_folder_name

    name, revision = parse_hub(source)
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return revision
    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        folder = repo_folder_name(repo_id=name, repo_type="dataset")
        ref = Path(constants.HF_HUB_CACHE, folder, "refs", revision or "main")
        if ref.is_file():
            return ref.read_text().strip()
        raise UserError(
            f"{source}: its commit is not known, the hub does not answer ({_first_line(error)}) and the local cache "
            "has no such data set; check the id, go online once, or give the files in train and eval"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

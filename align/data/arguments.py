"""From the command line of `align data` to sources, benchmarks, a tokenizer and a mapping."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts.refs import is_ref
from align.artifacts.store import Store
from align.artifacts.verification import SAMPLED, open_input, open_version
from align.data.layouts.carried import check_keep
from align.data.layouts.mapping import Names
from align.data.readers.files import Source, find_sources, with_folder
from align.data.readers.read import READERS, kind_of_file, split_sheet
from align.data.readers.row import Unreadable
from align.data.tokens.template_trial import check_template_runs
from align.errors import UserError
from align.records import FORMATS, shown

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from align.data.build.publish import Tolerance


def split_sources(store: Store, arguments: argparse.Namespace) -> list[tuple[Source, str]]:
    """The sources on the command line, each with its split: a dataset artifact has two, anything else is train."""
    found: list[tuple[Source, str]] = []
    for name in arguments.sources:
        if is_ref(name) and kind_of_file(split_sheet(name)[0]) not in READERS and not Path(name).exists():
            version = open_version(store, name)
            if version.manifest.type != "dataset":
                raise UserError(f"{version.ref} is a {version.manifest.type}: name a dataset, a file or a folder")
            if version.manifest.format not in (None, *FORMATS):
                raise UserError(f"{version.ref} has rows of an unknown format, {version.manifest.format!r}")
            files = [(version.path / "records" / f"{split}.jsonl", split) for split in ("train", "eval")]
            found += [
                (Source(f"{version.ref} {split}", file, format=version.manifest.format), split)
                for file, split in files
                if file.is_file()
            ]
        else:
            found += [(source, "train") for source in find_sources([name], **_hub(arguments))]
    if arguments.beside is None:
        return found
    return [(source, "train") for source in _with_beside([source for source, _ in found], arguments.beside)]


def train_and_eval(arguments: argparse.Namespace) -> tuple[list[Source], list[Source]]:
    """What `sources` and `--eval` name, each source under a name of its own. Raises UserError where one is in both."""
    both = [find_sources(names, **_hub(arguments)) for names in (arguments.sources, arguments.eval)]
    both[0] = _with_beside(both[0], arguments.beside)
    names = [{source.name for source in sources} for sources in both]
    if twice := names[0] & names[1]:
        both = [[with_folder(one) if one.name in twice else one for one in sources] for sources in both]
        if {one.name for one in both[0]} & {one.name for one in both[1]}:
            raise UserError(f"{sorted(twice)[0]} is named both for training and for --eval: name another file")
    return both[0], both[1]


def _with_beside(sources: list[Source], name: str | None) -> list[Source]:
    """The one source with the columns of `--beside` put beside its rows. Raises UserError where there are more."""
    if name is None:
        return sources
    others = find_sources([name])
    if len(sources) != 1 or len(others) != 1:
        raise UserError(f"--beside {name} is joined row by row to one file, but {len(sources)} are named")
    return [replace(sources[0], beside=others[0])]


def load_benchmarks(arguments: argparse.Namespace) -> "tuple[dict[str, np.ndarray], dict[str, str]]":
    """Name -> n-grams, and name -> digest, of the files of --against. Raises UserError."""
    if arguments.ngram < 2:
        raise UserError(f"--ngram {arguments.ngram}: write 2 or more words")
    if not arguments.against:
        return {}, {}
    from align.data.quality.near_duplicates import benchmark_grams
    from align.data.record_texts import strings_in

    grams, digests = {}, {}
    for source in find_sources(arguments.against):
        rows = (row.value if isinstance(row, Unreadable) else row for _, row in source.rows())
        grams[source.name] = benchmark_grams((text for row in rows for text in strings_in(row)), arguments.ngram)
        digests[source.name] = source.to_manifest()["digest"]
    return grams, digests


def load_tokenizer(
    store: Store, model: str | None, chat_template: str | None = None
) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a model artifact or of a folder that holds one, with another chat template if one is given.

    Raises:
        UserError: there is no such model, or no tokenizer that can be loaded.
    """
    if model is None:
        return None
    folder = Path(model).expanduser()
    if is_ref(model) or not folder.is_dir():  # a folder may hold a tokenizer alone
        try:
            folder = open_input(store, model, mode=SAMPLED).path  # small files, such as the tokenizer's, are hashed
        except UserError as error:
            raise UserError(f"{error} (--model names the model whose tokenizer is used)") from None
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the files may be anything
        why = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"--model {model}: {folder} holds no tokenizer that can be loaded ({why})") from error
    if chat_template is not None:
        if not Path(chat_template).is_file():
            raise UserError(f"--chat-template {chat_template}: there is no such file")
        tokenizer.chat_template = Path(chat_template).read_text("utf-8")
    own = tokenizer.chat_template or {}
    for template in own.values() if isinstance(own, dict) else [own]:
        check_template_runs(template, f"--model {model}" if chat_template is None else chat_template)
    return tokenizer


def stage_length(tokenizer: "PreTrainedTokenizerBase | None") -> int | None:
    """Tokens of a row where neither the command line nor a stage's config says: as that model's stages take them."""
    from align.artifacts.model_files import default_length

    return None if tokenizer is None else default_length(Path(tokenizer.name_or_path))


def tolerance_of(arguments: argparse.Namespace) -> "Tolerance":
    """`--refuse` and `--allow`."""
    from align.data.build.publish import Tolerance

    return Tolerance(arguments.refuse, tuple(words(arguments.allow)))


def words(given: Sequence[str]) -> list[str]:
    """The words of `a,b`, in one or several options."""
    return [word.strip() for text in given for word in text.split(",") if word.strip()]


def parse_mapping(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """`a=b,c=d` as a dict. Raises UserError."""
    found = {}
    for pair in words(texts or ()):
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours.strip() or not theirs.strip():
            raise UserError(f"{option}: {shown(pair)} is not NAME=VALUE")
        found[ours.strip()] = theirs.strip()
    return found


def check_share(value: float | None, option: str) -> None:
    """Raises UserError for a value outside [0, 1)."""
    if value is not None and not 0 <= value < 1:
        raise UserError(f"{option} {value}: write a share from 0 to less than 1")


def check_positive(value: int | None, option: str) -> None:
    """Raises UserError for a value below 1."""
    if value is not None and value < 1:
        raise UserError(f"{option} {value}: write a positive number")


def _hub(arguments: argparse.Namespace) -> dict[str, Any]:
    check_positive(arguments.first, "--first")
    return {"config": arguments.config, "split": arguments.split, "first": arguments.first}


def names_of(arguments: argparse.Namespace) -> Names:
    """`--columns`, `--labels` and `--roles`."""
    options = reading_options(arguments)
    return Names(**{name: options[name] for name in ("columns", "labels", "roles")})


def keep_of(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """`--keep`: the columns to carry, None for all. Raises UserError for a reserved name."""
    if arguments.keep is None:
        return None
    keep = tuple(words(arguments.keep))
    keep = () if keep == ("none",) else keep
    check_keep(keep, "--keep")
    return keep


def reading_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """How rows are to be read, as an import's options name it."""
    return {
        "layout": arguments.layout,
        "columns": parse_mapping(arguments.columns, "--columns"),
        "labels": parse_mapping(arguments.labels, "--labels"),
        "roles": parse_mapping(arguments.roles, "--roles"),
        "keep": keep_of(arguments),
    }

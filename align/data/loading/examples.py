"""The rows a stage trains and evaluates on: loaded, checked against its context, counted."""

import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from align.artifacts.inputs import Input
from align.config.paths import PROJECT
from align.config.schema import DataConfig, DatasetConfig
from align.data.chats import Chats
from align.data.conversions import converts
from align.data.loading.load import Loaded, load_artifact, load_records
from align.data.loading.record_file import RecordFile, Rows, keep
from align.data.loading.sources import DatasetSource
from align.data.quality.findings import SEVERITIES
from align.data.tokens.cache import cached_dataset
from align.data.tokens.chat_template import check_system
from align.data.tokens.lengths import apply_policy
from align.data.tokens.loss_mask import ON_COMPLETION, Loss
from align.data.tools import check_tools
from align.distributed import ranks
from align.errors import UserError
from align.records import LATER_TURNS, Record

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Examples:
    """A stage's two splits, with TRL's columns. `eval` is None where nothing is held out."""

    train: "Dataset"
    eval: "Dataset | None"
    metrics: dict[str, float] = field(default_factory=dict)


def load_examples(
    data: DataConfig,
    dataset: Input | None,
    format: str,
    *,
    tokenizer: "PreTrainedTokenizerBase | None",
    max_length: int | None = None,
    splits_long: bool = False,
    loss: Loss = ON_COMPLETION,
    remedy: str | None = None,
    columns: bool = False,
) -> Examples:
    """Both splits of `format`, every record within `max_length` tokens as `data.overlong` says.

    What was refused, held out, capped or dropped is printed and counted in `metrics`.

    Args:
        data: the `data:` block.
        dataset: the dataset artifact that stands in for `data.<format>`, if one was given.
        tokenizer: measures length; None skips the check.
        splits_long: the trainer cuts long texts into pieces and loses nothing, so length is no matter.
        loss: which tokens of a demonstration are learnt.
        remedy: what to do about overlong records, beside changing `data.overlong`; None tells it from the model.
        columns: keep the rows' columns, for reward functions.

    Raises:
        UserError: missing or malformed data, records whose tools the model would not see, or overlong ones under
            `overlong: refuse`.
    """
    splits: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    said: set[str] = set()
    for split in ("train", "eval"):
        if split == "eval" and not has_eval(data, dataset, format):
            splits[split] = None
            continue
        loaded = load_shared(data, dataset, format, split, columns=columns)
        records = loaded.records
        if later := sum(bool(getattr(record, LATER_TURNS, ())) for record in records):
            records = keep(replace(record, later_turns=()) for record in records)
            if ranks.is_main():
                print(f"{loaded.file}: {later} prompts have later turns: only the first is answered in training")
        if tokenizer is not None:
            check_tools(records, tokenizer, loaded.file)
            check_system(records, tokenizer, loaded.file)
        if tokenizer is not None and not splits_long:
            with ranks.main_first():  # the counts are kept, and read by the other ranks
                records, report = apply_policy(
                    records, tokenizer, max_length, data.overlong, what=f"{loaded.file}", loss=loss, remedy=remedy
                )
            if report is not None and (report.over or report.no_room) and ranks.is_main():
                print(f"{loaded.file}: {report.summary()} (data.overlong={data.overlong})", flush=True)
            metrics[f"{split}_overlong"] = len(report.over) if report is not None else 0
        if (loaded.refused or loaded.repairs or loaded.layout != "trl" or columns) and ranks.is_main():
            print(loaded.summary(), flush=True)
        said |= _say_columns(loaded, said)
        metrics[f"{split}_rows"] = len(records)
        metrics[f"{split}_refused"] = len(loaded.refused)
        metrics |= {f"{split}_{_word(what)}": count for what, count in loaded.repairs.items()}
        with ranks.main_first():
            splits[split] = cached_dataset(records)
    return Examples(splits["train"], splits["eval"], metrics)


def _say_columns(loaded: Loaded, said: set[str]) -> set[str]:
    """Print how labels were read and which columns were not, once where both splits come from one file."""
    lines = [f"{loaded.file}: {line}" for line in loaded.columns]
    for line in lines if ranks.is_main() else ():
        if line not in said:
            print(line, flush=True)
    return set(lines)


def _word(what: str) -> str:
    """A repair's name as a metric's: `fix control` is fix_control, `left out: emails` left_out_emails."""
    return "_".join(re.findall(r"\w+", what))


def held_out(data: DataConfig, dataset: Input | None, format: str) -> Sequence[dict[str, Any]]:
    """The eval rows of `format`, none where the config names no such data."""
    return Rows(held_out_records(data, dataset, format))


def held_out_records(data: DataConfig, dataset: Input | None, format: str) -> Sequence[Record]:
    """The eval records of `format` with their columns, none where the config names no such data."""
    if not offers(data, dataset, format) or not has_eval(data, dataset, format):
        return []
    return load_shared(data, dataset, format, "eval", columns=True).records


def load_split(
    data: DataConfig,
    dataset: Input | None,
    format: str,
    split: str,
    stage: str | None = None,
    *,
    columns: bool = False,
) -> Loaded:
    """The records of one split, from the artifact if one was given, else from `data.<format>`.

    Args:
        columns: keep the rows' columns: those of `data.<format>.keep`, or all.
    """
    options: dict[str, Any] = {"on_bad_rows": data.on_bad_rows, "fix": data.fix, "drop": data.drop, "stage": stage}
    options["chats"] = Chats.of(data)
    source = source_of(getattr(data, format))
    keep = source.keep if columns else ()
    if dataset is not None:
        return load_artifact(dataset.path, format, split, keep=keep, **options)
    return load_records(replace(source, keep=keep), format, split, root=PROJECT, **options)


def load_shared(*arguments: Any, **options: Any) -> Loaded:
    """As `load_split`, on all ranks at once: the main one reads, and those of its host look at the records it has.

    Raises:
        UserError: as `load_split` does, on every rank.
    """
    if ranks.world_size() == 1:
        return load_split(*arguments, **options)
    loaded, refusal = None, None
    if ranks.is_main():
        try:
            loaded = load_split(*arguments, **options)
        except UserError as error:
            refusal = str(error)
    loaded, refusal = ranks.share((loaded, refusal))
    if refusal is not None:
        raise UserError(refusal)
    if isinstance(loaded.records, RecordFile) and not loaded.records.reachable:
        return load_split(*arguments, **options)  # on another host
    return loaded


def offers(data: DataConfig, dataset: Input | None, format: str) -> bool:
    """True if there are rows of `format`: an artifact holds them, or the config says where they are.

    An artifact offers its prompts, too, whatever the format of its records.
    """
    if dataset is not None:
        held = dataset.manifest.format if dataset.manifest is not None else None
        return held == format or (format == "prompt_only" and held is not None and converts(held, format))
    entry: DatasetConfig = getattr(data, format)
    return entry.train is not None or entry.eval is not None


def has_eval(data: DataConfig, dataset: Input | None, format: str) -> bool:
    """True if a split is held out: a file or split of its own, or a share of train."""
    if dataset is not None:
        return True
    entry: DatasetConfig = getattr(data, format)
    return entry.eval is not None or (entry.train is not None and entry.eval_fraction > 0)


def source_of(entry: DatasetConfig) -> DatasetSource:
    """A `data.<format>` block as the loader takes it."""
    return DatasetSource(**asdict(entry))


def check_dataset_input(dataset: Input, refuse: str = "never") -> None:
    """`inputs.dataset` is a dataset artifact, and its report found nothing of the severity `refuse` or above.

    What the import was told to allow is allowed here.

    Raises:
        UserError: it is something else, or not sound enough.
    """
    if dataset.type != "dataset":
        what = f"a {dataset.type}" if dataset.type else "a path or hub id"
        raise UserError(
            f"inputs.dataset={dataset.text} is {what}; it takes a dataset artifact. Files and hub sets go in data: "
            "data=local data.preference.train=<file>"
        )
    severities = SEVERITIES[SEVERITIES.index(refuse) :] if refuse in SEVERITIES else ()
    notes = dataset.manifest.notes if dataset.manifest is not None else {}
    found = {
        name: finding
        for name, finding in notes.get("findings", {}).items()
        if finding["severity"] in severities and name not in notes.get("allowed", [])
    }
    if found:
        told = ", ".join(f"{name} ({one['count']} of {one['of']})" for name, one in found.items())
        raise UserError(
            f"inputs.dataset={dataset.text}: its report has {told}; see {dataset.path / 'report.html'}. Mend it with "
            "align data import --fix and --drop, or go on with data.refuse=never"
        )


def shuffled(items: Sequence[Any], *, seed: int, limit: int | None) -> list:
    """A seeded sample of at most `limit` items, all of them where there is no limit."""
    if limit is None or limit >= len(items):
        return list(items)
    return random.Random(seed).sample(items, limit)

"""What a `trainer:` block may hold: the fields of TRL's config classes, read from the installed source.

Importing trl to learn 139 names and kinds takes seconds and brings torch with it; `ast` takes some tens of
milliseconds. Fields that align itself owns are refused with the place where they are set.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from align.config.types import UNFIT, fit, nearest, words
from align.errors import UserError

_STORE = "align publishes to its own store, set artifacts.root"
_PRECISION = "set precision=auto|fp32|bf16|fp16"
_TRACKING = "choose tracking=none|wandb|wandb_offline and set tracking.project"
_RESUME = "a resumed run ends as if it had never stopped, and needs all of its checkpoint"
_LAUNCH = "the launcher and the machine decide"
_TOKENIZER = "the tokenizer travels with the model"

OWNED = {
    "output_dir": "a run's folder is in the artifact store, set artifacts.root and name",
    "deepspeed": "choose deepspeed=zero1|zero2|zero3|...",
    "fsdp": "align shards with DeepSpeed, choose deepspeed=zero3",
    "fsdp_config": "align shards with DeepSpeed, choose deepspeed=zero3",
    "parallelism_config": "align shards with DeepSpeed, choose deepspeed=zero3",
    "report_to": _TRACKING,
    "run_name": "set name",
    "disable_tqdm": "align prints its own progress",
    "project": _TRACKING,
    "trackio_space_id": _TRACKING,
    "trackio_bucket_id": _TRACKING,
    "trackio_static_space_id": _TRACKING,
    "resume_from_checkpoint": "an interrupted run resumes when the same command is given again",
    "enable_jit_checkpoint": "a run that is asked to stop by SIGTERM writes a checkpoint as it is",
    "save_only_model": _RESUME,
    "ignore_data_skip": _RESUME,
    "restore_callback_states_from_checkpoint": _RESUME,
    "push_to_hub": _STORE,
    "hub_token": _STORE,
    "hub_private_repo": _STORE,
    "hub_model_id": _STORE,
    "hub_strategy": _STORE,
    "hub_always_push": _STORE,
    "hub_revision": _STORE,
    "bf16": _PRECISION,
    "fp16": _PRECISION,
    "bf16_full_eval": _PRECISION,
    "fp16_full_eval": _PRECISION,
    "use_cpu": _LAUNCH,
    "local_rank": _LAUNCH,
    "ddp_backend": _LAUNCH,
    "do_train": "a stage trains, choose stage=evaluate to evaluate",
    "do_eval": "set trainer.eval_strategy",
    "do_predict": "choose stage=evaluate",
    "trust_remote_code": "set model.trust_remote_code",
    "model_init_kwargs": "set model.dtype and model.attn_implementation",
    "chat_template_path": "set model.chat_template",
    "eos_token": _TOKENIZER,
    "pad_token": _TOKENIZER,
    "dataset_text_field": "set data.language_modeling.columns",
    # transformers mirrors these onto the new names, where the value given by conf/stage would win in silence
    "gradient_checkpointing": "transformers has renamed it, set trainer.activation_checkpointing",
    "gradient_checkpointing_kwargs": "transformers has renamed it, set trainer.activation_checkpointing_kwargs",
}


@dataclass(frozen=True)
class TrainerField:
    """A field of a TRL config class: its annotation as written, and its words where it takes only some."""

    name: str
    annotation: str
    choices: tuple[str, ...] = ()


def check_trainer(stage: str, class_name: str | None, block: dict[str, Any]) -> dict[str, Any]:
    """The `trainer:` block of a stage, checked against its TRL config class; UserError names key, value and remedy."""
    if class_name is None:
        if block:
            raise UserError(f"stage {stage} trains nothing, so it has no key trainer.{next(iter(block))}; remove it")
        return {}
    fields = trainer_fields(class_name)
    checked = {}
    for key, value in block.items():
        if key in OWNED and key in fields:
            raise UserError(f"trainer.{key} is not yours to set: {OWNED[key]}")
        if key not in fields:
            near = nearest(key, sorted(fields.keys() - OWNED.keys()), "trainer.")
            raise UserError(f"stage {stage} has no key trainer.{key}{near or f'; its keys are those of {class_name}'}")
        checked[key] = _check(class_name, fields[key], value)
    return checked


def _check(class_name: str, known: TrainerField, value: Any) -> Any:
    # trl takes one loss as a word or a list of one; one spelling, so that both name the same run
    if known.name == "loss_type" and known.annotation == "list[str]" and isinstance(value, str):
        value = [value]
    if value is False and "no" in known.choices:  # YAML reads a bare `no` as false
        value = "no"
    fitted = fit(value, known.annotation)
    if fitted is UNFIT:
        raise UserError(f"trainer.{known.name} is {value!r}, but takes {words(known.annotation)}")
    choices = known.choices or _compared(class_name, known.name)
    for word in fitted if isinstance(fitted, list) else [fitted]:
        if choices and isinstance(word, str) and word not in choices:
            raise UserError(
                f"trainer.{known.name} is {word!r}, but takes one of {', '.join(choices)}{nearest(word, choices)}"
            )
    return fitted


@cache
def trainer_fields(class_name: str) -> dict[str, TrainerField]:
    """The fields of a config class of TRL, stable or experimental, or of PPO's here, with those it inherits, by name.

    Nothing is imported. Raises LookupError if no file defines the class.
    """
    fields: dict[str, TrainerField] = {}
    for path, node in reversed(_lineage(_source(class_name), class_name)):
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                annotation = ast.unparse(line.annotation)
                choices = _metadata_choices(line.value) or _enum_words(path, line.annotation)
                fields[line.target.id] = TrainerField(line.target.id, annotation, choices)
    return fields


@cache
def _source(class_name: str) -> Path:
    """The file that defines a trainer's config class."""
    trl = _package("trl")
    folders = [Path(__file__).parents[1] / "ppo", trl / "trainer", *sorted((trl / "experimental").glob("*/"))]
    for folder in folders:
        for file in sorted(folder.glob("*config.py")):
            if any(isinstance(node, ast.ClassDef) and node.name == class_name for node in _tree(file).body):
                return file
    raise LookupError(f"neither align.ppo nor trl defines a class {class_name}")


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the Python package {name} is not installed; run `make install`")
    return Path(spec.submodule_search_locations[0])


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _lineage(path: Path, class_name: str) -> list[tuple[Path, ast.ClassDef]]:
    """The class and its ancestors, youngest first, each with the file it is written in."""
    node = _class_in(path, class_name)
    line = [(path, node)]
    for base in node.bases:
        home = _home(path, ast.unparse(base))
        if home is not None:
            line += _lineage(home, ast.unparse(base))
    return line


def _class_in(path: Path, class_name: str) -> ast.ClassDef:
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return node
    raise LookupError(f"{path} holds no class {class_name}")


def _home(path: Path, class_name: str) -> Path | None:
    """The file that defines a class used in `path`: this one, a sibling it imports from, or transformers."""
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return path
        if isinstance(node, ast.ImportFrom) and class_name in [name.name for name in node.names]:
            if node.module == "transformers":
                return _package("transformers") / "training_args.py"
            if node.module and node.module.startswith("trl."):
                return _package("trl").joinpath(*node.module.split(".")[1:]).with_suffix(".py")
            if node.level and node.module:
                home = path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
                return home if home.exists() else None
    return None


def _metadata_choices(value: ast.expr | None) -> tuple[str, ...]:
    """`field(metadata={"choices": [...]})`, where the list is written out."""
    for keyword in value.keywords if isinstance(value, ast.Call) else ():
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
            for key, item in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "choices" and isinstance(item, ast.List):
                    return tuple(ast.literal_eval(item))
    return ()


def _enum_words(path: Path, annotation: ast.expr) -> tuple[str, ...]:
    """`SchedulerType | str`: the values of that enum."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and node.id[0].isupper() and node.id not in ("Any", "Literal"):
            home = _home(path, node.id)
            lines = _class_in(home, node.id).body if home else []
            values = [
                line.value.value
                for line in lines
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
            ]
            return tuple(value for value in values if isinstance(value, str))
    return ()


@cache
def _compared(class_name: str, field_name: str) -> tuple[str, ...]:
    """The words that the trainer compares `loss_type` with, which are listed nowhere else."""
    config = _source(class_name)
    trainer = config.with_name(config.name.replace("config", "trainer"))
    if field_name != "loss_type" or not trainer.is_file():
        return ()
    words: list[str] = []
    for node in ast.walk(_tree(trainer)):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).rpartition(".")[2] == field_name:
            for constant in ast.walk(node.comparators[0]):
                if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                    words.append(constant.value)
    return tuple(dict.fromkeys(words))

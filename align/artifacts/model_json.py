"""The JSON files of a model's folder, which may come from anybody: read within bounds, and of the shape that is used.

Only what the checks before training rely on is looked at; the rest is transformers' business.
"""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from align.artifacts.disk import read_regular, unreadable
from align.errors import UserError

_LARGEST = 1_000_000_000  # bytes: tokenizer.json of a large vocabulary has some tens of millions
_MOST = 1 << 40  # no count of anything in a model is larger
# Fields of a config that count something: a model with fewer than one of it cannot be built, or never ends.
COUNTS = (
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "n_ctx",
    "n_embd",
    "n_head",
    "n_layer",
    "n_positions",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
)

_BY_LAYER = ("head_dim", "intermediate_size", "num_attention_heads", "num_key_value_heads")  # a list in some models


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a model's folder; empty where there is no such file.

    Raises:
        UserError: it is not a JSON object, or a field that is used has a value of another kind.
    """
    try:
        body = json.loads(read_regular(file, _LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise unreadable(file, error) from None
    except RecursionError:
        raise _damaged(file, "it is nested too deeply") from None
    except ValueError as error:
        raise _damaged(file, f"it is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise _damaged(file, f"it holds a {type(body).__name__} and not an object")
    fields = _FIELDS["model.safetensors.index.json" if file.name.endswith(".index.json") else file.name]
    for name, (is_right, kind) in fields.items():
        if body.get(name) is None:
            body.pop(name, None)  # null says as much as nothing
        elif not is_right(body[name]):
            raise _damaged(file, f"{name} is {_shown(body[name])}, not {kind}")
    if file.name == "config.json":
        for config in (body, body.get("text_config") or {}):
            if problem := count_problem(config):
                raise _damaged(file, problem)
    return body


def count_problem(config: dict[str, Any]) -> str | None:
    """What is wrong with the numbers of a model's config that count something; None if nothing is."""
    for name in COUNTS:
        value = config.get(name)
        for number in value if isinstance(value, list) and value and name in _BY_LAYER else [value]:
            if number is not None and not (type(number) is int and 1 <= number <= _MOST):
                return f"{name} is {_shown(number)}, not a positive number"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _MOST


def _is_token(value: object) -> bool:
    """A special token: its text, or an object with its content."""
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def _is_template(value: object) -> bool:
    """A chat template: its text, or a list of named ones."""
    return isinstance(value, str) or (
        isinstance(value, list)
        and all(isinstance(one, dict) and isinstance(one.get("template"), str) for one in value)
    )


def _is_tokenizer_model(value: object) -> bool:
    """The model of tokenizer.json: a vocabulary that maps tokens to ids, or lists (token, score), and merges."""
    if not isinstance(value, dict):
        return False
    vocab, merges = value.get("vocab") or {}, value.get("merges") or []
    if isinstance(vocab, dict):
        sound = all(type(number) is int and 0 <= number < _MOST for number in vocab.values())
    else:
        sound = isinstance(vocab, list) and all(isinstance(one, list) and one and _is_text(one[0]) for one in vocab)
    return sound and isinstance(merges, list) and all(_is_merge(one) for one in merges)


def _is_merge(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and len(value) == 2 and all(map(_is_text, value)))


def _are_added_tokens(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and _is_text(one.get("content")) and type(one.get("id")) is int for one in value
    )


_Field = tuple[Callable[[object], bool], str]
_OBJECT: _Field = (_is_object, "an object")
_TEXT: _Field = (_is_text, "a text")
_TOKENS: dict[str, _Field] = dict.fromkeys(
    ("bos_token", "eos_token", "pad_token", "unk_token"), (_is_token, "a token")
)
_TEMPLATE: dict[str, _Field] = {"chat_template": (_is_template, "a text or a list of named ones")}
# File -> field -> what its value must be, and in which words.
_FIELDS: dict[str, dict[str, _Field]] = defaultdict(dict) | {
    "config.json": {
        "text_config": _OBJECT,
        "auto_map": _OBJECT,
        "quantization_config": _OBJECT,
        "model_type": _TEXT,
    },
    "adapter_config.json": {"base_model_name_or_path": _TEXT, "revision": _TEXT, "peft_type": _TEXT},
    "tokenizer_config.json": {**_TOKENS, **_TEMPLATE, "tokenizer_class": _TEXT, "auto_map": _OBJECT},
    "special_tokens_map.json": _TOKENS,
    "score_center.json": {"score_center": (_is_number, "a number")},
    "chat_template.json": _TEMPLATE,
    "tokenizer.json": {
        "model": (_is_tokenizer_model, "a vocabulary of tokens with their ids"),
        "added_tokens": (_are_added_tokens, "a list of tokens with their ids"),
    },
    "model.safetensors.index.json": {
        "weight_map": (
            lambda value: isinstance(value, dict) and all(_is_text(one) and "/" not in one for one in value.values()),
            "an object of file names",
        )
    },
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _damaged(file: Path, problem: str) -> UserError:
    return UserError(f"{file} is damaged: {problem}; fetch the model again, or correct the file")

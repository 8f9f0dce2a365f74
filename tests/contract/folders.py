"""Folders of models as files alone can make them, for the tests of what files alone can show."""

import json
import re
from pathlib import Path

import pytest

from align.artifacts.inputs import Input
from align.artifacts.manifest import json_digest
from align.errors import UserError

GENERIC = {"tokenizer_class": "TokenizersBackend", "eos_token": "<|end|>", "pad_token": "<|pad|>"}


def write_safetensors(file: Path, shapes: dict[str, list[int]]) -> None:
    """fp32 zeros, by the format's definition: 8 bytes of length, a JSON header, the data."""
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


def model_folder(folder: Path, shapes: dict[str, list[int]] | None = None, tokenizer: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_positions": 128}))
    (folder / "tokenizer_config.json").write_text(json.dumps(GENERIC if tokenizer is None else tokenizer))
    write_safetensors(folder / "model.safetensors", shapes or {"wte.weight": [4, 2]})
    return folder


def write_tokenizer(folder: Path, body: dict, template: str | None = None, **config) -> Path:
    folder = model_folder(folder, tokenizer={**GENERIC, **config})
    (folder / "tokenizer.json").write_text(json.dumps(body))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def adapter_folder(folder: Path, base: str, **fields) -> Path:
    model_folder(folder)
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, **fields}))
    return folder


def given(path: Path, type: str | None = None) -> Input:
    """The input that a folder is, as `resolve_input` would give it; its digest stands for its path."""
    return Input(str(path), "path", str(path), path, type, json_digest(str(path)), None, None)


def refused(call, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        call()

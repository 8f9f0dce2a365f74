"""Models from anybody: whatever their files hold, the checks before training pass, or end in a sentence at once."""

import contextlib
import json
import os
import struct

import pytest

from align.artifacts import tokenizer_files
from align.artifacts.inputs import resolve_input
from align.artifacts.model_files import count_weights, default_length, tensor_shapes
from align.artifacts.model_json import COUNTS, read_json
from align.artifacts.store import Store
from align.config.compose import compose
from align.contract.architectures import check_architectures, check_attention
from align.contract.inputs import check_dtype, check_inputs, check_max_length, check_room, check_value_model
from align.contract.tokenizers import check_assistant_turns, check_template, check_tokenizer
from align.errors import UserError
from tests.contract.folders import given, write_tokenizer

TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    "added_tokens": [{"id": 3, "content": "<|end|>"}],
}


@pytest.fixture
def folder(tmp_path):
    return write_tokenizer(tmp_path / "model", TOKENIZER, template="{{ messages }}")


def check_everything(folder):
    """Every check of a run that reads the files of a model, each by itself."""
    model = given(folder)
    options = {"conversational": True, "chat_template": None}
    checks = [
        lambda: check_inputs("dpo", {"policy": model, "ref_model": model}),
        lambda: check_architectures("ppo", {"policy": model}, trust_remote_code=False, trains_value=True),
        lambda: check_attention([model], "eager", precision="fp32"),
        lambda: check_tokenizer(model, pad_token=None, **options),
        lambda: check_assistant_turns(model, **options),
        lambda: check_template(model, "conf/model/chat.jinja"),
        lambda: check_dtype("policy", model, adapter="none"),
        lambda: check_max_length(model, 4),
        lambda: check_room(model, 4),
        lambda: check_value_model(model, model, lora=True, share_backbone=False),
        lambda: default_length(folder),
        lambda: count_weights(folder),
        lambda: tokenizer_files.fingerprint(folder),
        lambda: tokenizer_files.drift(folder, folder),
    ]
    sentences = []
    for check in checks:
        try:
            check()
        except UserError as error:
            sentences.append(str(error))
    return sentences


def test_the_folder_itself_is_sound(folder):
    assert [text for text in check_everything(folder) if "damaged" in text or "safetensors" in text] == []


# -- safetensors -----------------------------------------------------------------------------------------------------


def header(entries, data=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HEADERS = {
    "an empty file": b"",
    "seven bytes": b"\x02\0\0\0\0\0\0",
    "a length beyond the file": header({}, length=1 << 20),
    "a length of exabytes": header({}, length=(1 << 64) - 1),
    "no JSON": header(b"{nothing}"),
    "no text": header(b"\xff\xfe\x00\x01"),
    "a list": header([tensor()], bytes(8)),
    "100,000 brackets": header(b"[" * 100_000),
    "100,000 objects": header(b'{"a":' * 100_000),
    "a number of 5,000 digits": header(b'{"a":' + b"9" * 5000 + b"}"),
    "a tensor that is a number": header({"w": 1}, bytes(8)),
    "no dtype": header({"w": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "no shape": header({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "no offsets": header({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "a shape of words": header({"w": tensor(["two"])}, bytes(8)),
    "a negative shape": header({"w": tensor([-2, -1])}, bytes(8)),
    "a shape of fractions": header({"w": tensor([2.0])}, bytes(8)),
    "a shape of truths": header({"w": tensor([True, 2])}, bytes(8)),
    "a huge shape": header({"w": tensor([1 << 60, 1 << 60])}, bytes(8)),
    "a shape of 100,000 dimensions": header({"w": tensor([1] * 100_000, (0, 4))}, bytes(4)),
    "another shape than bytes": header({"w": tensor([3])}, bytes(8)),
    "offsets of words": header({"w": tensor(offsets=("0", "8"))}, bytes(8)),
    "negative offsets": header({"w": tensor(offsets=(-8, 0))}, bytes(8)),
    "offsets the wrong way round": header({"w": tensor(offsets=(8, 0))}, bytes(8)),
    "three offsets": header({"w": tensor(offsets=(0, 8, 16))}, bytes(8)),
    "one offset": header({"w": tensor(offsets=(8,))}, bytes(8)),
    "two tensors in one place": header({"w": tensor(), "v": tensor()}, bytes(8)),
    "a gap": header({"w": tensor(), "v": tensor(offsets=(16, 24))}, bytes(24)),
    "a cut file": header({"w": tensor()}, bytes(7)),
    "a longer file": header({"w": tensor()}, bytes(9)),
}


@pytest.mark.parametrize("content", HEADERS.values(), ids=list(HEADERS))
def test_a_hostile_safetensors_header_is_refused(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors is (not a safetensors file|cut off)"):
        tensor_shapes(folder)
    assert any("model.safetensors is" in text for text in check_everything(folder))


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "an endless file", "a terabyte"])
def test_weights_that_are_no_file_are_refused(folder, kind):
    file = folder / "model.safetensors"
    file.unlink()
    if kind == "a folder":
        file.mkdir()
    elif kind == "a pipe":
        os.mkfifo(file)
    elif kind == "an endless file":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(header(b"{", length=1 << 39))
        os.truncate(file, 1 << 40)
    with pytest.raises(UserError, match="model.safetensors is not a safetensors file"):
        tensor_shapes(folder)


# -- JSON ------------------------------------------------------------------------------------------------------------

FILES = (
    "config.json",
    "adapter_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "chat_template.json",
    "model.safetensors.index.json",
)
TEXTS = {
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "a text": b'"config"',
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"model":' * 100_000,
    "a number of 5,000 digits": b'{"n_layer":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_object_is_refused(folder, name, text):
    (folder / name).write_bytes(text)
    if name == "chat_template.json":
        (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=f"{name} is damaged: it (is not JSON|is nested|holds)"):
        read_json(folder / name)
    assert any(f"{name} is damaged" in text for text in check_everything(folder))


VALUES = (None, -1, 0, 1, 1.5, 10**400, "x", True, [], [-1], ["x"], {}, {"a": 1}, [[]], [{}], {"a": {"b": []}})


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *[("config.json", field) for field in (*COUNTS, "text_config", "model_type", "auto_map", "architectures")],
        *[("config.json", field) for field in ("quantization_config", "is_encoder_decoder", "torch_dtype")],
        *[("tokenizer_config.json", f"{role}_token") for role in ("bos", "eos", "pad", "unk")],
        *[("tokenizer_config.json", field) for field in ("chat_template", "tokenizer_class", "auto_map")],
        *[("special_tokens_map.json", f"{role}_token") for role in ("bos", "eos", "pad", "unk")],
        *[("tokenizer.json", field) for field in ("model", "added_tokens")],
        ("chat_template.json", "chat_template"),
        *[("adapter_config.json", field) for field in ("base_model_name_or_path", "revision", "peft_type")],
        ("model.safetensors.index.json", "weight_map"),
    ],
)
def test_a_field_of_any_value_ends_in_a_sentence_or_passes(folder, name, field):
    """Nothing else is raised: no TypeError, no KeyError, no ZeroDivisionError."""
    if name == "chat_template.json":
        (folder / "chat_template.jinja").unlink()
    file = folder / name
    before = json.loads(file.read_text()) if file.is_file() else {}
    for value in VALUES:
        file.write_text(json.dumps(before | {field: value}))
        tokenizer_files._read_tokenizer.cache_clear()
        check_everything(folder)


@pytest.mark.parametrize(
    "model",
    [
        {"vocab": {"a": -1}},
        {"vocab": {"a": "0"}},
        {"vocab": [["a", 0.5], "b"]},
        {"vocab": [[]]},
        {"vocab": 3},
        {"vocab": {"a": 0}, "merges": [["a"]]},
        {"vocab": {"a": 0}, "merges": [["a", "b", "c"]]},
        {"vocab": {"a": 0}, "merges": "a b"},
        {"vocab": {"a": 0}, "merges": [7]},
    ],
)
def test_a_vocabulary_that_is_none_is_refused(folder, model):
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))
    tokenizer_files._read_tokenizer.cache_clear()
    with pytest.raises(UserError, match="tokenizer.json is damaged: model is .*, not a vocabulary"):
        tokenizer_files.vocabulary(folder)


def test_a_chat_template_within_bounds(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="chat_template.jinja is not a chat template"):
        tokenizer_files.chat_template(folder)
    (folder / "chat_template.jinja").write_bytes(b" " * 1_000_001)
    with pytest.raises(UserError, match="it has 1000001 bytes"):
        tokenizer_files.chat_template(folder)


# -- paths and numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["no model", "a file", "an empty folder"])
def test_a_path_that_is_no_model_is_refused_before_it_is_hashed(tmp_path, monkeypatch, kind):
    """`inputs.policy=/` must not hash the disk first."""
    path = tmp_path / "x"
    if kind == "a file":
        path.write_text("")
    else:
        path.mkdir()
    if kind == "no model":
        (path / "readme.txt").write_text("")
    monkeypatch.setattr("align.artifacts.inputs.path_digest", lambda path: pytest.fail("it was hashed"))
    with pytest.raises(UserError, match="is a file; name the folder of a model|holds no config.json"):
        resolve_input(Store(tmp_path / "store"), str(path))
    with pytest.raises(UserError, match="takes a dataset artifact"):
        resolve_input(Store(tmp_path / "store"), str(path), repo_type="dataset")


@pytest.mark.parametrize("field", ["n_layer", "n_head", "n_embd", "n_positions", "vocab_size"])
@pytest.mark.parametrize("value", ["-1", "0", "1.5", "many"])
def test_a_new_model_has_positive_numbers(field, value):
    """Some negative ones did not fail: they kept transformers busy for ever."""
    with pytest.raises(UserError, match=f"model.new.architecture.{field} is .*, not a positive number"):
        compose(["stage=pretrain", "model=tiny_gpt2", f"+model.new.architecture.{field}={value}"])


@pytest.mark.parametrize("value", ["-5", "0", "257"])
def test_a_new_tokenizer_has_room_for_bytes_and_special_tokens(value):
    with contextlib.suppress(AssertionError), pytest.raises(UserError, match="vocab_size is .* need 2.. at least"):
        compose(["stage=pretrain", "model=tiny_gpt2", f"model.new.tokenizer.vocab_size={value}"])
        raise AssertionError


@pytest.mark.parametrize(
    "config", [{"vocab_size": 10**12}, {"n_embd": 10**9}, {"n_layer": 10**6}, {"text_config": {"vocab_size": 10**12}}]
)
def test_a_config_larger_than_its_weights_is_refused_before_it_is_built(folder, config):
    """A model is built as its config says before its weights are loaded: a million layers take minutes and memory."""
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", **config}))
    with pytest.raises(UserError, match="it is another model's config"):
        check_inputs("sft", {"policy": given(folder)})


def test_shards_lie_in_the_folder(folder):
    index = {"weight_map": {"w": "../../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="weight_map is .*, not an object of file names"):
        check_inputs("sft", {"policy": given(folder)})

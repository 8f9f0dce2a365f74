"""The types that weights are stored, loaded and trained in."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from align.artifacts.store import Store
from align.artifacts.version import Version
from align.errors import UserError
from align.models.load import load_frozen
from align.models.scoring import token_logps
from align.training import trainer
from tests.conftest import run_stage

FROZEN = ("trainer.learning_rate=0.0", "trainer.max_steps=1")


def folder_of(root: Path, ref: str) -> Path:
    return Store(root).resolve(ref).model_dir


def weights(version: Version) -> dict[str, torch.Tensor]:
    return load_file(version.model_dir / "model.safetensors")


@pytest.mark.parametrize(
    "cuda, bf16, dtype, precision, frozen, expected",
    [
        (False, False, "auto", "auto", False, "float32"),
        (False, False, "auto", "auto", True, "float32"),
        (False, False, "auto", "bf16", True, "bfloat16"),
        (False, False, "auto", "bf16", False, "float32"),
        (True, True, "auto", "auto", False, "float32"),
        (True, True, "auto", "auto", True, "bfloat16"),
        (True, True, "auto", "fp32", True, "float32"),
        (True, False, "auto", "auto", True, "float32"),
        (True, False, "auto", "fp16", True, "float16"),
        (True, True, "float16", "bf16", False, "float16"),
        (False, False, "bfloat16", "fp32", False, "bfloat16"),
    ],
)
def test_weights_are_loaded_in_the_type_they_are_used_in(monkeypatch, cuda, bf16, dtype, precision, frozen, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: bf16)
    assert trainer.resolve_dtype(dtype, precision, frozen=frozen) == expected


def test_precision_that_the_device_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="precision=fp16 needs a GPU; use precision=auto"):
        trainer.resolve_precision("fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="precision=bf16 needs a GPU of the Ampere generation or newer"):
        trainer.resolve_precision("bf16")


def test_model_dtype_is_the_type_of_the_weights(tiny_store):
    version = run_stage(tiny_store, "stage=sft", "name=half", "inputs.policy=sft", "model.dtype=bfloat16", *FROZEN)
    assert {weight.dtype for weight in weights(version).values()} == {torch.bfloat16}
    assert load_frozen(version.model_dir, dtype="bfloat16").dtype == torch.bfloat16
    rows = [([5, 6, 7], [8, 9])]
    half, whole = (
        token_logps(load_frozen(folder_of(tiny_store, "sft"), dtype=dtype), 0, rows)[0]
        for dtype in ("bfloat16", "float32")
    )
    torch.testing.assert_close(half, whole, atol=0.05, rtol=0)

"""Models that come with Python code of their own."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.errors import UserError
from tests.conftest import run_stage

FROZEN = ("trainer.learning_rate=0.0", "trainer.max_steps=1")


def folder_of(root: Path, ref: str) -> Path:
    return Store(root).resolve(ref).model_dir


OWN_CODE = """
from transformers import GPT2Config, GPT2LMHeadModel


class OwnConfig(GPT2Config):
    model_type = "own"


class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""


def own_model(source: Path, folder: Path) -> Path:
    """The model in `source` as one that only its own Python code can load."""
    shutil.copytree(source, folder)
    (folder / "own.py").write_text(OWN_CODE)
    changes = {
        "model_type": "own",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
def test_code_is_run_when_trusted_and_never_published(tiny_store, tmp_path, monkeypatch):
    commit = "89abcdef" * 5
    own = own_model(folder_of(tiny_store, "sft"), tmp_path / commit)
    asked = []

    def download(name, **options):
        asked.append("*.py" in options["allow_patterns"])
        return str(own)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", list(sys.path))
    run = ("stage=sft", "name=own", "inputs.policy=hf:org/own", *FROZEN)
    with pytest.raises(UserError, match="comes with Python code of its own, which runs only with"):
        run_stage(tiny_store, *run)
    assert asked == [False]
    version = run_stage(tiny_store, *run, "model.trust_remote_code=true")
    assert asked[-1]
    assert not list(version.model_dir.glob("*.py"))
    settings = json.loads((version.model_dir / "config.json").read_text())
    assert settings["auto_map"] == {
        "AutoConfig": "org/own--own.OwnConfig",
        "AutoModelForCausalLM": "org/own--own.OwnModel",
    }
    with pytest.raises(UserError, match="an artifact holds data only: put the model on the Hugging Face Hub"):
        run_stage(tiny_store, *run[:2], f"inputs.policy={own}", *FROZEN, "model.trust_remote_code=true")

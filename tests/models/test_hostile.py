"""Models whose files transformers stumbles over: a sentence that names the folder, whatever error it raises."""

import json
import shutil
from pathlib import Path

import pytest

from align.errors import UserError
from align.models.load import load_tokenizer, load_whole

SOURCE = Path(__file__).parents[1] / "upgrade" / "store-0.1.0" / "sft" / "v0001" / "model"
CASES = {
    "activation": ("config.json", {"activation_function": "nonsense"}),
    "no heads": ("config.json", {"n_head": 0}),
    "dtype": ("config.json", {"dtype": "nonsense"}),
    "no dtype": ("config.json", {"dtype": []}),
    "labels": ("config.json", {"id2label": 3}),
    "inner": ("config.json", {"n_inner": -4}),
    "auto map": ("config.json", {"auto_map": {"AutoModelForCausalLM": 3}}),
    "positions": ("config.json", {"n_positions": 1}),
    "rope": ("config.json", {"rope_scaling": 3}),
    "epsilon": ("config.json", {"layer_norm_epsilon": "x"}),
    "text config": ("config.json", {"text_config": {"a": 1}}),
    "tokenizer class": ("tokenizer_config.json", {"tokenizer_class": 3}),
    "special token": ("tokenizer_config.json", {"eos_token": {"content": 3}}),
    "added tokens": ("tokenizer_config.json", {"added_tokens_decoder": {"a": 1}}),
    "extra tokens": ("tokenizer_config.json", {"extra_special_tokens": 3}),
    "no tokenizer": ("tokenizer.json", None),
}


@pytest.mark.parametrize(("name", "change"), CASES.values(), ids=list(CASES))
def test_a_hostile_model_is_refused_in_a_sentence(tmp_path, name, change):
    folder = tmp_path / "model"
    shutil.copytree(SOURCE, folder)
    body = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({} if change is None else body | change))
    with pytest.raises(UserError, match=f"transformers cannot load {folder} as Auto"):
        load_tokenizer(folder)
        load_whole(folder)


def test_memory_that_runs_out_is_said_as_such(monkeypatch):
    """It is no fault of the model's files."""
    import transformers

    def full(*given, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        load_whole(SOURCE)

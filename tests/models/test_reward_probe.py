"""What a model must still be when it is loaded: finite, and its reward head scoring as at publish."""

import json

import pytest
import torch

from align.artifacts.store import Store
from align.errors import UserError
from align.models.load import SCORE_CENTER, load_policy, load_reward_model, load_tokenizer, read_score_center
from align.models.reward_probe import PROBE, check_finite, check_probe
from align.run import stage
from tests.conftest import run_stage, stage_overrides


@pytest.fixture
def reward(tiny_store):
    """The folder of the published reward model, which may be written to."""
    folder = Store(tiny_store).resolve("reward:v1").model_dir
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def test_a_reward_model_scores_its_probe_as_it_did(reward):
    rows = json.loads((reward / PROBE).read_text())["rows"]
    assert len(rows) == 4 and len({row["score"] for row in rows}) == 4
    tokenizer = load_tokenizer(reward)
    check_probe(load_reward_model(reward).eval(), tokenizer, reward)
    check_probe(load_reward_model(reward, dtype="bfloat16").eval(), tokenizer, reward)
    model = load_reward_model(reward).eval()
    with torch.no_grad():
        model.score.weight.normal_(std=1.0, generator=torch.Generator().manual_seed(0))  # a head drawn anew
    with pytest.raises(UserError, match="scored it .* when it was published: its head"):
        check_probe(model, tokenizer, reward)
    (reward / PROBE).unlink()
    check_probe(model, tokenizer, reward)  # made elsewhere: there is nothing to compare with


def test_a_score_that_is_no_number_is_not_near(reward):
    model = load_reward_model(reward).eval()
    with torch.no_grad():
        model.score.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="scores .* nan"):
        check_probe(model, load_tokenizer(reward), reward)


def test_weights_that_are_no_numbers_are_named(tiny_store):
    folder = Store(tiny_store).resolve("sft:v1").model_dir
    model = load_policy(folder)
    check_finite(model, folder, "name another")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[3] = torch.inf
    with pytest.raises(UserError, match=r"transformer.h.1.mlp.c_fc.bias hold NaN or infinity; name another"):
        check_finite(model, folder, "name another")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    (folder / "model.safetensors").chmod(0o644)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="NaN or infinity; it is damaged"):
        load_policy(folder)


@pytest.mark.slow
def test_the_stages_that_read_a_reward_model_ask_its_probe(tiny_store, reward, capsys):
    body = json.loads((reward / PROBE).read_text())
    body["rows"][0]["score"] += 1.0
    (reward / PROBE).write_text(json.dumps(body))
    few = ["evaluate.max_prompts=2", "evaluate.max_rows=2", "artifacts.verify=off"]
    given = ["stage=evaluate", "inputs.policy=[sft:v1]", "inputs.reward_model=reward:v1", *few]
    assert stage.main(stage_overrides(tiny_store, *given)) == 2
    assert "when it was published" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapters_head_scores_the_same_after_reload(tiny_store):
    version = run_stage(tiny_store, "stage=reward", "name=low", "adapter=lora", "adapter.r=4")
    folder = version.model_dir
    check_probe(load_reward_model(folder).eval(), load_tokenizer(folder), folder)
    merged = run_stage(tiny_store, "stage=reward", "name=low", "adapter=lora", "adapter.r=4", "adapter.merge=true")
    folder = merged.model_dir
    check_probe(load_reward_model(folder).eval(), load_tokenizer(folder), folder)


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, "{}", '{"rows": [1]}', '{"rows": [{"prompt": 1}]}'])
def test_a_probe_that_is_none_is_a_sentence(tmp_path, text):
    """It comes with the model, which may come from anybody."""
    (tmp_path / PROBE).write_text(text)
    with pytest.raises(UserError, match=f"{PROBE} is damaged"):
        check_probe(torch.nn.Linear(1, 1), None, tmp_path)


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"score_center": "x"}', '{"score_center": [1]}'])
def test_a_score_center_that_is_none_is_a_sentence(tmp_path, text):
    (tmp_path / SCORE_CENTER).write_text(text)
    with pytest.raises(UserError, match=f"{SCORE_CENTER} is damaged"):
        read_score_center(tmp_path)

"""Models that are only read: as they were trained, and where there is room for them."""

import shutil
from pathlib import Path

import pytest
import torch

from align.artifacts.store import Store
from align.models import inference
from align.models.inference import open_policy, open_reward_model
from align.models.load import load_frozen, load_tokenizer
from align.models.save import save_model
from tests.conftest import run_stage

CHAT = [{"role": "user", "content": "what is two plus three?"}, {"role": "assistant", "content": "five."}]
CHAT_TEMPLATE = "model.chat_template=conf/model/chat.jinja"
QLORA = (CHAT_TEMPLATE, "adapter=qlora", "adapter.r=4", "trainer.learning_rate=1e-2", "trainer.warmup_steps=0")
EVALUATE = ("evaluate.max_prompts=5", "evaluate.max_rows=6", "evaluate.max_new_tokens=6", "evaluate.judge=null")


def logits(model: torch.nn.Module, tokenizer) -> torch.Tensor:
    batch = tokenizer.apply_chat_template(CHAT, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        return model.eval()(**batch).logits.float()


@pytest.fixture
def wide_store(wide_models: Path, tmp_path: Path) -> Path:
    root = tmp_path / "artifacts"
    shutil.copytree(wide_models, root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_an_adapter_on_a_base_in_4_bits_is_read_as_it_was_trained(wide_store, monkeypatch, stage):
    seen = {}

    def save(trainer, folder):
        seen["logits"] = logits(trainer.model, trainer.processing_class)
        save_model(trainer, folder)

    monkeypatch.setattr(f"align.stages.{stage}.save_model", save)
    folder = run_stage(wide_store, f"stage={stage}", "name=next", "inputs.policy=pretrain:v1", *QLORA).model_dir
    tokenizer = load_tokenizer(folder)
    model = (open_policy if stage == "sft" else open_reward_model)(folder, dtype="float32")
    assert sum("Linear4bit" in type(module).__name__ for module in model.modules()) >= 8
    assert not any(weight.requires_grad for weight in model.parameters())
    torch.testing.assert_close(logits(model, tokenizer), seen["logits"], atol=1e-4, rtol=1e-4)
    if stage == "sft":
        apart = (logits(load_frozen(folder), tokenizer) - seen["logits"]).abs().max()
        assert apart > 1e-3, "merged into the base as it is on disk it is another model"


@pytest.mark.slow
def test_stages_that_train_nothing_read_adapters_in_4_bits(wide_store):
    models = ("inputs.policy=quarter:v1", "inputs.reward_model=rated:v1")
    run_stage(wide_store, "stage=sft", "name=quarter", "inputs.policy=pretrain:v1", *QLORA)
    run_stage(wide_store, "stage=reward", "name=rated", "inputs.policy=pretrain:v1", *QLORA)
    report = run_stage(wide_store, "stage=evaluate", *EVALUATE, *models, "inputs.baseline=null").manifest.metrics
    assert {"quarter:v1/reward", "quarter:v1/perplexity", "rated:v1/accuracy"} <= report.keys()
    sampled = run_stage(
        wide_store,
        *("stage=sample", "sample.max_prompts=3", "sample.max_new_tokens=6"),
        *models,
    )
    assert sampled.manifest.metrics["prompts"] == 3


def test_where_a_model_goes(tiny_models, monkeypatch):
    folder = Store(tiny_models).resolve("sft").model_dir
    assert inference._on_device(folder, "float32") == {}
    weights = inference.count_weights(folder)[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    one = {"device_map": {"": torch.device("cuda", 0)}}
    for count, free, launched, place in (
        (1, weights, False, one),  # preflight has said whether it fits
        (4, 5 * weights, False, one),
        (4, 4 * weights, False, {"device_map": "auto"}),
        (4, weights, True, one),  # the other GPUs are other ranks'
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)  # noqa: B023
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 8 * weights))  # noqa: B023
        monkeypatch.setattr(inference.ranks, "is_launched", lambda: launched)  # noqa: B023
        assert inference._on_device(folder, "float32") == place

"""A run that cannot fit is refused before it loads a weight; memory that runs out in a stage is a sentence."""

import pytest
import torch

from align.artifacts.store import Store
from align.config.compose import compose
from align.distributed.memory import Memory
from align.errors import UserError
from align.run import memory, stage
from align.run.plan import make_plan
from align.stages import dpo
from tests.conftest import run_stage, stage_overrides


def plan_of(root, *overrides, world_size=1):
    return make_plan(compose(stage_overrides(root, *overrides)), Store.open(str(root)), world_size=world_size)


@pytest.fixture
def weights(tiny_store):
    """How many the tiny models have."""
    from align.artifacts.model_files import count_weights

    return count_weights(Store(tiny_store).resolve("sft").model_dir)[0]


def test_a_host_without_room_is_refused_before_anything_is_loaded(tiny_store, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: Memory(10**5, 24 * 10**9, "the limit of its control group"))
    monkeypatch.setattr(dpo, "load_policy", lambda *_, **__: pytest.fail("it loads weights"))
    with pytest.raises(UserError) as refused:
        run_stage(tiny_store, "stage=dpo")
    sentence = str(refused.value)
    assert sentence.startswith("stage dpo needs at least ")
    for words in (
        " of host memory, and 100.0 kB of the 24.0 GB of the limit of its control group are available; it loads "
        "policy sft:v1 (0.05 million weights, trained in full), ref_model sft:v1 (0.05 million weights)",
        "Train an adapter (adapter=lora",
        "deepspeed=zero3",
        "raise the limit",
    ):
        assert words in sentence, sentence


def test_a_gpu_without_room_is_refused(tiny_store, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(
        memory, "device_memory", lambda several: Memory(10**5 if not several else 10**12, 80 * 10**9, "GPU 3")
    )
    with pytest.raises(UserError, match=r"of GPU memory, and 100.0 kB of the 80.0 GB of GPU 3 are available"):
        memory.check_memory(plan_of(tiny_store, "stage=sft"))
    memory.check_memory(plan_of(tiny_store, "stage=evaluate", "inputs.policy=sft:v1"))  # it may use all GPUs


@pytest.mark.parametrize(
    ("overrides", "bytes_per_weight"),
    [
        (["stage=sft"], 16),
        (["stage=sft", "trainer.optim=sgd"], 8),
        (["stage=sft", "adapter=lora"], 4),
        (["stage=sft", "adapter=qlora"], 0.5),
        (["stage=sft", "adapter=lora", "model.dtype=bfloat16"], 2),
        (["stage=dpo"], 16 + 4),
        (["stage=ppo"], 16 + 16 + 4 + 4),  # policy, value, reference, reward
        (["stage=ppo", "trainer.share_backbone=true"], 16 + 4 + 4),
        (["stage=ppo", "adapter=lora"], 4 + 4),
        (["stage=grpo", "trainer.beta=0"], 16 + 4),
        (["stage=grpo", "trainer.beta=0.1"], 16 + 4 + 4),
        (["stage=evaluate", "inputs.policy=[sft:v1,pretrain:v1]", "inputs.reward_model=reward:v1"], 4 + 4),
        (["stage=score", "inputs.reward_model=reward:v1", "inputs.dataset=pairs:v1"], 4),
    ],
)
def test_what_each_stage_needs(tiny_store, weights, monkeypatch, overrides, bytes_per_weight):
    if "inputs.dataset=pairs:v1" in overrides:
        import_pairs(tiny_store)
    plan = plan_of(tiny_store, *overrides)
    needed = memory.estimate(memory._networks(plan), memory._placement(plan))
    assert needed.host == pytest.approx(weights * bytes_per_weight, rel=0.01) and needed.device == 0
    for spare, fits in ((1000, True), (-1000, False)):
        available = needed.host + spare
        monkeypatch.setattr(memory, "host_memory", lambda: Memory(available, available, "this machine"))  # noqa: B023
        if fits:
            memory.check_memory(plan)
        else:
            with pytest.raises(UserError, match="needs at least"):
                memory.check_memory(plan)


def import_pairs(root):
    from align.cli import main
    from align.config.paths import PROJECT

    demo = PROJECT / "data" / "demo" / "preferences.eval.jsonl"
    assert main(["data", "import", str(demo), "--name", "pairs", "--artifacts", str(root)]) == 0


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")]
)
def test_memory_that_runs_out_says_what_to_lower(tiny_store, monkeypatch, capsys, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("align.stages.sft.fit", fails)
    overrides = stage_overrides(tiny_store, "stage=sft")
    assert stage.main(overrides) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        "error: stage sft ran out of memory on the GPU (CUDA out of memory); lower "
        "trainer.per_device_train_batch_size (now 8) and raise trainer.gradient_accumulation_steps by as much"
    )
    assert "lower trainer.max_length (now 128); set trainer.activation_checkpointing=true; train an adapter" in told
    assert "Traceback" not in told


def test_a_bug_is_not_called_out_of_memory(tiny_store, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("align.stages.sft.fit", fails)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_stage(tiny_store, "stage=sft")

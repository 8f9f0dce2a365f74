"""The trainer by itself, as a TRL script would use it, and what it leans on in TRL."""

import inspect
import shutil

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2LMHeadModel,
)
from transformers.activations import NewGELUActivation

from align.artifacts.store import Store
from align.errors import UserError
from align.models.generation import without_checkpointing
from align.models.shared_base import active_adapter, adapter, add_value_adapter, linear
from align.ppo import PPOConfig, PPOTrainer
from align.ppo.actor_critic import ActorCritic
from align.ppo.networks import fuse_gelu
from align.ppo.packing import pack

PROMPTS = [
    {"prompt": [{"role": "user", "content": f"what is {one} plus two?"}]} for one in ("one", "six", "ten", "two")
]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tiny_models):
    store = Store(tiny_models)
    return str(store.resolve("sft").model_dir), str(store.resolve("reward").model_dir)


@pytest.fixture
def policy(folders):
    return AutoModelForCausalLM.from_pretrained(folders[0]).eval()


def arguments(folder, **more):
    given = {
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 6,
        "num_iterations": 2,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "activation_checkpointing": False,
    }
    return PPOConfig(str(folder), **given | more)


def trainer_of(folders, tmp_path, *, model=None, reward_funcs=None, **more):
    return PPOTrainer(
        model=model or folders[0],
        reward_funcs=reward_funcs or folders[1],
        args=arguments(tmp_path, **more),
        train_dataset=Dataset.from_list(PROMPTS),
    )


def packed_of(sequences, scored, side_by_side=True):
    return vars(pack(sequences, scored, side_by_side=side_by_side, device=CPU, hidden_size=512)).values()


def test_what_it_leans_on_in_trl_is_there():
    """Whatever an upgrade of TRL takes away or renames is named here."""
    import trl
    from trl import RLOOTrainer
    from trl.kernels import ChunkedLogProbFunction
    from trl.models import prepare_deepspeed
    from trl.models import utils as models
    from trl.trainer import rloo_trainer, utils

    methods = {
        "_generate": ["prompts"],
        "_generate_single_turn": ["prompt_ids", "images", "multimodal_fields"],
        "_calculate_rewards": ["inputs", "prompts", "completions", "completion_ids_list"],
        "_prepare_inputs": ["generation_batch"],
        "_compute_loss": ["model", "inputs"],
        "training_step": ["model", "inputs", "num_items_in_batch"],
        "prediction_step": ["model", "inputs", "prediction_loss_only", "ignore_keys"],
        "log": ["logs", "start_time"],
    }
    for name, parameters in methods.items():
        own = list(inspect.signature(getattr(RLOOTrainer, name)).parameters)[1:]
        assert own == parameters, f"trl.RLOOTrainer.{name} takes {own}"
    source = inspect.getsource(RLOOTrainer)
    for attribute in (
        "self._step",
        "self._metrics",
        "self._logs",
        "self._tokenizer",
        "self._dist",
        "self.eos_token_ids",
        "self.generation_config",
        "self.reward_func_names",
        "self.reward_weights",
        "self.num_generations",
        "self.num_iterations",
        "self.shuffle_dataset",
        "self.temperature",
        "self.epsilon_low",
        "self.epsilon_high",
        "self.max_completion_length",
        'model.add_adapter("ref"',
        "if self.beta == 0.0:",
    ):
        assert attribute in source, f"trl.RLOOTrainer has no {attribute}"
    assert {"hidden", "weight", "bias", "targets", "temperature", "chunk_size"} <= set(
        inspect.signature(ChunkedLogProbFunction.forward).parameters
    )
    for place, names in {
        models: ["add_hooks", "remove_hooks"],
        utils: [
            "_CHUNKED_LOGPROB_CHUNK_SIZE",
            "maybe_gather_lm_head_ctx",
            "create_model_from_path",
            "disable_dropout_in_model",
            "get_config_model_id",
            "pad",
        ],
        rloo_trainer: ["VLLMGeneration"],
    }.items():
        for name in names:
            assert hasattr(place, name), f"{place.__name__} has no {name} in TRL {trl.__version__}"
    assert callable(prepare_deepspeed)
    fields = {"generation_batch_size", "steps_per_generation", "num_iterations", "epsilon_high", "reward_weights"}
    assert fields <= {one.name for one in trl.RLOOConfig.__dataclass_fields__.values()}


def test_what_it_leans_on_in_transformers_is_there(policy):
    """Where a layer's activations are checkpointed, which an adapter of its own must be told to."""
    policy.activation_checkpointing_enable()
    layers = [module for module in policy.modules() if getattr(module, "gradient_checkpointing", False)]
    assert len(layers) > policy.config.n_layer, "each layer says so by `gradient_checkpointing`"
    assert all(callable(layer._gradient_checkpointing_func) for layer in layers)
    with without_checkpointing(policy):
        assert not policy.is_gradient_checkpointing
    assert all(layer.gradient_checkpointing for layer in layers)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_packed_sequences_have_the_numbers_of_each_alone(policy, folders, side_by_side):
    value_model = AutoModelForSequenceClassification.from_pretrained(folders[1]).eval()
    sequences, scored = [[5, 9, 33, 7], [12, 4], [90, 8, 61, 3, 44, 17, 20], [7, 7, 30]], [2, 1, 6, 0]
    both = ActorCritic(policy, value_model, temperature=0.7)
    with torch.no_grad():
        logps, entropy, values = both(*packed_of(sequences, scored, side_by_side), entropy=True)
        place = 0
        for sequence, count in zip(sequences, scored, strict=True):
            ids = torch.tensor([sequence])
            expected = (policy(ids).logits[0] / 0.7).log_softmax(-1)[-count - 1 : -1]
            states = value_model.transformer(ids).last_hidden_state[0, -count - 1 : -1]
            mine = slice(place, place + count)
            targets = ids[0, len(sequence) - count :, None]
            torch.testing.assert_close(logps[mine], expected.gather(1, targets)[:, 0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(entropy[mine], -(expected.exp() * expected).sum(-1), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(values[mine], value_model.score(states)[:, 0], rtol=1e-5, atol=1e-5)
            place += count
        assert place == len(logps) == len(values)


# A family whose positions, convolutions or states run on from one sequence to the next.
RUN_ON = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_head": 2, "n_layer": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False},
}


@pytest.mark.parametrize(
    "family", ["opt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bloom", "jamba"))]
)
def test_sequences_that_would_see_each_other_get_rows_of_their_own(folders, tmp_path, capsys, family):
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "initializer_range": 0.2}
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **shape, **ids, **RUN_ON[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / family)
    tokenizer.save_pretrained(tmp_path / family)
    own = (str(tmp_path / family), folders[1])
    trainer = trainer_of(own, tmp_path, max_steps=1, num_iterations=1, num_generations=2, share_backbone=True)
    trainer.train()
    assert f"models of type {family} let sequences in one row see each other" in capsys.readouterr().out
    rollout = trainer._rollout
    for number, (prompt, completion) in enumerate(zip(rollout.prompt_ids, rollout.completion_ids, strict=True)):
        with torch.no_grad():
            logits = trainer.ref_model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        alone = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(rollout.ref_logps[number, : len(completion)], alone, rtol=1e-4, atol=1e-4)


def test_sequences_that_do_not_see_each_other_share_rows(folders, tmp_path, capsys):
    trainer = trainer_of(folders, tmp_path, max_steps=1, num_iterations=1)
    trainer.train()
    assert trainer._side_by_side and "padding_free" not in capsys.readouterr().out


def test_rows_are_as_wide_as_makes_the_least_work():
    """Three of 60 tokens and two of 40 fill two rows of 140, wide ones cost attention, and a context ends them."""
    sequences = [[7] * length for length in (60, 60, 60, 40, 40)]

    def shape(**more):
        return tuple(pack(sequences, [1] * 5, side_by_side=True, device=CPU, **more).input_ids.shape)

    assert shape(hidden_size=4096) == (2, 140)
    assert shape(hidden_size=1) == (5, 60)
    assert shape(hidden_size=4096, widest=60) == (5, 60)


def test_every_adapter_gets_its_gradient(policy):
    """Policy and value have an adapter each on one base: each gets what it would get in a network of its own."""
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    shared = get_peft_model(policy, lora)
    head = add_value_adapter(shared, None)
    with torch.no_grad():
        torch.manual_seed(1)
        for name, one in shared.named_parameters():
            if ".value." in name:
                one.normal_(std=0.1)
        head.weight.normal_()
    both = ActorCritic(shared, value_head=head)
    sequences, scored = [[5, 9, 33, 7], [12, 4, 8]], [2, 2]
    logps, _, values = both(*packed_of(sequences, scored))
    assert active_adapter(shared) == "default"
    (logps.sum() + (values**2).sum()).backward()
    found = {name: one.grad.clone() for name, one in shared.named_parameters() if one.requires_grad}
    assert {name.split(".")[-2] for name in found} == {"default", "value"}
    assert all(grad.abs().max() > 0 for grad in found.values()) and head.weight.grad.abs().max() > 0
    for name, part in (("default", lambda: both(*packed_of(sequences, scored))[0].sum()), ("value", None)):
        shared.zero_grad()
        if part is None:
            ids = [torch.tensor([sequence]) for sequence in sequences]
            with adapter(shared, "value"):
                backbone = shared.get_base_model().transformer
                states = torch.cat([backbone(one).last_hidden_state[0, -3:-1] for one in ids])
            (head(states) ** 2).sum().backward()
        else:
            part().backward()
        for key, one in shared.named_parameters():
            if f".{name}." in key:
                torch.testing.assert_close(one.grad, found[key], rtol=1e-4, atol=1e-6)
    with adapter(shared, None):
        assert active_adapter(shared) is None


def test_gelu_in_one_operation_is_the_same_function(folders):
    model = GPT2LMHeadModel.from_pretrained(folders[0]).eval()
    ids = torch.arange(20)[None]
    spelt_out = model(ids).logits
    fuse_gelu(model)
    assert not any(isinstance(module, NewGELUActivation) for module in model.modules())
    torch.testing.assert_close(model(ids).logits, spelt_out, atol=1e-6, rtol=1e-6)


def test_a_script_of_trls_kind(folders, tmp_path):
    """Paths for policy and reward model, a dataset of prompts, and a saved policy that loads."""
    trainer = trainer_of(folders, tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert trainer.save_value_model(tmp_path / "value")
    AutoTokenizer.from_pretrained(tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(saved[name], one) for name, one in trainer.policy.state_dict().items())
    metrics = trainer.evaluate(Dataset.from_list(PROMPTS))
    assert {"eval_objective/scores", "eval_objective/kl"} <= metrics.keys() and "eval_loss" not in metrics


def test_a_script_goes_on_from_its_last_checkpoint(folders, tmp_path):
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    whole = trainer_of(folders, tmp_path, **saving)
    whole.train()
    shutil.rmtree(tmp_path / "checkpoint-4")
    resumed = trainer_of(folders, tmp_path, **saving)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.resumed_from == tmp_path / "checkpoint-2"
    for name, one in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], one), name
    with pytest.raises(UserError, match="no whole checkpoint"):
        trainer_of(folders, tmp_path / "new", **saving).train(resume_from_checkpoint=True)


def test_several_completions_a_prompt_from_plain_text(folders, tmp_path):
    def is_long(prompts, completions, **columns):
        assert prompts[0] == prompts[1] and len(set(prompts)) == 2
        return [float(len(one)) for one in completions]

    trainer = PPOTrainer(
        model=folders[0],
        reward_funcs=is_long,
        args=arguments(tmp_path, num_generations=2, max_steps=1),
        train_dataset=Dataset.from_list([{"prompt": "say yes"}, {"prompt": "say no"}, {"prompt": "say"}]),
    )
    trainer.train()
    assert trainer.model.value_model.score.weight.abs().max() > 0, "it learns from zero"


def test_completions_end_at_a_stop_string_and_not_before_the_minimum(folders, tmp_path):
    trainer = trainer_of(folders, tmp_path, stop_strings=["e"], min_completion_length=3, max_completion_length=30)
    prompt_ids, _, _ = trainer._tokenize_prompts([row["prompt"] for row in PROMPTS])
    with trainer._own_randomness("train"):
        completions = trainer._generate_single_turn(prompt_ids, None, {})
    decode = trainer.processing_class.decode
    for ids in completions:
        assert len(ids) == 30 or "e" in decode(ids) or ids[-1] in trainer.eos_token_ids
        assert "e" not in decode(ids[:-1])
        assert len(ids) >= 3 or "e" in decode(ids)


def test_vllm_is_handed_through(folders, tmp_path, monkeypatch):
    """An engine that stands in for vLLM gets the weights after each step, the prompts and the sampling options."""
    from trl.trainer import rloo_trainer

    calls = []

    class Engine:
        def __init__(self, model, **options):
            self.model, self.options = model, options

        def sync_weights(self):
            calls.append("sync")

        def generate(self, prompts, images, num_generations, profiler):
            calls.append(len(prompts))
            ids = [[11 + place, 12, 13] for place in range(len(prompts))]
            return prompts, ids, None, None

    monkeypatch.setattr(rloo_trainer, "VLLMGeneration", Engine)
    trainer = trainer_of(folders, tmp_path, use_vllm=True, stop_strings=["e"], min_completion_length=2, max_steps=4)
    trainer.train()
    assert calls == ["sync", 4, "sync", 4]
    options = trainer.vllm_generation.options["generation_kwargs"]
    assert options == {"min_tokens": 2, "stop": ["e"], "include_stop_str_in_output": True}
    assert trainer.vllm_generation.model is trainer.policy


def test_a_value_needs_one_source(policy):
    with pytest.raises(ValueError, match="give one of the two"):
        ActorCritic(policy)
    with pytest.raises(ValueError, match="give one of the two"):
        ActorCritic(policy, policy, linear(torch.zeros(1, 32)))

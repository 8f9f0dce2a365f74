"""Every stage on tiny models of the families that people train, with tokenizers in those families' style.

One step each, and where a family could go wrong without an error its numbers: the loss, the packed rows of PPO, the
adapters that share a base, the token that a reward is read at.
"""

import copy
import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from align.artifacts.store import Store
from align.artifacts.version import Version
from align.cli import main
from align.data.tokens.chat_template import render
from align.models.adapters import build_lora
from align.models.load import load_frozen, load_policy, load_reward_model, load_tokenizer
from align.models.scoring import reward_scores, token_logps
from align.models.shared_base import adapter, add_reward_adapter, add_value_adapter
from align.ppo.actor_critic import ActorCritic
from align.ppo.packing import pack
from tests.conftest import run_command
from tests.models.families import FAMILIES, write_family
from tests.regression import world

FORMATS = {
    **world.FORMATS,
    "rloo": "prompt_only",
    "grpo": "prompt_only",
    "sample": "prompt_only",
    "evaluate": "preference",
}
ONLINE = ("ppo", "rloo", "grpo")
TRAINED = ("pretrain", "sft", "reward", "dpo", "kto", *ONLINE)
LORA = {"adapter": "lora", "adapter__r": 2, "trainer__learning_rate": 0.05}
# A token for padding where the family's tokenizer has none.
PAD = {"llama": "<|end_of_text|>", "mistral": "<unk>"}
# What differs between the config of an input and that of what was trained from it.
CHANGED = {"pad_token_id"}
CHANGED_BY_REWARD = {"architectures", "id2label", "label2id", "score_center", *CHANGED}
PAIRS = [
    ([{"role": "user", "content": "say axe bee"}], [{"role": "assistant", "content": "bee axe"}]),
    ([{"role": "user", "content": "say cow dog elk fig"}], [{"role": "assistant", "content": "fig elk dog"}]),
]


class World:
    """Stores with one family each; what a test asks for is made once a session."""

    def __init__(self, folder: Path):
        self.folder = folder
        world.write_data(folder / "data")
        self.hub = cache(lambda family: write_family(folder / "hub" / family, family))
        self.run = cache(self._run)

    def root(self, family: str) -> Path:
        return self.folder / family

    def model(self, family: str, ref: str) -> Path:
        return Store(self.root(family)).resolve(ref).model_dir

    def _run(self, family: str, stage: str, name: str | None = None, **more: object) -> Version:
        """The version that one step of a stage publishes, its inputs made before it; `__` in a key is a dot."""
        chosen: dict[str, object] = {
            "stage": stage,
            "name": name or stage,
            "artifacts.root": self.root(family),
            "data": "local",
        }
        if stage == "score":
            chosen |= {"inputs.reward_model": "reward:v1"}
        else:
            chosen["inputs.policy"] = self.hub(family) if stage in ("sft", "pretrain") else "sft:v1"
            chosen |= self._data(FORMATS[stage])
        if stage in TRAINED:
            chosen |= {f"trainer.{key}": value for key, value in world.TRAINER.items()}
            chosen |= {"trainer.max_steps": 1, "trainer.per_device_train_batch_size": 4}
            chosen |= {"trainer.gradient_accumulation_steps": 1, "trainer.activation_checkpointing": True}
            chosen |= {"tracking.sample_prompts": 1, "tracking.sample_tokens": 3}
        if stage in ONLINE:
            del chosen["trainer.max_length"]
            chosen |= {"trainer.max_completion_length": 5, "inputs.reward_model": "reward:v1"}
        if stage in ("rloo", "grpo"):
            chosen["trainer.num_generations"] = 2
        if stage in ("evaluate", "sample"):
            chosen |= {f"{stage}.max_prompts": 4, f"{stage}.max_new_tokens": 4, "inputs.reward_model": "reward:v1"}
        if stage == "evaluate":
            chosen |= self._data("prompt_only") | self._data("language_modeling")
            chosen |= {"inputs.policy": "[dpo:v1,sft:v1]", "inputs.baseline": "sft:v1", "evaluate.judge": "null"}
            chosen["evaluate.max_rows"] = 4
        if family in PAD:
            chosen["model.pad_token"] = f"'{PAD[family]}'"
        chosen |= {key.replace("__", "."): value for key, value in more.items()}
        for role, text in (("policy", chosen.get("inputs.policy")), ("judge", chosen.get("inputs.reward_model"))):
            for ref in str(text).strip("[]").split(","):
                if ref in ("sft:v1", "dpo:v1") and role == "policy" or ref == "reward:v1":
                    self.run(family, ref.partition(":")[0])
        return run_command([f"{key}={value}" for key, value in chosen.items()])

    def _data(self, format: str) -> dict[str, object]:
        data = self.folder / "data"
        return {f"data.{format}.{split}": data / f"{format}.{split}.jsonl" for split in ("train", "eval")}


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("families"))


def quick(family: str, others: bool = True) -> list:
    """`family` in `make check`, the others in `make test`."""
    rest = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != family]
    return [family, *(rest if others else [])]


def read(folder: Path, file: str = "config.json") -> dict:
    return json.loads((folder / file).read_text("utf-8"))


def changed(before: dict, after: dict) -> set[str]:
    missing = object()
    return {key for key in {*before, *after} if before.get(key, missing) != after.get(key, missing)}


def logged(version: Version, key: str) -> float:
    lines = (version.path / "metrics.jsonl").read_text("utf-8").splitlines()
    return next(value[key] for value in map(json.loads, lines) if key in value)


# -- every stage runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", quick("mixtral"))
def test_a_stage_publishes_the_config_it_was_given(families, family):
    """SFT samples while it trains, and its trainer asks a mixture for router logits: the config shows neither."""
    given = read(families.hub(family))
    version = families.run(family, "sft")
    assert len((version.path / "samples.jsonl").read_text().splitlines()) == 1
    assert changed(given, read(version.model_dir)) <= CHANGED
    assert read(version.model_dir)["pad_token_id"] is not None
    ends = read(version.model_dir, "generation_config.json")["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(version.model_dir)
    turn = tokenizer.convert_tokens_to_ids(FAMILIES[family].special_tokens.get("end", tokenizer.eos_token))
    assert {turn, tokenizer.eos_token_id} == {ends} if isinstance(ends, int) else set(ends)


@pytest.mark.parametrize("family", quick("mixtral"))
def test_policies_reward_models_and_value_models_do_too(families, family):
    for stage in ("reward", "ppo"):
        version = families.run(family, stage)
        allowed = CHANGED_BY_REWARD if stage == "reward" else CHANGED
        assert changed(read(families.hub(family)), read(version.model_dir)) <= allowed, stage
    value = families.model(family, "ppo-value")
    assert changed(read(families.hub(family)), read(value)) <= CHANGED_BY_REWARD


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["pretrain", "dpo", "kto", "rloo", "grpo"])
def test_every_other_stage_trains_and_publishes_the_same_config(families, family, stage):
    version = families.run(family, stage)
    assert changed(read(families.hub(family)), read(version.model_dir)) <= CHANGED
    assert torch.isfinite(torch.tensor(logged(version, "loss")))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_evaluated_sampled_and_scored(families, family):
    report = families.run(family, "evaluate").manifest.metrics
    measures = {key.partition("/")[2] for key in report}
    assert measures >= {"reward", "kl", "accuracy", "perplexity", "length"}
    assert families.run(family, "sample").manifest.metrics["prompts"] == 4
    pairs = families.root(family).parent / "data" / "preference.train.jsonl"
    assert main(["data", "import", str(pairs), "--name", "pairs", "--artifacts", str(families.root(family))]) == 0
    scored = families.run(family, "score", inputs__dataset="pairs:v1")
    assert scored.manifest.type == "dataset"


# -- what a family needs of the configs -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["evaluate", pytest.param("ppo", marks=pytest.mark.slow), "grpo"])
def test_a_mixture_that_was_published_asking_for_router_logits_is_used_like_any_other(families, tmp_path, stage):
    """align 0.1.0 published SFT's mixtures so, and a cache and their load-balancing loss do not go together."""
    families.run("mixtral", "reward")
    old = tmp_path / "old"
    shutil.copytree(families.model("mixtral", "sft"), old)
    settings = read(old) | {"output_router_logits": True, "use_cache": False}
    (old / "config.json").chmod(0o644)
    (old / "config.json").write_text(json.dumps(settings))
    policy = {"inputs__policy": f"[{old}]", "inputs__baseline": "null"} if stage == "evaluate" else {}
    version = families.run("mixtral", stage, name=f"{stage}-old", **({"inputs__policy": old} | policy))
    if stage == "evaluate":
        assert any(key.endswith("/length") for key in version.manifest.metrics)
    else:
        assert read(version.model_dir)["output_router_logits"] is False


def test_the_weight_of_the_load_balancing_loss_is_the_runs_and_not_the_models(families):
    given = read(families.hub("mixtral"))
    with_loss = families.run("mixtral", "sft", name="balanced", trainer__router_aux_loss_coef=10.0)
    assert logged(with_loss, "loss") > logged(families.run("mixtral", "sft"), "loss") + 1
    assert read(with_loss.model_dir)["router_aux_loss_coef"] == given["router_aux_loss_coef"]


def test_a_generation_config_that_transformers_would_not_save_is_published_as_it_was(families, tmp_path):
    """Llama 2 was published with a temperature and without do_sample, and saving a model with such a config fails."""
    hub = tmp_path / "hub"
    shutil.copytree(families.hub("mixtral"), hub)
    wishes = read(hub, "generation_config.json") | {"temperature": 0.6, "top_p": 0.9, "max_length": 99}
    (hub / "generation_config.json").write_text(json.dumps(wishes))
    version = families.run("mixtral", "sft", name="wishes", inputs__policy=hub, trainer__save_strategy="steps")
    published = read(version.model_dir, "generation_config.json")
    assert {key: published[key] for key in wishes} == wishes


# -- the numbers are the family's ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sft_learns_the_tokens_that_the_template_writes(families, family):
    """One BOS, the family's turns, and the loss on the completion to its end; a mixture's balance is left out."""
    more = {"trainer__router_aux_loss_coef": 0.0} if family == "mixtral" else {}
    rows = {"trainer__max_steps": 1, "trainer__learning_rate": 0, "trainer__per_device_train_batch_size": 40}
    version = families.run(family, "sft", name="frozen", **rows, **more)
    tokenizer = AutoTokenizer.from_pretrained(version.model_dir)
    model = AutoModelForCausalLM.from_pretrained(version.model_dir, attn_implementation="eager")
    lines = (families.folder / "data" / "prompt_completion.train.jsonl").read_text().splitlines()
    losses: list[torch.Tensor] = []
    for row in map(json.loads, lines):
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        text = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
        begin, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, text))
        assert ids[: len(begin)] == begin and ids.count(tokenizer.bos_token_id) == FAMILIES[family].adds_bos
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        losses.append(-logps[:-1].gather(1, torch.tensor(ids)[1:, None])[len(begin) - 1 :, 0])
    assert logged(version, "loss") == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_do_not_see_each_other(families, family):
    """Windows, soft caps and experts included: PPO's numbers for a packed row are those of each sequence alone."""
    families.run(family, "reward")
    policy = load_frozen(families.model(family, "sft"))
    value_model = load_reward_model(families.model(family, "reward")).eval()
    tokens = torch.Generator().manual_seed(0)
    sequences = [torch.randint(5, 250, (length,), generator=tokens).tolist() for length in (14, 3, 25, 9)]
    scored = [6, 1, 20, 8]
    packed = pack(sequences, scored, side_by_side=True, device=torch.device("cpu"), hidden_size=512)
    assert len(packed.input_ids) < len(sequences)
    with torch.no_grad():
        logps, _, values = ActorCritic(policy, value_model, temperature=0.7)(*vars(packed).values())
        place = 0
        for sequence, count in zip(sequences, scored, strict=True):
            ids = torch.tensor([sequence])
            expected = (policy(ids).logits[0] / 0.7).log_softmax(-1)[-count - 1 : -1].gather(1, ids[0, -count:, None])
            states = value_model.model(ids).last_hidden_state[0, -count - 1 : -1]
            mine = slice(place, place + count)
            torch.testing.assert_close(logps[mine], expected[:, 0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(values[mine], value_model.score(states)[:, 0], rtol=1e-5, atol=1e-5)
            place += count


@pytest.mark.parametrize("family", quick("mixtral"))
def test_adapters_on_a_shared_base_are_those_of_separate_models(families, family):
    """Merged or attached, as a reference or a reward: an adapter says the same, at the same token."""
    families.run(family, "sft", name="tuned", **LORA)
    families.run(family, "reward", name="rated", **LORA, inputs__policy="tuned:v1")
    base, tuned = families.hub(family), families.model(family, "tuned")
    rated, tokenizer = families.model(family, "rated"), load_tokenizer(tuned)
    sequences = [render(tokenizer, *pair) for pair in PAIRS]

    def logps(model) -> torch.Tensor:
        return torch.cat(token_logps(model, tokenizer.pad_token_id, sequences))

    bare, merged = logps(load_frozen(base)), logps(load_frozen(tuned))
    lora = build_lora({"kind": "lora", "merge": False, "r": 2, "target_modules": "all-linear"}, task_type="CAUSAL_LM")
    policy = load_policy(tuned, lora=lora).eval()
    attached = logps(policy)
    torch.testing.assert_close(attached, merged, rtol=1e-4, atol=1e-4)
    assert (attached - bare).abs().max() > 0.01
    policy.add_adapter("ref", copy.deepcopy(policy.peft_config["default"]))
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if ".default." in name:
                policy.get_parameter(name.replace(".default.", ".ref.")).copy_(weight)
                weight.add_(0.05)
    reward = add_reward_adapter(policy, "reward0", rated, pad_token_id=tokenizer.pad_token_id)
    add_value_adapter(policy, None)
    assert (logps(policy) - attached).abs().max() > 0.01
    for name, expected in (("ref", attached), (None, bare), ("value", bare)):
        with adapter(policy, name):
            torch.testing.assert_close(logps(policy), expected, rtol=0, atol=1e-6, msg=name)
    alone = reward_scores(load_reward_model(rated).eval(), tokenizer, PAIRS)
    assert reward_scores(reward, tokenizer, PAIRS) == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("family", quick("llama"))
def test_a_merged_model_names_its_padding(families, family):
    """A sequence classifier reads the score at the last token that is no padding, by the id in its config."""
    families.run(family, "reward", name="whole", **LORA, adapter__merge=True)
    folder = families.model(family, "whole")
    tokenizer = load_tokenizer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert changed(read(families.hub(family)), read(folder)) <= CHANGED_BY_REWARD
    assert model.config.pad_token_id == tokenizer.pad_token_id
    together = reward_scores(model, tokenizer, PAIRS)
    assert together == pytest.approx([reward_scores(model, tokenizer, [pair])[0] for pair in PAIRS], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["dpo", "kto", *ONLINE])
def test_an_adapter_goes_on_in_every_stage(families, family, stage):
    families.run(family, "sft", name="tuned", **LORA)
    more = {}
    if stage in ONLINE:
        families.run(family, "reward", name="rated", **LORA, inputs__policy="tuned:v1")
        more = {"inputs__reward_model": "rated:v1"}
    more["inputs__policy"] = "tuned:v1"
    version = families.run(family, stage, name=f"{stage}-on", **LORA, **more)
    before = load_file(families.model(family, "tuned") / "adapter_model.safetensors")
    after = load_file(version.model_dir / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before) or stage == "grpo"

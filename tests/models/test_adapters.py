"""LoRA and QLoRA from end to end: what is published, what goes on from it, and what the reference is."""

import contextlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.store import Store
from align.artifacts.version import Version
from align.cli import main
from align.config.compose import compose
from align.data.loading.examples import load_split
from align.data.tokens.chat_template import render
from align.errors import UserError
from align.evaluation.statistics import preference_metrics
from align.models.load import load_frozen, load_reward_model, load_tokenizer
from align.models.scoring import reward_scores, token_logps
from tests.conftest import run_stage, stage_overrides

LORA = ("adapter=lora", "adapter.r=4", "adapter.lora_alpha=8", "trainer.learning_rate=1e-2", "trainer.warmup_steps=0")
ONE_BATCH = "trainer.per_device_eval_batch_size=64"
QUESTION = [{"role": "user", "content": "what is two plus three?"}, {"role": "assistant", "content": "five."}]
CHAT = "model.chat_template=conf/model/chat.jinja"
BETA = 0.1
SIDES = ("chosen", "rejected")

pytestmark = pytest.mark.slow  # thirty short trainings


@pytest.fixture(scope="module")
def lora_models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny_models' store with sft_lora:v1, an adapter on pretrain:v1, and reward_lora:v1, one that went on from it."""
    root = tmp_path_factory.mktemp("lora") / "artifacts"
    shutil.copytree(tiny_models, root)
    run_stage(root, "stage=sft", "name=sft_lora", "inputs.policy=pretrain", *LORA, "trainer.max_steps=8", CHAT)
    run_stage(
        root, "stage=reward", "name=reward_lora", "inputs.policy=sft_lora", "reward.center=demonstrations", *LORA
    )
    return root


@pytest.fixture
def lora_store(lora_models: Path, tmp_path: Path) -> Path:
    root = tmp_path / "artifacts"
    shutil.copytree(lora_models, root)
    return root


def logits(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    """What a model says of one chat, its tokens by the tokenizer in `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer.apply_chat_template(QUESTION, return_tensors="pt", return_dict=True)
    model.eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        return model(**batch).logits


def log(version: Version) -> list[dict]:
    return [json.loads(line) for line in (version.path / "metrics.jsonl").read_text().splitlines()]


def eval_rows(root: Path, *overrides: str) -> list[dict]:
    """The held-out rows of a stage run with these overrides."""
    cfg = compose(stage_overrides(root, *overrides))
    format = {"dpo": "preference", "kto": "unpaired_preference", "reward": "preference"}[cfg.stage]
    return [record.to_row() for record in load_split(cfg.data, None, format, "eval").records]


def sequence_logps(folder: Path, pairs: list[tuple]) -> list[float]:
    """log p(completion | prompt) of each pair under the model in `folder`, adapters merged."""
    model, tokenizer = load_frozen(folder), load_tokenizer(folder)
    rendered = [render(tokenizer, prompt, completion) for prompt, completion in pairs]
    return [logps.sum().item() for logps in token_logps(model, tokenizer.pad_token_id, rendered)]


def implicit_rewards(rows: list[dict], policy: Path, reference: Path) -> dict[str, float]:
    """Mean beta log(policy/reference) over the good and the bad completions of preference or unpaired rows."""
    if "chosen" in rows[0]:
        sides = {side: [(row["prompt"], row[side]) for row in rows] for side in ("chosen", "rejected")}
    else:
        sides = {
            side: [(row["prompt"], row["completion"]) for row in rows if row["label"] == label]
            for side, label in (("chosen", True), ("rejected", False))
        }
    means = {}
    for side, pairs in sides.items():
        ratios = [a - b for a, b in zip(*(sequence_logps(f, pairs) for f in (policy, reference)), strict=True)]
        means[f"eval_rewards/{side}"] = BETA * sum(ratios) / len(ratios)
    return means


def model_of(root: Path, ref: str) -> Path:
    return Store(root).resolve(ref).model_dir


# -- what is published -------------------------------------------------------------------------------------------


def test_an_adapter_is_published_with_its_base_and_loads_without_align(lora_models):
    version = Store(lora_models).resolve("sft_lora")
    folder, base = version.model_dir, model_of(lora_models, "pretrain:v1")
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert version.manifest.adapter["base"]["ref"] == "pretrain:v1"
    assert version.manifest.adapter["kind"] == "lora"
    recorded = json.loads((folder / "adapter_config.json").read_text())
    assert recorded["base_model_name_or_path"] == "../../../pretrain/v0001/model"
    assert (folder / recorded["base_model_name_or_path"]).samefile(base)
    assert recorded["r"] == 4 and recorded["inference_mode"]

    ours = logits(load_frozen(folder), folder)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    torch.testing.assert_close(logits(theirs, folder), ours, atol=1e-5, rtol=0)
    with contextlib.chdir(folder):  # a relative path begins at the working directory for PEFT
        for auto_class in (AutoModelForCausalLM, AutoPeftModelForCausalLM):
            torch.testing.assert_close(logits(auto_class.from_pretrained("."), folder), ours, atol=1e-5, rtol=0)
    assert (logits(AutoModelForCausalLM.from_pretrained(base), folder) - ours).abs().max() > 1e-2


def test_a_reward_adapter_loads_without_align_as_a_classifier_with_one_label(lora_models):
    folder = model_of(lora_models, "reward_lora")
    ours = logits(load_reward_model(folder), folder)
    for auto_class in (AutoModelForSequenceClassification, AutoPeftModelForSequenceClassification):
        with contextlib.chdir(folder):
            theirs = logits(auto_class.from_pretrained(".", num_labels=1), folder)
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_merge_publishes_whole_weights_equal_to_base_plus_adapter(lora_store):
    merged = run_stage(
        lora_store,
        *("stage=sft", "name=merged", "inputs.policy=pretrain", *LORA, "trainer.max_steps=8", CHAT),
        "adapter.merge=true",
    )
    assert merged.manifest.adapter is None and not is_adapter(merged.model_dir)
    assert {"config.json", "generation_config.json", "model.safetensors", "chat_template.jinja"} <= {
        file.name for file in merged.model_dir.iterdir()
    }
    folder = model_of(lora_store, "sft_lora")
    whole = AutoModelForCausalLM.from_pretrained(merged.model_dir)
    torch.testing.assert_close(logits(whole, folder), logits(load_frozen(folder), folder), atol=1e-6, rtol=0)


def test_a_moved_store_still_loads_and_goes_on(lora_store, tmp_path):
    before = logits(load_frozen(model_of(lora_store, "sft_lora")), model_of(lora_store, "sft_lora"))
    moved = tmp_path / "elsewhere"
    lora_store.rename(moved)
    folder = model_of(moved, "sft_lora")
    torch.testing.assert_close(logits(load_frozen(folder), folder), before)
    version = run_stage(moved, "stage=sft", "inputs.policy=sft_lora", *LORA, "name=next")
    recorded = json.loads((version.model_dir / "adapter_config.json").read_text())
    assert recorded["base_model_name_or_path"] == "../../../pretrain/v0001/model"
    assert not [file for file in folder.iterdir() if str(lora_store).encode() in file.read_bytes()]


def test_an_adapter_is_merged_after_its_store_has_moved(lora_store, tmp_path):
    """Merging in a run reads the adapter it has just saved, outside any artifact."""
    moved = lora_store.rename(tmp_path / "elsewhere")
    version = run_stage(moved, "stage=sft", "inputs.policy=sft_lora", *LORA, "name=next", "adapter.merge=true")
    assert not is_adapter(version.model_dir)


def test_a_base_from_the_hub_is_named_by_repository_and_commit(lora_store, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "snapshots" / commit
    shutil.copytree(model_of(lora_store, "sft:v1"), cache)
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **options: asked.append((name, options)) or str(cache)
    )
    version = run_stage(lora_store, "stage=sft", "name=hub", "inputs.policy=hf:org/model@main", *LORA)
    assert version.manifest.adapter["base"]["ref"] == f"hf:org/model@{commit}"
    recorded = json.loads((version.model_dir / "adapter_config.json").read_text())
    assert (recorded["base_model_name_or_path"], recorded["revision"]) == ("org/model", commit)
    asked.clear()
    load_frozen(version.model_dir)
    assert [(name, options["revision"]) for name, options in asked] == [("org/model", commit)]


# -- what is exported --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", ["sft_lora", "reward_lora"])
def test_an_exported_adapter_brings_its_base_and_loads_anywhere(lora_store, tmp_path, ref):
    version = Store(lora_store).resolve(ref)
    load = load_frozen if ref == "sft_lora" else load_reward_model
    expected = logits(load(version.model_dir), version.model_dir)
    assert main(["artifacts", "export", ref, str(tmp_path / "first"), "--artifacts", str(lora_store)]) == 0
    lora_store.rename(tmp_path / "gone")
    folder = (tmp_path / "first").rename(tmp_path / "elsewhere")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "./base"
    assert not [file for file in folder.rglob("*.json") if str(lora_store).encode() in file.read_bytes()]
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    scope = {"folder": str(folder)}
    exec(code, scope)  # the card says how
    torch.testing.assert_close(logits(scope["model"], folder), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(load(folder), folder), expected, atol=1e-6, rtol=0)
    if ref == "sft_lora":
        version = run_stage(tmp_path / "new", "stage=sft", f"inputs.policy={folder}", *LORA)
        assert version.manifest.adapter["base"]["ref"] == str(folder / "base")


def test_an_exported_adapter_names_a_base_on_the_hub(lora_store, tmp_path, capsys):
    command = ["artifacts", "export", "sft_lora", "--artifacts", str(lora_store)]
    assert main([*command, str(tmp_path / "out"), "--base", "hf:org/model@v2"]) == 0
    recorded = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (recorded["base_model_name_or_path"], recorded["revision"]) == ("org/model", "v2")
    assert not (tmp_path / "out" / "base").exists()
    assert main([*command, str(tmp_path / "other"), "--base", "org/model"]) == 2
    assert "'org/model' is not a Hugging Face repository: write hf:org/name" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    command[2] = "sft:v1"
    assert main([*command, str(tmp_path / "other"), "--base", "hf:org/model"]) == 2
    assert "sft:v1 is not an adapter, so --base hf:org/model has no meaning for it" in capsys.readouterr().err


def test_an_exported_adapter_without_the_base_it_names_is_refused(lora_store, tmp_path):
    assert main(["artifacts", "export", "sft_lora", str(tmp_path / "out"), "--artifacts", str(lora_store)]) == 0
    shutil.rmtree(tmp_path / "out" / "base")
    folder = tmp_path / "out"
    with pytest.raises(UserError, match="is an adapter, and its base cannot be had: input .*out/base. does not exist"):
        load_frozen(folder)


# -- a base that is gone -----------------------------------------------------------------------------------------


def test_an_adapter_whose_base_is_gone_is_refused(lora_store):
    for file in (lora_store / "pretrain").rglob("*"):
        file.chmod(0o755)
    shutil.rmtree(lora_store / "pretrain")
    with pytest.raises(UserError, match="is an adapter, and its base cannot be had: artifact 'pretrain:v1' is not in"):
        run_stage(lora_store, "stage=dpo", "inputs.policy=sft_lora", *LORA)


def test_an_adapter_whose_base_has_changed_is_refused(lora_store, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model_of(lora_store, "sft:v1"), base)
    version = run_stage(lora_store, "stage=sft", "name=on_path", f"inputs.policy={base}", *LORA)
    assert resolve_base(version.model_dir).path == base
    config_file = base / "config.json"
    config_file.chmod(0o644)
    config_file.write_text(config_file.read_text() + "\n")
    with pytest.raises(UserError, match="has changed since: restore it"):
        run_stage(lora_store, "stage=dpo", "inputs.policy=on_path", *LORA)


# -- dpo and kto: which policy is trained, against which reference -------------------------------------------------

FIRST_LOSS = {"dpo": math.log(2), "kto": 0.5}  # policy = reference: -log sigmoid(0), and 1 - sigmoid(0)


def check_reference(version: Version, rows: list[dict], reference: Path) -> None:
    """Training began at the reference, moved, and the reference did not: the trainer's own held-out rewards agree with
    log-probabilities computed from the published model and the reference as it is on disk."""
    first, *_, last = log(version)
    assert first["loss"] == pytest.approx(FIRST_LOSS[version.manifest.notes["stage"]], abs=1e-5)
    expected = implicit_rewards(rows, version.model_dir, reference)
    assert {key: last[key] for key in expected} == pytest.approx(expected, abs=2e-5)
    assert max(map(abs, expected.values())) > 1e-3


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_an_adapter_goes_on_against_itself_as_it_came_in(lora_store, stage):
    run = (f"stage={stage}", "inputs.policy=sft_lora", *LORA, ONE_BATCH)
    version = run_stage(lora_store, *run)
    folder, before = version.model_dir, model_of(lora_store, "sft_lora")
    assert version.manifest.adapter["base"]["ref"] == "pretrain:v1"
    assert not [path for path in folder.rglob("*") if path.is_dir()]
    trained, given = (load_file(one / "adapter_model.safetensors") for one in (folder, before))
    assert trained.keys() == given.keys() and not [name for name in trained if "ref" in name.split(".")]
    assert all(not torch.equal(trained[name], given[name]) for name in trained)
    check_reference(version, eval_rows(lora_store, *run), before)


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_without_an_adapter_block_the_adapter_is_merged_and_trained_in_full(lora_store, stage):
    run = (f"stage={stage}", "inputs.policy=sft_lora", ONE_BATCH, "trainer.warmup_steps=0")
    version = run_stage(lora_store, *run)
    assert version.manifest.adapter is None and not is_adapter(version.model_dir)
    check_reference(version, eval_rows(lora_store, *run), model_of(lora_store, "sft_lora"))


def test_a_new_adapter_on_whole_weights_has_them_as_reference(lora_store):
    run = ("stage=dpo", "inputs.policy=sft:v1", *LORA, ONE_BATCH)
    version = run_stage(lora_store, *run)
    assert version.manifest.adapter["base"]["ref"] == "sft:v1"
    check_reference(version, eval_rows(lora_store, *run), model_of(lora_store, "sft:v1"))


@pytest.mark.parametrize(
    "stage, policy, adapter",
    [("dpo", "sft_lora", LORA), ("dpo", "sft", ()), ("kto", "sft_lora", ()), ("kto", "sft", LORA)],
)
def test_a_reference_that_is_named_is_the_one_used(lora_store, stage, policy, adapter):
    run = (
        *(f"stage={stage}", f"inputs.policy={policy}", "inputs.ref_model=pretrain", *adapter, ONE_BATCH),
        *("trainer.learning_rate=0.0", "trainer.max_steps=1"),
    )
    run = tuple({text.split("=")[0]: text for text in run}.values())
    version = run_stage(lora_store, *run)
    assert version.manifest.inputs["ref_model"]["ref"] == "pretrain:v1"
    expected = implicit_rewards(eval_rows(lora_store, *run), version.model_dir, model_of(lora_store, "pretrain"))
    last = log(version)[-1]
    assert {key: last[key] for key in expected} == pytest.approx(expected, abs=2e-5)
    assert max(map(abs, expected.values())) > 1e-3


def test_an_adapter_goes_on_in_its_own_shape_and_says_so(lora_store, capsys):
    asked = (*LORA[:1], "adapter.r=8", "adapter.lora_alpha=16", *LORA[3:], "trainer.max_steps=1")
    version = run_stage(lora_store, "stage=dpo", "inputs.policy=sft_lora", *asked)
    assert json.loads((version.model_dir / "adapter_config.json").read_text())["r"] == 4
    assert "goes on as it is (r=4, lora_alpha=8)" in capsys.readouterr().out


def test_an_interrupted_run_of_an_adapter_goes_on_as_if_it_had_not_been(lora_store, monkeypatch):
    from align.training.progress import TrackingCallback

    run = ("stage=dpo", "inputs.policy=sft_lora", *LORA, "trainer.save_strategy=steps", "trainer.save_steps=2")
    straight = run_stage(lora_store, *run, "name=straight")
    # the same run under another name has the same identity, and so the same folder
    shutil.rmtree(lora_store / ".runs" / straight.manifest.identity)
    on_step_end = TrackingCallback.on_step_end

    def interrupt(self, args, state, control, **kwargs):
        on_step_end(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrackingCallback, "on_step_end", interrupt)
        run_stage(lora_store, *run, "name=broken")
    resumed = run_stage(lora_store, *run, "name=broken")
    ours, theirs = (load_file(one.model_dir / "adapter_model.safetensors") for one in (resumed, straight))
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-7, rtol=0)


# -- reward models -----------------------------------------------------------------------------------------------


def rating(root: Path, folder: Path) -> dict[str, float]:
    """The reward model in `folder` on the held-out pairs that its stage was evaluated on."""
    model, tokenizer = load_reward_model(folder).eval(), load_tokenizer(folder)
    rows = eval_rows(root, "stage=reward")
    scores = {side: reward_scores(model, tokenizer, [(row["prompt"], row[side]) for row in rows]) for side in SIDES}
    margins = [a - b for a, b in zip(scores["chosen"], scores["rejected"], strict=True)]
    return {f"eval_{key}": value for key, value in preference_metrics(margins).items()}


def demonstrations_mean(root: Path, folder: Path) -> float:
    """Mean score of the completions that `reward.center=demonstrations` centres on."""
    cfg = compose(stage_overrides(root, "stage=reward", "reward.center=demonstrations"))
    records = load_split(cfg.data, None, "prompt_completion", "train").records
    model, tokenizer = load_reward_model(folder).eval(), load_tokenizer(folder)
    scores = reward_scores(model, tokenizer, [(record.prompt, record.completion) for record in records])
    return sum(scores) / len(scores)


def check_rating(version: Version, root: Path) -> None:
    """What the stage measured before saving is what the published model gives after loading."""
    expected = rating(root, version.model_dir)
    assert {key: version.manifest.metrics[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_a_reward_model_grafted_on_an_adapter_survives_reloading(lora_models):
    version = Store(lora_models).resolve("reward_lora")
    assert version.manifest.type == "reward_model"
    assert version.manifest.adapter["base"]["ref"] == "pretrain:v1"
    check_rating(version, lora_models)
    assert demonstrations_mean(lora_models, version.model_dir) == pytest.approx(0.0, abs=1e-6)
    assert version.manifest.metrics["score_center"] != 0
    # the low-rank weights began as the SFT adapter's, and the head was trained
    start = load_reward_model(
        model_of(lora_models, "sft_lora"),
        lora=_lora_config(),
        head="new",
        seed=42,
    )
    begun = {name: weight for name, weight in start.named_parameters() if weight.requires_grad}
    sft = load_file(model_of(lora_models, "sft_lora") / "adapter_model.safetensors")
    saved = load_file(version.model_dir / "adapter_model.safetensors")
    for name, weight in sft.items():
        assert torch.equal(begun[name.replace(".weight", ".default.weight")], weight)
        assert not torch.equal(saved[name], weight)
    head = begun["base_model.model.score.modules_to_save.default.weight"]
    moved = (saved["base_model.model.score.weight"] - head).abs().max()
    assert 1e-4 < moved < 0.1  # a step is at most the learning rate, 1e-2


def _lora_config():
    from align.models.adapters import build_lora

    cfg = compose(["stage=reward", *LORA])
    return build_lora(vars(cfg.adapter), task_type="SEQ_CLS")


def test_a_reward_adapter_on_whole_weights_trains_and_keeps_its_head(lora_store):
    version = run_stage(lora_store, "stage=reward", "name=rm", *LORA)
    assert version.manifest.adapter["base"]["ref"] == "sft:v1"
    assert "base_model.model.score.weight" in load_file(version.model_dir / "adapter_model.safetensors")
    check_rating(version, lora_store)


def test_a_merged_reward_model_keeps_its_head_and_its_centre(lora_store):
    adapter = run_stage(lora_store, "stage=reward", "name=rm", *LORA)
    merged = run_stage(
        lora_store, "stage=reward", "name=rm", *LORA, "adapter.merge=true", "reward.center=demonstrations"
    )
    assert not is_adapter(merged.model_dir) and not (merged.model_dir / "score_center.json").exists()
    assert rating(lora_store, merged.model_dir) == pytest.approx(rating(lora_store, adapter.model_dir), abs=1e-6)
    assert demonstrations_mean(lora_store, merged.model_dir) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "policy, adapter", [("reward", LORA), ("reward", ()), ("reward_lora", ()), ("reward_lora", LORA)]
)
def test_a_reward_model_goes_on_from_a_reward_model_with_its_head(lora_store, policy, adapter):
    run = ("stage=reward", "name=next", f"inputs.policy={policy}", *adapter, "trainer.max_steps=1")
    run = tuple(text for text in run if "learning_rate" not in text) + ("trainer.learning_rate=0.0",)
    version = run_stage(lora_store, *run)
    folder, before = version.model_dir, model_of(lora_store, policy)
    assert is_adapter(folder) == bool(adapter)
    assert rating(lora_store, folder) == pytest.approx(rating(lora_store, before), abs=1e-6)
    if adapter:
        base = "pretrain:v1" if policy == "reward_lora" else "reward:v1"
        assert version.manifest.adapter["base"]["ref"] == base
    # the centre of the model it came from is not its own
    assert not getattr(load_reward_model(folder).config, "score_center", None)


# -- qlora -------------------------------------------------------------------------------------------------------


def test_qlora_trains_publishes_reloads_and_goes_on(wide_models):
    qlora = ("adapter=qlora", *LORA[1:])
    sft = run_stage(wide_models, "stage=sft", "name=sft_q", *qlora, CHAT)
    assert sft.manifest.adapter["kind"] == "qlora" and sft.manifest.adapter["base"]["ref"] == "pretrain:v1"
    base = model_of(wide_models, "pretrain:v1")
    reloaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), sft.model_dir)
    difference = logits(reloaded, sft.model_dir) - logits(AutoModelForCausalLM.from_pretrained(base), sft.model_dir)
    assert difference.abs().max() > 1e-3

    dpo = run_stage(wide_models, "stage=dpo", "name=dpo_q", "inputs.policy=sft_q", *qlora)
    assert log(dpo)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    trained, given = (load_file(one.model_dir / "adapter_model.safetensors") for one in (dpo, sft))
    assert trained.keys() == given.keys()
    assert all(not torch.equal(trained[name], given[name]) for name in given)

    reward = run_stage(wide_models, "stage=reward", "name=reward_q", "inputs.policy=sft_q", *qlora)
    assert load_reward_model(reward.model_dir).config.num_labels == 1
    assert "base_model.model.score.weight" in load_file(reward.model_dir / "adapter_model.safetensors")


def test_qlora_on_a_cpu_refuses_rows_that_its_blocks_do_not_divide(tiny_store):
    with pytest.raises(
        UserError, match="adapter=qlora needs rows of a multiple of 64 weights on a CPU, and .* of 32; use"
    ):
        run_stage(tiny_store, "stage=sft", "name=narrow", "inputs.policy=sft:v1", "adapter=qlora", *LORA[1:])

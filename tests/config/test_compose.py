"""conf/, its schema, and the sentences that answer what a person typed wrong."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from align.config.compose import compose, expand_sweep, to_yaml
from align.config.paths import PROJECT, local_path
from align.config.trl_fields import check_trainer
from align.errors import UserError
from align.stages.spec import STAGES

CONF = PROJECT / "conf"
# conf/pipeline is composed by align.pipeline.runner, and tested with it
FILES = sorted(path.relative_to(CONF) for path in CONF.glob("*/*.yaml") if path.parent.name != "pipeline")
GROUPS = ("stage", "model", "data", "deepspeed", "adapter", "tracking", "launcher", "experiment")


def overrides_for(file: Path) -> list[str]:
    """The shortest command that composes one file of conf/."""
    choice = f"{file.parent}={file.stem}"
    if file.parent.name == "experiment":
        return [choice]
    if choice == "stage=pretrain":
        return [choice, "model=tiny_gpt2"]
    return [choice] if file.parent.name == "stage" else ["stage=sft", choice]


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose(list(overrides))
    assert "\n" not in str(caught.value), "one sentence"
    return str(caught.value)


def test_every_group_has_files():
    assert {file.parent.name for file in FILES} == set(GROUPS)
    assert {file.stem for file in FILES if file.parent.name == "stage"} == set(STAGES)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_composes(file):
    cfg = compose(overrides_for(file))
    assert yaml.safe_load(to_yaml(cfg))["stage"] == cfg.stage
    assert (CONF / file).read_text(encoding="utf-8").startswith("# "), "a header says what it is"


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name == "data"], ids=str)
def test_data_files_name_hub_sets_with_a_revision(file):
    cfg = compose(["stage=sft", f"data={file.stem}"])
    for entry in (getattr(cfg.data, name) for stage in STAGES.values() for name in stage.formats):
        assert entry.source is None or "@" in entry.source


@pytest.mark.parametrize("kind", ["zero3", "zero3_offload", "zero3_nvme"])
def test_zero3_saves_whole_weights(kind):
    zero = compose(["stage=sft", f"deepspeed={kind}"]).deepspeed.config["zero_optimization"]
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True


def test_nvme_swaps_beside_the_artifacts(monkeypatch):
    monkeypatch.delenv("ALIGN_ARTIFACTS", raising=False)

    def swap(*overrides: str) -> str:
        cfg = compose(["stage=sft", "deepspeed=zero3_nvme", *overrides])
        return cfg.deepspeed.config["zero_optimization"]["offload_param"]["nvme_path"]

    assert swap() == "artifacts/.nvme"
    assert swap("artifacts.root=/store") == "/store/.nvme"
    assert swap("deepspeed.nvme_path=/local/nvme") == "/local/nvme"
    monkeypatch.setenv("ALIGN_ARTIFACTS", "/elsewhere")
    assert swap() == "/elsewhere/.nvme"


# what a bare command means


def test_stage_alone_takes_the_demo_data_and_the_previous_stage():
    cfg = compose(["stage=dpo"])
    assert cfg.inputs.policy == "sft:latest" and cfg.name == "dpo" and cfg.precision == "auto"
    assert cfg.data.preference.train == "data/demo/preferences.train.jsonl"
    assert compose(["stage=sft"]).inputs.policy == "pretrain:latest"


def test_model_sets_the_policy_only_where_none_is_given():
    assert compose(["stage=dpo", "model=gpt2"]).inputs.policy == "hf:openai-community/gpt2@main"
    assert compose(["stage=dpo", "model=gpt2", "inputs.policy=sft:v2"]).inputs.policy == "sft:v2"
    assert compose(["stage=dpo", "model.source=models/mine"]).inputs.policy == "models/mine"
    assert compose(["stage=pretrain", "model=tiny_gpt2"]).inputs.policy is None
    assert compose(["stage=pretrain", "model=gpt2"]).inputs.policy == "hf:openai-community/gpt2@main"


def test_an_experiment_is_a_delta_that_the_command_line_overrides():
    assert compose(["experiment=tiny_dpo"]).stage == "dpo"
    assert compose(["experiment=tiny_dpo", "trainer.max_length=64"]).trainer["max_length"] == 64
    assert compose(["experiment=tiny_sft", "stage=kto"]).stage == "kto"


def test_free_form_keys_need_no_plus():
    cfg = compose(
        [
            "stage=pretrain",
            "model=tiny_gpt2",
            "trainer.seed=7",
            "+trainer.adam_beta2=0.95",
            "model.new.architecture.n_inner=64",
            "launcher.env.OMP_NUM_THREADS=2",
            "data.language_modeling.columns.text=body",
        ]
    )
    assert cfg.trainer["seed"] == 7 and cfg.trainer["adam_beta2"] == 0.95
    assert cfg.model.new.architecture["n_inner"] == 64
    assert cfg.launcher.env["OMP_NUM_THREADS"] == "2"
    assert cfg.data.language_modeling.columns == {"text": "body"}


def test_evaluate_takes_a_list_of_policies():
    assert compose(["stage=evaluate", "inputs.policy=[dpo:v3,sft:v2]"]).inputs.policy == ["dpo:v3", "sft:v2"]


def test_rows_fit_the_context_of_a_new_model():
    assert compose(["stage=pretrain", "model=tiny_gpt2"]).trainer["max_length"] == 128
    assert compose(["stage=pretrain", "model=tiny_gpt2", "trainer.max_length=64"]).trainer["max_length"] == 64
    assert compose(["stage=pretrain", "model=gpt2"]).trainer["max_length"] == 1024


def test_one_loss_is_spelled_one_way():
    assert compose(["stage=dpo", "trainer.loss_type=ipo"]).trainer["loss_type"] == ["ipo"]
    assert compose(["stage=dpo", "trainer.loss_type=[sigmoid,sft]"]).trainer["loss_type"] == ["sigmoid", "sft"]
    assert compose(["stage=kto", "trainer.loss_type=apo_zero_unpaired"]).trainer["loss_type"] == "apo_zero_unpaired"


def test_a_bare_no_in_yaml_is_the_word_no():
    assert check_trainer("sft", "SFTConfig", {"eval_strategy": False}) == {"eval_strategy": "no"}


def test_loader_options_carry_the_template_as_text():
    options = compose(["stage=sft", "model=gpt2"]).model.tokenizer_options()
    assert "<|assistant|>" in options["chat_template"] and options["pad_token"] == "<|endoftext|>"
    assert compose(["stage=sft"]).model.tokenizer_options()["chat_template"] is None


def test_files_are_found_from_the_working_directory_then_from_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert local_path("conf/config.yaml") == CONF / "config.yaml"
    assert local_path("nowhere.jsonl") == Path("nowhere.jsonl")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").touch()
    assert local_path("conf/config.yaml") == Path("conf/config.yaml")


def test_composing_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compose(["stage=dpo"])
    assert list(tmp_path.iterdir()) == []


# mistakes, each one sentence


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], f"no stage is given; add stage=NAME, one of {', '.join(STAGES)}"),
        (["stage=dop"], f"no stage 'dop'; did you mean dpo? stages: {', '.join(sorted(STAGES))}"),
        (["stage=null"], f"no stage 'null'; stages: {', '.join(sorted(STAGES))}"),
        (["stage=dpo", "inputs.polcy=x"], "no key inputs.polcy; did you mean inputs.policy?"),
        (["stage=dpo", "learning_rate=1"], "no key learning_rate; did you mean trainer.learning_rate?"),
        (
            ["stage=dpo", "reward.zzz=1"],
            "no key reward.zzz; the keys of reward are center",
        ),
        (
            ["stage=dpo", "model.trust_remote_code=maybe"],
            "model.trust_remote_code is 'maybe', but takes true or false",
        ),
        (
            ["stage=dpo", "precision=bf32"],
            "precision is 'bf32', but takes one of auto, fp32, bf16, fp16; did you mean fp32?",
        ),
        (["stage=dpo", "adapter.r=high"], "adapter.r is 'high', but takes a whole number"),
        (["stage=dpo", "trainer=3"], "trainer is 3, but takes a mapping"),
        (["stage=dpo", "adapter.merge=true"], "adapter.merge=true has no adapter to merge; add adapter=lora or "),
        (["stage=dpo", "trainer.beta=high"], "trainer.beta is 'high', but takes a number"),
        (["stage=dpo", "trainer.bta=1"], "stage dpo has no key trainer.bta; did you mean trainer.beta?"),
        (["stage=sft", "trainer.zzzzz=1"], "stage sft has no key trainer.zzzzz; its keys are those of SFTConfig"),
        (["stage=sft", "trainer.beta=1"], "stage sft has no key trainer.beta"),
        (["stage=dpo", "trainer.bf16=true"], "trainer.bf16 is not yours to set: set precision=auto|fp32|bf16|fp16"),
        (["stage=dpo", "trainer.output_dir=x"], "trainer.output_dir is not yours to set: a run's folder is in the "),
        (
            ["stage=dpo", "trainer.eval_strategy=step"],
            "trainer.eval_strategy is 'step', but takes one of no, steps, epoch; did you mean steps?",
        ),
        (["stage=dpo", "trainer.loss_type=hnge"], "; did you mean hinge?"),
        (
            ["stage=evaluate", "trainer.seed=1"],
            "stage evaluate trains nothing, so it has no key trainer.seed; remove it",
        ),
        (["stage=dpo", "inputs.policy=[a,b]"], "inputs.policy is a list, but stage dpo takes one; only evaluate and"),
        (
            ["stage=grpo", "trainer.loss_type=dapoo"],
            "trainer.loss_type is 'dapoo', but takes one of cispo, grpo, sapo",
        ),
        (["stage=pretrain"], "stage pretrain has no model; add model=tiny_gpt2 (from scratch) or model=gpt2"),
        (["stage=sft", "model=hf:org/model"], "for a model by id, ref or path set model.source=hf:org/model"),
        (["stage=sft", "data=my.jsonl"], "data=local data.<format>.train=my.jsonl"),
        (["stage=sft", "model.chat_template=no.jinja"], "model.chat_template=no.jinja is not a file"),
        (["stage=sft", "pipeline=dpo"], "pipeline=dpo is for launch/pipeline.py"),
        (["stage=sft", "hydra.run.dir=x"], "hydra.run.dir=x configures Hydra"),
        (["stage=sft", "dpo"], "'dpo' is not an override; write key=value, for instance stage=dpo"),
        (["stage=sft", "name=${nmae}"], "name leads nowhere: Interpolation key 'nmae' not found"),
        (["stage=sft", "~trainer.packng"], "'trainer.packng' does not exist"),
        (["stage=sft", "model.new.tokenizer.vocab_size=300"], "model.new.architecture is missing; set it"),
        (
            ["stage=sft", "trainer.learning_rate=1e-4,1e-5"],
            "trainer.learning_rate=1e-4,1e-5 names several values; add --multirun to run one job for each",
        ),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(overrides, sentence):
    assert sentence in refusal(*overrides)


@pytest.mark.parametrize(
    ("typed", "to_type"),
    [
        ("data.preference.train=~/my.jsonl", """'data.preference.train="~/my.jsonl"'"""),
        ("data.preference.train=a(1).jsonl", """'data.preference.train="a(1).jsonl"'"""),
        ("data.preference.train=a=b.jsonl", """'data.preference.train="a=b.jsonl"'"""),
        ("name=x[1", """'name="x[1"'"""),
    ],
)
def test_what_hydra_cannot_read_is_shown_quoted(typed, to_type):
    assert to_type in refusal("stage=dpo", typed)
    assert compose(["stage=dpo", to_type[1:-1]]), "what is shown works, once the shell has taken its quotes off"


def test_the_last_override_of_a_key_wins():
    cfg = compose(["stage=sft", "++trainer.beta=1", "stage=dpo", "trainer.beta=2", "data=local", "data=demo"])
    assert (cfg.stage, cfg.trainer["beta"], cfg.name) == ("dpo", 2, "dpo")
    assert cfg == compose(["stage=dpo", "trainer.beta=2", "data=demo"])
    assert expand_sweep(["trainer.beta=0.1,0.2", "trainer.seed=1,2", "trainer.beta=0.3"]) == [
        ["trainer.seed=1", "trainer.beta=0.3"],
        ["trainer.seed=2", "trainer.beta=0.3"],
    ]


@pytest.fixture
def own_conf(tmp_path, monkeypatch) -> Callable[..., Path]:
    """`own_conf(data__mine="...")`: a config folder of the user's own with the file data/mine.yaml."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / "mine" / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("ALIGN_CONF", str(tmp_path / "mine"))
        return tmp_path / "mine"

    return write


def test_ones_own_configs_come_first_in_every_group(own_conf):
    own_conf(
        experiment__mine="# @package _global_\ndefaults:\n  - override /stage: dpo\ntrainer:\n  beta: 0.3\n",
        model__tiny_gpt2="source: hf:org/mine@main\n",
        brand__new="a: 1\n",
    )
    cfg = compose(["experiment=mine"])
    assert (cfg.stage, cfg.trainer["beta"], cfg.trainer["learning_rate"]) == ("dpo", 0.3, 5e-7)
    assert compose(["stage=sft", "model=tiny_gpt2"]).model.source == "hf:org/mine@main"
    assert compose(["stage=sft", "model=gpt2"]).model.source.startswith("hf:openai-community/gpt2")
    assert "did you mean mine?" in refusal("experiment=mien")


def test_a_config_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_CONF", str(tmp_path / "none"))
    assert refusal("stage=dpo") == (
        f"the config folder {tmp_path / 'none'} does not exist; correct --config-dir or $ALIGN_CONF"
    )


def test_bad_yaml_names_file_and_line(own_conf):
    conf = own_conf(data__mine="preference:\n  train: [a.jsonl\n  eval: b\n")
    assert f"{conf / 'data' / 'mine.yaml'}, line 3, is not YAML" in refusal("stage=dpo", "data=mine")


def test_a_typo_in_a_file_is_named(own_conf):
    own_conf(data__mine="preference:\n  trian: a.jsonl\n", model__mine="dtype: float23\n")
    assert refusal("stage=dpo", "data=mine") == "no key data.preference.trian; did you mean data.preference.train?"
    assert "model.dtype is 'float23'" in refusal("stage=dpo", "model=mine")


def test_no_config_answer_imports_torch():
    script = """
import sys
from align.config.compose import compose, expand_sweep
from align.config.identity import identity_config
from align.errors import UserError
identity_config(compose(["stage=dpo", "trainer.loss_type=ipo"]))
expand_sweep(["stage=dpo", "trainer.beta=0.1,0.2"])
for wrong in (["stage=dop"], ["stage=dpo", "inputs.polcy=x"], ["stage=dpo", "trainer.beta=high"], []):
    try:
        compose(wrong)
    except UserError:
        pass
heavy = {"torch", "transformers", "trl", "accelerate", "deepspeed", "datasets"} & sys.modules.keys()
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 0, result.stderr

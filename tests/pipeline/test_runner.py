"""Pipelines: what goes to which step, what is told before the first, what is handed on, skipped and summed up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from align.artifacts import checkpoints
from align.artifacts.run_lock import Hold
from align.artifacts.store import Store
from align.config.compose import compose
from align.config.paths import PROJECT
from align.errors import UserError
from align.pipeline import runner
from align.pipeline.dry_run import forecast
from align.pipeline.runner import Eta
from align.pipeline.steps import Step, check_steps, load_steps, select, split_name, split_overrides
from align.run import stage
from align.run.plan import make_plan
from tests.conftest import FEW_STEPS

STEPS = ["sft", "reward", "dpo", "evaluate"]
FEW = [f"{key}={value}" for key, value in (FEW_STEPS | {"trainer.max_steps": "2"}).items()]
ROWS = ["data.{0}.max_rows=32", "data.{0}.eval=null", "data.{0}.eval_fraction=0.02"]


def small(step: str, format: str) -> list[str]:
    """Overrides that make a training step small."""
    return [f"{step}.{text}" for text in [*FEW, *(row.format(format) for row in ROWS)]]


def small_evaluation() -> list[str]:
    few = ["max_prompts=2", "max_rows=4", "max_new_tokens=4", "bootstrap=50", "samples=1"]
    return [f"evaluate.{text}" for text in few]


def dpo_pipeline(root: Path) -> list[str]:
    given = ["pipeline=dpo", f"artifacts.root={root}"]
    return [*given, *small("sft", "prompt_completion"), *small("dpo", "preference"), *small_evaluation()]


@pytest.fixture
def launched(monkeypatch) -> list[list[str]]:
    """The overrides of every stage started; each runs in this process."""
    started: list[list[str]] = []

    def launch(words, env, log):
        assert words[:2] == [sys.executable, str(PROJECT / "launch" / "run.py")]
        started.append(words[2:])
        log.write_text("".join(f"line {number}\n\n" for number in range(20)))
        return stage.main(words[2:])

    monkeypatch.setattr(runner, "launch", launch)
    return started


@pytest.fixture
def own(tmp_path, monkeypatch):
    """`own(steps)`: a pipeline named `own` with these steps, in a config folder of the user's own."""

    def write(steps: dict) -> str:
        folder = tmp_path / "conf" / "pipeline"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "own.yaml").write_text(yaml.safe_dump({"steps": steps}, sort_keys=False))
        monkeypatch.setenv("ALIGN_CONF", str(tmp_path / "conf"))
        return "pipeline=own"

    return write


# -- whose override is it? --------------------------------------------------------------------------------------------


def test_an_override_goes_to_all_steps_or_to_one():
    common, mine = split_overrides(["model=gpt2", "+precision=fp32", "dpo.trainer.beta=0.2", "sft.data=local"], STEPS)
    assert common == {"model": "gpt2", "precision": "fp32"}
    assert mine == {"sft": {"data": "local"}, "reward": {}, "dpo": {"trainer.beta": "0.2"}, "evaluate": {}}


def test_the_last_override_of_a_key_wins_and_one_for_a_step_over_one_for_all():
    given = ["dpo.trainer.beta=1", "trainer.beta=5", "dpo.trainer.beta=2", "model=gpt2", "model=tiny_gpt2"]
    common, mine = split_overrides(given, STEPS)
    assert common == {"trainer.beta": "5", "model": "tiny_gpt2"} and mine["dpo"] == {"trainer.beta": "2"}
    assert split_name(["pipeline=kto", "a=1", "pipeline=dpo"]) == ("dpo", ["a=1"])


def test_a_step_may_be_called_as_a_block_of_the_config():
    given = ["evaluate.max_prompts=9", "evaluate.evaluate.seed=1", "evaluate.data=local", "reward.center=none"]
    _, mine = split_overrides(given, STEPS)
    assert mine["evaluate"] == {"evaluate.max_prompts": "9", "evaluate.seed": "1", "data": "local"}
    assert mine["reward"] == {"reward.center": "none"}
    common, _ = split_overrides(["evaluate.seed=1"], ["sft"])
    assert common == {"evaluate.seed": "1"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sfft.trainer.beta=1"], ["sfft", "did you mean sft?", "sft, reward, dpo, evaluate"]),
        (["trainr.beta=1"], ["trainr", "did you mean trainer?"]),
        (["dpo.trainer.beta"], ["not an override"]),
        (["stage=dpo"], ["its steps", "launch/run.py"]),
        (["sft.stage=dpo"], ["its steps"]),
        (["name=mine"], ["one name", "sft.name=mine"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_an_override_for_no_step(overrides, words):
    with pytest.raises(UserError) as refused:
        split_overrides(overrides, STEPS)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("name", ["demo", "dpo", "kto", "rlhf"])
def test_every_pipeline_composes_with_the_demo_data(name):
    steps = load_steps(name, [])
    for step in steps:
        cfg = compose([f"{key}={value}" for key, value in step.overrides.items()])
        assert cfg.stage == step.stage == step.name
        assert cfg.data.preference.train.startswith("data/demo/")
    assert {path.stem for path in (PROJECT / "conf" / "pipeline").glob("*.yaml")} == {"demo", "dpo", "kto", "rlhf"}


# -- what is told before the first step runs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([], ["name one pipeline", "demo, dpo, kto"]),
        (["pipeline=dqo"], ["dqo", "did you mean dpo?"]),
        (["pipeline=dpo", "dpo.trainer.lr=1"], ["step dpo", "trainer.lr", "learning_rate"]),
        (["pipeline=dpo", "dpo.trainer.beta=high"], ["step dpo", "trainer.beta", "high"]),
        (["pipeline=dpo", "dpo.experiment=tiny_kto"], ["step dpo", "tiny_kto", "stage kto"]),
        (["pipeline=demo", "dpo.experiment=tiny_kto"], ["step dpo", "tiny_kto", "stage kto"]),
        (["pipeline=demo", "experiment=tiny_kto"], ["step pretrain", "tiny_kto", "stage kto"]),
        (["pipeline=dpo", "dpo.inputs.ref_model=mine:v7"], ["step dpo", "mine:v7"]),
        (["pipeline=dpo", "evaluate.inputs.reward_model=mine"], ["step evaluate", "mine"]),
        (["pipeline=dpo", "dpo.data=local"], ["step dpo", "data.preference.train"]),
        (["pipeline=dpo", "dpo.data.preference.train=gone.jsonl"], ["step dpo", "gone.jsonl"]),
        (["pipeline=dpo", "launcher=deepspeed", "launcher.hostfile=gone"], ["step sft", "hostfile=gone"]),
        (["pipeline=dpo", "tracking=wandb"], ["step sft", "WANDB_API_KEY"]),
        (["pipeline=dpo", "sft.launcher=deepspeed"], ["launcher.num_accelerators"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_is_told_first(tiny_models, launched, capsys, monkeypatch, tmp_path, overrides, words):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert runner.main([*overrides, f"artifacts.root={tiny_models}"] if overrides else []) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and not out, out + err
    assert all(word in err for word in words), err
    assert launched == []


def test_a_port_that_is_taken_is_told_first(tiny_models, launched, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        given = ["launcher=deepspeed", "launcher.num_accelerators=2", f"launcher.master_port={port}"]
        assert runner.main(["pipeline=dpo", *given, f"artifacts.root={tiny_models}"]) == 2
    assert f"launcher.master_port={port} is already taken" in capsys.readouterr().err and launched == []


def test_a_pipeline_under_a_launcher(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runner.main(["pipeline=dpo"]) == 2
    assert "python launch/pipeline.py" in capsys.readouterr().err


def test_a_file_that_uses_a_later_step_or_is_malformed(own, capsys):
    later = {"dpo": {"overrides": ["stage=dpo"], "inputs": {"policy": "sft"}}, "sft": {"overrides": ["stage=sft"]}}
    assert runner.main([own(later)]) == 2
    assert "step dpo uses sft, which does not come before it" in capsys.readouterr().err
    assert runner.main([own({"dpo": ["stage=dpo"]})]) == 2
    assert "malformed" in capsys.readouterr().err


# -- what runs, and what is told of it --------------------------------------------------------------------------------


@pytest.mark.slow
def test_steps_in_order_exact_versions_and_a_second_time_nothing(tiny_store, launched, capsys, tmp_path):
    given = dpo_pipeline(tiny_store)
    assert runner.main(given) == 0
    out, err = capsys.readouterr()
    assert not err
    told = re.findall(r"^\[\d/3\] .*$", out, re.M)
    assert told == [f"[{n}/3] {name}: starting" for n, name in enumerate(["sft", "dpo", "evaluate"], start=1)]
    sft, dpo, evaluate = (dict(text.split("=", 1) for text in words) for words in launched)
    assert "inputs.policy" not in sft  # pretrain:latest, as conf/stage/sft.yaml says
    assert dpo["inputs.policy"] == "sft:v2"
    assert (evaluate["inputs.policy"], evaluate["inputs.baseline"]) == ("[dpo:v1]", "sft:v2")
    assert len({words["tracking.group"] for words in (sft, dpo, evaluate)}) == 1

    store = Store.open(str(tiny_store))
    version = store.resolve("dpo:v1")
    assert version.manifest.inputs["policy"]["ref"] == "sft:v2" == version.manifest.inputs["ref_model"]["ref"]
    table = out[out.index("\nmodel  ") : out.index("3 of 3 steps done")].strip().splitlines()
    assert table[0].split()[:3] == ["model", "from", "held-out"]
    assert [line.split()[:2] for line in table[1:]] == [["sft:v2", "pretrain:v1"], ["dpo:v1", "sft:v2"]]
    assert all(word in table[2] for word in [f"{version.manifest.metrics['eval_loss']:.3f}", "+0.0"])
    assert str(tiny_store / "evaluate" / "v0001" / "report.md") in out
    assert (
        f"align --artifacts {tiny_store} artifacts lineage dpo:v1\n" in out
        and f"from_pretrained('{version.model_dir}')" in out
    )

    launched.clear()
    code = (
        "import sys; from align.pipeline.runner import main; code = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'transformers', 'wandb') if m in sys.modules]); sys.exit(code)"
    )
    # from elsewhere, and after `latest` has moved on: the same steps, the same versions
    store.point(store.resolve("sft:v1"), "other")
    again = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and not again.stderr, again.stderr
    assert re.findall(r"^\[\d/3\] (.*) is there already$", again.stdout, re.M) == [
        "sft: sft:v2",
        "dpo: dpo:v1",
        "evaluate: evaluate:v1",
    ]
    assert again.stdout.endswith("[]\n")
    assert store.numbers("sft") == [1, 2] and store.numbers("dpo") == [1]


@pytest.mark.slow
def test_a_step_that_fails_stops_only_what_needs_it(tiny_store, launched, own, capsys, monkeypatch):
    from align.stages import dpo

    def fit(trainer, **options):
        raise UserError("no luck today; try tomorrow")

    monkeypatch.setattr(dpo, "fit", fit)
    steps = {
        "dpo": {"overrides": ["stage=dpo"], "inputs": {"policy": "sft:v1"}},
        "further": {"overrides": ["stage=sft", "name=further"], "inputs": {"policy": "dpo"}},
        "more": {"overrides": ["stage=sft", "name=more"], "inputs": {"policy": "sft:v1"}},
    }
    few = [*small("dpo", "preference"), *small("further", "prompt_completion"), *small("more", "prompt_completion")]
    assert runner.main([own(steps), f"artifacts.root={tiny_store}", *few]) == 1
    out, err = capsys.readouterr()
    assert "error: no luck today; try tomorrow" in err
    assert "[1/3] dpo: ended with exit code 2 and published nothing" in err and "log.txt" in err
    assert "[2/3] further: not run, it needs dpo" in out
    assert "published more:v1" in out and "1 of 3 steps done" in out
    assert re.search(r"^dpo: ended with exit code 2", out, re.M) and re.search(r"^further: not run", out, re.M)
    assert re.search(r"log\.txt\n    line 12\n(    line 1\d\n){7}further", out), (
        out
    )  # its last words, at the end again
    store = Store.open(str(tiny_store))
    assert (store.numbers("dpo"), store.numbers("further"), store.numbers("more")) == ([], [], [1])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, STEPS),
        ({"first": "dpo"}, ["dpo", "evaluate"]),
        ({"last": "reward"}, ["sft", "reward"]),
        ({"first": "reward", "last": "dpo"}, ["reward", "dpo"]),
        ({"only": ["evaluate", "sft"]}, ["sft", "evaluate"]),
    ],
    ids=str,
)
def test_the_steps_that_may_run(options, names):
    steps = [Step(name, name, {}) for name in STEPS]
    assert select(steps, **options) == set(names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"first": "sfft"}, "did you mean sft?"),
        ({"only": ["ppo"]}, "the steps are sft, reward, dpo, evaluate"),
        ({"first": "dpo", "last": "sft"}, "--from dpo comes after --until sft"),
        ({"first": "dpo", "only": ["sft"]}, "leave out --from"),
    ],
    ids=str,
)
def test_steps_that_cannot_be_chosen(options, words):
    with pytest.raises(UserError, match=words):
        select([Step(name, name, {}) for name in STEPS], **options)


def test_a_dry_run_starts_nothing_and_says_why(tiny_store, launched, capsys):
    given = dpo_pipeline(tiny_store)
    assert runner.main([*given, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "[1/3] sft: runs: not as sft:v1 was: " in out and "model.chat_template conf/model/chat.jinja -> None" in out
    assert "data/demo" not in out.partition("\n    data: ")[0]
    assert "    data: train data/demo/demonstrations.train.jsonl (32 prompt_completion records), eval " in out
    assert "    data: train data/demo/preferences.train.jsonl (" in out
    assert "; judge: data/demo/world.py:judge" in out
    assert "[2/3] dpo: runs after sft" in out and "[3/3] evaluate: runs after dpo, sft" in out
    assert runner.main([*given, "--dry-run", "--from", "dpo"]) == 0
    out = capsys.readouterr().out
    assert "[2/3] dpo: not run, it needs sft, which was left out" in out
    assert "[3/3] evaluate: not run, it needs dpo\n" in out
    assert runner.main(["--only", "dpo", *given]) == 1
    out = capsys.readouterr().out
    assert "[1/3] sft: left out\n" in out and "[3/3] evaluate: left out\n" in out
    assert "[2/3] dpo: not run, it needs sft, which was left out" in out and "dpo.inputs.policy=sft:latest" in out
    assert launched == [] and Store(tiny_store).numbers("dpo") == []


def test_what_is_told_of_a_step_half_done(tiny_store):
    cfg = compose(["stage=sft", f"artifacts.root={tiny_store}"])
    store = Store(tiny_store)
    plan = make_plan(cfg, store, world_size=1)
    assert forecast(plan, store).startswith("runs: not as sft:v1 was: ")
    run_dir = store.run_dir(plan.identity)
    with Hold(run_dir) as hold:
        assert forecast(plan, store) == (
            f"is running: process {os.getpid()} on {os.uname().nodename} has it since {hold.holder.since}"
        )
        staging = checkpoints.stage(run_dir / "checkpoints")
        (staging / "checkpoint-7").mkdir()
        checkpoints.commit(staging, 7, {})
        hold.note(state="stopped", step=7)
    assert forecast(plan, store) == "resumes after step 7: it was stopped"
    with pytest.raises(UserError), Hold(run_dir):
        raise UserError("no luck")
    assert forecast(plan, store) == "resumes after step 7: it failed: no luck"
    plan.cfg.name = "other"
    (run_dir / "checkpoints" / "checkpoint-7" / "whole.json").unlink()
    assert forecast(plan, store) == "runs: there is no other yet"


@pytest.mark.slow
def test_a_part_of_a_pipeline_and_then_the_rest(tiny_store, launched, capsys):
    given = dpo_pipeline(tiny_store)
    assert runner.main([*given, "--until", "sft"]) == 0
    assert len(launched) == 1 and Store(tiny_store).numbers("dpo") == []
    assert runner.main([*given, "--from", "dpo", "--until", "dpo"]) == 0
    out = capsys.readouterr().out
    assert "[1/3] sft: sft:v2 is there already" in out and "[3/3] evaluate: left out" in out
    assert [dict(text.split("=", 1) for text in words).get("inputs.policy") for words in launched] == [None, "sft:v2"]
    assert runner.main([*given, "dpo.force=true", "--only", "dpo"]) == 0
    assert Store(tiny_store).numbers("dpo") == [1, 2]


def test_what_the_command_line_says_of_an_input_stands(tiny_store, own, monkeypatch):
    """So a step that was told where to begin needs no other, and runs when that one fails."""
    steps = {
        "sft": {"overrides": ["stage=sft"], "inputs": {"policy": "pretrain:v1"}},
        "more": {"overrides": ["stage=sft", "name=more"], "inputs": {"policy": "sft"}},
    }
    started: list[list[str]] = []
    monkeypatch.setattr(runner, "launch", lambda words, env, log: log.touch() or started.append(words[2:]) or 1)
    given = [own(steps), f"artifacts.root={tiny_store}", "trainer.max_length=128"]
    assert runner.main([*given, "more.inputs.policy=sft:v1", "tracking.group=mine"]) == 1
    policies = [dict(text.split("=", 1) for text in words)["inputs.policy"] for words in started]
    assert policies == ["pretrain:v1", "sft:v1"]
    assert all(words.count("tracking.group=mine") == 1 for words in started)


def test_the_time_left_follows_this_machine(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: now[0])
    steps = [Step(name, "sft", {}, {}, minutes) for name, minutes in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    eta = Eta()
    assert eta.told(steps) == "  (0:00 so far, about 6:00 left)"
    with eta.measure(steps[0]):
        now[0] += 90.0  # half as long again as where it was measured
    assert eta.told(steps[1:]) == "  (1:30 so far, about 7:30 left)"
    assert Eta().told([Step("d", "sft", {})]) == ""


@pytest.mark.slow
def test_a_step_under_the_deepspeed_launcher(tiny_store, own, capsys):
    steps = {"dpo": {"overrides": ["stage=dpo", "deepspeed=zero2"], "inputs": {"policy": "sft:v1"}}}
    launcher = ["launcher=deepspeed", "launcher.num_accelerators=2"]
    given = [own(steps), f"artifacts.root={tiny_store}", *small("dpo", "preference"), *launcher]
    assert runner.main(given) == 0
    out, err = capsys.readouterr()
    version = Store.open(str(tiny_store)).resolve("dpo:v1")
    assert version.manifest.notes["world_size"] == 2 and not err
    shown = out.split("[1/1] dpo: starting\n")[1].split("\n\n")[0].splitlines()
    assert shown[-1] == f"published dpo:v1  ({version.path})"
    assert all(line.startswith(("data: ", "dpo ")) for line in shown[:-1]), out  # data, progress, nothing else
    log = (tiny_store / ".runs" / version.manifest.identity / "log.txt").read_text()
    assert "--num_accelerators 2" in log and "published dpo:v1" in log
    assert runner.main(given) == 0
    assert "dpo:v1 is there already" in capsys.readouterr().out


def test_the_demo_data_is_no_default_of_a_pipeline_on_another_model(tiny_store):
    """The evaluation of one's own model does not fall back on the demo's prompts and judge."""
    folder = tiny_store / "sft" / "v0001" / "model"
    named = [
        "pipeline=dpo",
        f"artifacts.root={tiny_store}",
        f"model.source={folder}",
        "sft.data=demo",
        "dpo.data=demo",
    ]
    with pytest.raises(UserError, match=f"step evaluate: stage evaluate would use {folder} with the demo data"):
        check_steps(load_steps(*split_name(named)))
    check_steps(load_steps(*split_name([*named, "evaluate.data=demo"])))

"""One stage from the command line: what it publishes, what it refuses and in which words, what an interrupt leaves."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from align.artifacts import checkpoints, run_lock
from align.artifacts.store import Store
from align.config.paths import PROJECT
from align.errors import UserError
from align.run import multirun, stage
from tests.conftest import run_command, run_stage, stage_overrides

SCRIPT = str(PROJECT / "launch" / "run.py")


def listing(root: Path) -> set[str]:
    """Every published version, and every half-made one."""
    return {str(path.relative_to(root)) for path in [*root.glob("*/v*"), *root.glob("*/.staging-*")]}


@pytest.fixture
def refused(capsys):
    """`refused(root, *overrides)`: runs the command line, demands a refusal in one sentence, gives the sentence."""

    def check(root: Path, *overrides: str) -> str:
        before = listing(root)
        assert stage.main(list(overrides)) == 2
        out, err = capsys.readouterr()
        assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in out, err
        assert listing(root) == before
        return err

    return check


def read_records(root: Path) -> list[dict]:
    """What the folders of the store's runs say of them."""
    return [json.loads(file.read_text()) for file in root.glob(".runs/*/run.json")]


def last_holder(root: Path, name: str) -> run_lock.Holder:
    """The record of the process that last ran what publishes `name`."""
    (record,) = [one for one in read_records(root) if one["name"] == name]
    return run_lock.read_holder(root / ".runs" / record["identity"])


def rows(file: Path, *records: dict) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return file


def pairs(count: int = 8) -> list[dict]:
    return [{"prompt": f"say {n}", "chosen": "yes, gladly", "rejected": "no"} for n in range(count)]


# -- what is refused before torch is imported -------------------------------------------------------------------------


def test_a_missing_artifact_says_what_makes_it(refused, tmp_path):
    err = refused(tmp_path, "stage=reward", f"artifacts.root={tmp_path}")
    assert "sft:latest" in err and "is empty" in err and "stage=sft" in err
    assert "model=tiny_gpt2, or begin from" in refused(tmp_path, "stage=sft", f"artifacts.root={tmp_path}")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stage=dop"], ["dop", "dpo"]),
        ([], ["no stage", "pretrain", "evaluate"]),
        (["stage=dpo", "trainer.bata=0.1"], ["trainer.bata", "beta"]),
        (["stage=dpo", "trainer.beta=high"], ["trainer.beta", "high"]),
        (["stage=dpo", "trainer.loss_type=sigmod"], ["loss_type", "sigmoid"]),
        (["stage=dpo", "trainer.output_dir=here"], ["output_dir"]),
        (["stage=dpo", "trainer.beta=0.1,0.2"], ["--multirun"]),
        (["stage=dpo", "inputs.policy=a=b"], ["quote"]),
        (["stage=dpo", "name=../escape"], ["../escape"]),
        (["stage=dpo", "inputs.policy=../nowhere"], ["../nowhere", "does not exist"]),
        (["stage=dpo", "inputs.reward_model=reward:v1"], ["no input reward_model", "policy"]),
        (["stage=dpo", "data=local"], ["preference", "data.preference.train"]),
        (["stage=evaluate", "data=local", "inputs.policy=sft"], ["evaluate", "data"]),
        (["stage=dpo", "trainer.max_length=4096"], ["4096", "128"]),
        (["stage=evaluate", "inputs.policy=sft", "evaluate.judge=nowhere.py:judge"], ["nowhere.py", "no file"]),
        (["stage=evaluate", "inputs.policy=sft", "evaluate.judge=data/demo/world.py:juge"], ["no function juge"]),
        (["stage=evaluate", "inputs.policy=sft", "evaluate.judge=nowhere:judge"], ["nowhere", "install"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_is_one_sentence(refused, tiny_models, overrides, words):
    err = refused(tiny_models, *overrides, f"artifacts.root={tiny_models}")
    assert all(word in err for word in words), err


def test_a_wrong_artifact_type(refused, tiny_models):
    err = refused(tiny_models, "stage=dpo", "inputs.policy=reward:v1", f"artifacts.root={tiny_models}")
    assert "input policy of type model" in err and "reward:v1 is a reward_model" in err and "stage=sft" in err


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], ["rows.jsonl"]),
        ([*pairs(), {"prompt": "p", "rejected": "no"}], ["rows.jsonl", "line 9", "chosen"]),
        ([*pairs(), {"prompt": "p", "chosen": "yes", "rejected": 3}], ["rows.jsonl", "line 9", "rejected"]),
        ([{"prompt": "p", "completion": "c"}] * 8, ["rows.jsonl", "prompt_completion", "preference"]),
    ],
    ids=["empty", "no chosen", "a number", "another format"],
)
def test_bad_data_is_named(refused, tiny_models, tmp_path, records, words):
    file = rows(tmp_path / "rows.jsonl", *records)
    given = [f"data.preference.train={file}", "data.preference.eval=null", f"artifacts.root={tiny_models}"]
    err = refused(tiny_models, "stage=dpo", *given)
    assert all(word in err for word in words), err


def test_a_dataset_artifact_of_another_format(refused, tiny_store):
    store = Store.open(str(tiny_store))
    folder = store.stage("answers")
    (folder / "records").mkdir()
    rows(folder / "records" / "train.jsonl", {"prompt": "p", "completion": "c"})
    store.publish(folder, name="answers", type="dataset", format="prompt_completion")
    err = refused(tiny_store, "stage=dpo", "inputs.dataset=answers", f"artifacts.root={tiny_store}")
    assert "answers" in err and "prompt_completion" in err and "preference" in err
    err = refused(tiny_store, "stage=dpo", "inputs.dataset=sft:v1", f"artifacts.root={tiny_store}")
    assert "sft:v1" in err and "dataset" in err


def test_a_tokenizer_without_pad_token_or_template(refused, tiny_models, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_models / "sft" / "v0001" / "model", model)
    for file in model.iterdir():
        file.chmod(0o644)
    given = ["stage=dpo", "data=demo", f"inputs.policy={model}", f"artifacts.root={tiny_models}"]
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": None}))
    assert "model.pad_token=" in refused(tiny_models, *given)
    config.pop("chat_template", None)
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "chat_template.jinja").unlink()
    assert "model.chat_template=" in refused(tiny_models, *given)


def test_no_room_for_checkpoints(refused, tiny_models, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000, total=1000, used=0))
    err = refused(tiny_models, "stage=dpo", "trainer.max_length=128", f"artifacts.root={tiny_models}")
    assert "has 1.0 kB free and this run may write" in err and "trainer.save_strategy=no" in err
    assert re.search(r"may write [1-9]\d*\.\d [kM]B", err), err


def test_a_store_that_cannot_be(refused, tiny_models, tmp_path):
    root = tmp_path / "file"
    root.write_text("")
    policy = tiny_models / "sft" / "v0001" / "model"
    err = refused(tmp_path, *stage_overrides(root, "stage=dpo", f"inputs.policy={policy}"))
    assert str(root) in err and "is a file" in err


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_store_that_may_not_be_written(refused, tiny_models, tmp_path, monkeypatch, code):
    def mkdir(path, mode=0o777):
        raise OSError(code, os.strerror(code), str(path))

    policy = tiny_models / "sft" / "v0001" / "model"
    given = stage_overrides(tmp_path / "store", "stage=dpo", f"inputs.policy={policy}")
    monkeypatch.setattr(os, "mkdir", mkdir)
    err = refused(tmp_path, *given)
    assert "may not be written" in err and "artifacts.root" in err


def test_wandb_is_looked_for_before_training(refused, tiny_models, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["stage=dpo", "trainer.max_length=128", f"artifacts.root={tiny_models}"]
    assert "WANDB_API_KEY" in refused(tiny_models, *given, "tracking=wandb")
    monkeypatch.setenv("WANDB_API_KEY", "short")
    assert "API key" in refused(tiny_models, *given, "tracking=wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    assert "pip install wandb" in refused(tiny_models, *given, "tracking=wandb_offline")


def test_a_sweep_under_a_launcher(refused, tiny_models, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    err = refused(tiny_models, "--multirun", "stage=dpo", "trainer.beta=0.1,0.2")
    assert "python launch/run.py --multirun" in err


def test_a_sweep_is_checked_before_its_first_job(refused, tiny_models, monkeypatch):
    monkeypatch.setattr(multirun.launchers, "launch", None)
    assert "trainer.bata" in refused(tiny_models, "-m", "stage=dpo", "trainer.bata=0.1,0.2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        given = ["launcher=deepspeed", "launcher.num_accelerators=2", f"launcher.master_port={port}"]
        assert f"master_port={port} is already taken" in refused(tiny_models, "-m", "stage=dpo,kto", *given)


def test_the_config_alone(capsys):
    assert stage.main(["--cfg", "stage=dpo", "trainer.beta=0.3", "launcher.env.HF_TOKEN=hf_secret"]) == 0
    out, err = capsys.readouterr()
    shown = yaml.safe_load(out)
    assert shown["trainer"]["beta"] == 0.3 and shown["inputs"]["policy"] == "sft:latest" and not err
    assert "hf_secret" not in out and shown["launcher"]["env"]["HF_TOKEN"] is None


# -- what a trainer refuses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stage=kto", "trainer.per_device_train_batch_size=1"], ["KTOTrainer", "batch size must be > 1"]),
        (["stage=kto", "trainer.train_sampling_strategy=random"], ["KTOTrainer", "sequential"]),
        (
            ["stage=dpo", "trainer.precompute_ref_log_probs=true", "trainer.sync_ref_model=true"],
            ["DPOTrainer", "sync_ref_model"],
        ),
        (
            ["stage=dpo", "trainer.save_strategy=steps", "trainer.load_best_model_at_end=true"],
            ["DPOConfig", "load_best_model_at_end"],
        ),
        (["stage=dpo", "precision=fp16"], ["precision=fp16", "GPU"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_trl_refuses_is_one_sentence(refused, tiny_store, overrides, words):
    err = refused(tiny_store, *stage_overrides(tiny_store, *overrides))
    assert all(word in err for word in words), err


@pytest.mark.slow
def test_weights_that_leave_good_and_bad_out_of_balance_are_told_in_a_line(tiny_store, capsys):
    from align.stages.kto import advise

    run_stage(tiny_store, "stage=kto", "trainer.max_steps=1", "trainer.desirable_weight=9", "name=lopsided")
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if "trainer.desirable_weight" in line]
    assert line.startswith("kto: ") and "advised is 1 to 1.33" in line and "EITHER" not in err
    advise([True] * 10 + [False] * 30, 1.0, 1.0)
    out = capsys.readouterr().out
    assert "10 good and 30 bad" in out and "to 3.00-4.00 or" in out and out.endswith("to 0.25-0.33\n")
    advise([True] * 10 + [False] * 30, 3.5, 1.0)
    advise([True] * 10 + [False] * 30, 1.0, 0.3)
    assert capsys.readouterr().out == ""


def judged(root: Path, judge: str) -> list[str]:
    few = ["evaluate.max_prompts=2", "evaluate.max_rows=2", "evaluate.max_new_tokens=4", "evaluate.bootstrap=20"]
    return ["stage=evaluate", "inputs.policy=sft", *few, f"evaluate.judge={judge}:judge", f"artifacts.root={root}"]


def test_a_judge_that_fails_is_named_with_its_prompt(refused, tiny_store, tmp_path):
    judge = tmp_path / "judge.py"
    judge.write_text("def judge(prompt, completion):\n    return {}[completion]\n")
    err = refused(tiny_store, *judged(tiny_store, str(judge)))
    assert "judge.py:judge" in err and "KeyError" in err and "judge.py, line 2" in err and "prompt '" in err
    judge.write_text("def judge(prompt, completion):\n    return float('nan')\n")
    err = refused(tiny_store, *judged(tiny_store, str(judge)))
    assert "nan" in err and "prompt '" in err


@pytest.mark.slow
def test_overlong_rows_are_counted_then_refused_dropped_or_cut(refused, tiny_store, tmp_path, capsys):
    long = {"prompt": "say 3", "chosen": " ".join(["gladly"] * 400), "rejected": "no"}
    file = rows(tmp_path / "rows.jsonl", *pairs(), long)
    given = ["stage=dpo", f"data.preference.train={file}", "trainer.max_steps=1", "data.preference.eval_fraction=0"]
    assert "1 of 9" in refused(tiny_store, *stage_overrides(tiny_store, *given))
    dropped = run_stage(tiny_store, *given, "data.overlong=drop")
    assert dropped.manifest.metrics["train_overlong"] == 1 and dropped.manifest.metrics["train_rows"] == 8
    cut = run_stage(tiny_store, *given, "data.overlong=truncate")
    assert cut.manifest.metrics["train_overlong"] == 1 and cut.manifest.metrics["train_rows"] == 9
    assert "1 of 9" in capsys.readouterr().out


# -- what is published, once ------------------------------------------------------------------------------------------


def test_a_run_elsewhere_finds_the_demo_data_and_leaves_nothing(tiny_store, tmp_path, monkeypatch, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    version = run_stage(tiny_store, "stage=sft", "trainer.max_steps=1", "name=there")
    assert version.ref == "there:v1" and list(elsewhere.iterdir()) == []
    assert "published there:v1" in capsys.readouterr().out


def test_the_second_run_has_nothing_to_do_and_needs_no_torch(tiny_store, capsys):
    given = stage_overrides(tiny_store, "stage=sft", "trainer.max_steps=1", "name=twice")
    version = run_command(given)
    for entry in (tiny_store / "twice" / "aliases" / "latest").iterdir():
        entry.unlink()  # as if the first had died before it pointed the alias
    code = (
        "import sys; from align.run.stage import main; code = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'transformers', 'wandb') if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert f"nothing to do: {version.ref}" in done.stdout and done.stdout.endswith("[]\n")
    store = Store.open(str(tiny_store))
    assert store.aliases("twice") == {"latest": 1} and store.numbers("twice") == [1]


def test_a_disk_that_fills_up_while_publishing_loses_nothing(tiny_store, monkeypatch, capsys):
    """The second time the run goes on from its last checkpoint, trains no further and publishes."""
    given = stage_overrides(
        tiny_store, "stage=sft", "name=full", "trainer.save_strategy=steps", "trainer.save_steps=2"
    )
    rename = os.rename

    def full(source, target, *args, **kwargs):
        if Path(target).name.startswith("v0"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return rename(source, target, *args, **kwargs)

    monkeypatch.setattr(os, "rename", full)
    assert stage.main(given) == 2
    assert "no space left" in capsys.readouterr().err and Store.open(str(tiny_store)).numbers("full") == []
    monkeypatch.undo()
    # and what was cut off while it was written is no checkpoint
    (checkpoints,) = tiny_store.glob(".runs/*/checkpoints")
    shutil.copytree(checkpoints / "checkpoint-4", checkpoints / "checkpoint-5")
    (checkpoints / "checkpoint-5" / "trainer_state.json").write_text('{"global_step": 5, "lo')
    (checkpoints / "checkpoint-10").mkdir()
    version = run_command(given)
    assert version.ref == "full:v1"
    steps = [json.loads(line)["step"] for line in (version.path / "metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 4


def test_a_disk_that_fills_up_while_training_is_a_sentence(refused, tiny_store, monkeypatch):
    from align.stages import sft

    class SafetensorError(Exception):
        """As safetensors has it: the system's words, no number."""

    def fit(trainer, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(sft, "fit", fit)
    assert "no space left" in refused(tiny_store, *stage_overrides(tiny_store, "stage=sft", "name=full"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_disk_that_becomes_read_only_is_a_sentence_and_recorded(refused, tiny_store, monkeypatch, code):
    from align.stages import sft

    def fit(trainer, **options):
        raise OSError(code, os.strerror(code), str(tiny_store / "sft" / "metrics.jsonl"))

    monkeypatch.setattr(sft, "fit", fit)
    err = refused(tiny_store, *stage_overrides(tiny_store, "stage=sft", "name=closed"))
    assert "metrics.jsonl may not be written" in err and "starts from the beginning: there is no checkpoint" in err
    holder = last_holder(tiny_store, "closed")
    assert holder.state == run_lock.FAILED and holder.error in err


def test_an_interrupt_promises_no_checkpoint_that_is_not_there(tiny_store, monkeypatch, capsys):
    from align.stages import sft

    def fit(trainer, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sft, "fit", fit)
    given = stage_overrides(tiny_store, "stage=sft", "name=hasty")
    assert stage.main(given) == 130
    err = capsys.readouterr().err
    assert err == (
        "interrupted: nothing was published; the same command starts from the beginning: there is no checkpoint\n"
    )
    assert last_holder(tiny_store, "hasty").state == run_lock.INTERRUPTED
    run_dir = next(path.parent for path in tiny_store.glob(".runs/*/run.json") if '"hasty"' in path.read_text())
    staging = checkpoints.stage(run_dir / "checkpoints")
    (staging / "checkpoint-7").mkdir()
    checkpoints.commit(staging, 7, {})
    holder = last_holder(tiny_store, "hasty")
    assert stage.what_is_left(run_dir, holder) == "nothing was published; the same command resumes after step 7"
    published = replace(holder, published="hasty:v1")
    assert stage.what_is_left(run_dir, published) == "hasty:v1 was published before"


def test_a_run_that_fails_before_training_is_recorded_with_its_inputs(refused, tiny_store, tmp_path):
    """gc keeps the inputs of a run from the moment that it is held, and `align runs ls` can say why it failed."""
    file = rows(tmp_path / "rows.jsonl", *pairs(), {"prompt": "p", "rejected": "no"})
    given = stage_overrides(tiny_store, "stage=dpo", "name=early", f"data.preference.train={file}")
    err = refused(tiny_store, *given)
    (record,) = [one for one in read_records(tiny_store) if one["name"] == "early"]
    assert record["stage"] == "dpo" and record["inputs"]["policy"]["ref"] == "sft:v1"
    assert last_holder(tiny_store, "early").error in err


def test_each_rank_that_fails_leaves_its_error(tiny_store, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    stage.leave_error(tmp_path, UserError("no luck"))
    assert (tmp_path / "errors" / "rank-1.txt").read_text() == "no luck\n"
    monkeypatch.setenv("RANK", "0")
    stage.leave_error(tmp_path, ZeroDivisionError("by zero"))
    assert (tmp_path / "errors" / "rank-0.txt").read_text() == "ZeroDivisionError: by zero\n"


def test_a_bug_keeps_its_traceback(tiny_store, monkeypatch):
    from align.stages import sft

    def fit(trainer, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(sft, "fit", fit)
    with pytest.raises(ZeroDivisionError):
        stage.main(stage_overrides(tiny_store, "stage=sft", "name=bug"))


# -- processes --------------------------------------------------------------------------------------------------------


def last_step(root: Path) -> int:
    files = list((root / ".runs").glob("*/metrics.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]
    return max((line["step"] for line in lines), default=0)


@pytest.mark.slow
def test_an_interrupted_run_publishes_nothing_and_goes_on(tiny_store):
    shutil.rmtree(tiny_store / ".runs")
    steps = ["trainer.max_steps=150", "trainer.save_strategy=steps", "trainer.save_steps=5", "name=broken"]
    given = stage_overrides(tiny_store, "stage=sft", *steps)
    child = subprocess.Popen(
        [sys.executable, SCRIPT, *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while last_step(tiny_store) < 12 and child.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Traceback" not in err, err
    assert "nothing was published" in err
    assert Store.open(str(tiny_store)).numbers("broken") == []
    reached = last_step(tiny_store)
    assert 12 <= reached < 150

    again = subprocess.run([sys.executable, SCRIPT, *given], capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "continues after step" in again.stdout
    version = Store.open(str(tiny_store)).resolve("broken:v1")
    lines = [json.loads(line) for line in (version.path / "metrics.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in lines if "loss" in line]
    assert logged == list(range(1, 151))


@pytest.mark.slow
def test_a_multirun_publishes_a_version_a_job(tiny_store, tmp_path):
    given = stage_overrides(tiny_store, "stage=dpo", "trainer.beta=0.1,0.3", "trainer.max_steps=1")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--multirun", *given], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    versions = Store.open(str(tiny_store)).versions("dpo")
    betas = [yaml.safe_load((version.path / "config.yaml").read_text())["trainer"]["beta"] for version in versions]
    assert betas == [0.1, 0.3]
    assert "2 of 2 jobs done" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts"]


@pytest.mark.slow
def test_a_port_that_is_taken(tiny_store):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = ["deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", port, SCRIPT]
        given = stage_overrides(tiny_store, "stage=dpo", "deepspeed=zero2")
        done = subprocess.run([sys.executable, "-m", *words, *given], capture_output=True, text=True, timeout=180)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1 and f"port {port}" in told[0] and "already taken" in told[0], done.stderr
    assert "Traceback" not in done.stderr
    assert Store.open(str(tiny_store)).numbers("dpo") == []

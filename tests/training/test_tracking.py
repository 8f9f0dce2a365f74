"""What a run records: its metrics file in any case, W&B offline, absent and out of reach."""

import json
import math
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
import yaml

from align.artifacts.store import Store
from align.config.paths import PROJECT
from align.errors import UserError
from align.run import stage
from align.training.tracking import Tracker, check_wandb
from tests.conftest import run_command, run_stage, stage_overrides

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _own_wandb(monkeypatch) -> Iterator[None]:
    """W&B reads the environment once a process; each test has its own."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    wandb.teardown()
    yield
    wandb.teardown()


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def offline_runs(root: Path) -> list[Path]:
    return sorted(root.glob(".runs/*/wandb/offline-run-*/run-*.wandb"))


def synced(out: str) -> list[Path]:
    """The folders that the command which a run printed at its end would upload, as a shell reads it."""
    (line,) = [line for line in out.splitlines() if line.startswith("W&B run kept offline in ")]
    words = ["bash", "-c", f"printf '%s\\n' {line.partition('upload it: wandb sync ')[2]}"]
    return [Path(word) for word in subprocess.run(words, capture_output=True, text=True).stdout.splitlines()]


def chunks(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a LevelDB log of 32 KiB blocks, after seven bytes that name the format."""
    data, place, parts = file.read_bytes(), 7, []
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several
            yield b"".join(parts)
            parts = []


def told_to_wandb(file: Path) -> dict[str, list]:
    """What an offline run keeps, by the kind of its records."""
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # its service may still be writing
    records: dict[str, list] = {}
    for chunk in chunks(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(chunk)
        kind = record.WhichOneof("record_type")
        records.setdefault(kind, []).append(getattr(record, kind))
    return records


def history(records: dict[str, list]) -> list[dict]:
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.item}
        for record in records["history"]
    ]


def test_metrics_are_numbers_a_line_a_step(tmp_path):
    tracker = Tracker(tmp_path, run_id="r")
    tracker.log(1, {"loss": 0.5, "note": "text", "flag": True, "epoch": 1})
    tracker.log(2, {"loss": math.nan, "eval_loss": math.inf})
    assert lines(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5, "epoch": 1},
        {"step": 2, "loss": "nan", "eval_loss": "inf"},
    ]
    assert tracker.wandb_run is None
    tracker.log_table("t", ["a"], [[1]])
    tracker.finish({"loss": 1})


def test_a_resumed_run_takes_its_last_steps_again(tmp_path):
    tracker = Tracker(tmp_path, run_id="r")
    for step in (1, 2, 3):
        tracker.log(step, {"loss": step})
        tracker.log_samples(step, [{"prompt": "p", "completion": "line\u2028break"}])
        if step == 2:
            mark = tracker.mark()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    tracker.rewind(mark)
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2]
    samples = (tmp_path / "samples.jsonl").read_text("utf-8").split("\n")
    assert [json.loads(line)["step"] for line in samples if line] == [1, 2]
    tracker.rewind({})
    assert lines(tmp_path / "metrics.jsonl") == []


def test_wandb_is_told_each_line_under_the_same_number_again(tmp_path, monkeypatch):
    """W&B ignores a number that it has: a resumed run leaves neither doubles nor holes in its curves."""
    told = []
    tracker = Tracker(tmp_path, run_id="r")
    tracker._wandb = SimpleNamespace(log=lambda values, step: told.append((step, values["train/step"])))
    tracker.log(1, {"loss": 1.0})
    mark = tracker.mark()
    tracker.log(2, {"loss": 0.5})
    tracker.log_samples(2, [{"prompt": "p"}])
    resumed = Tracker(tmp_path, run_id="r")
    resumed._wandb = tracker._wandb
    resumed.rewind(mark)
    resumed.log(2, {"loss": 0.5})
    resumed.log_samples(2, [{"prompt": "p"}])
    assert told == [(0, 1), (1, 2), (2, 2), (1, 2), (2, 2)]


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    tracker = Tracker(tmp_path / "run", run_id="r", wandb="offline")
    tracker.log(1, {"loss": 0.5})
    tracker.log_samples(1, [{"prompt": "p"}])
    assert tracker.mark() == {}
    tracker.rewind({})
    tracker.finish()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_wandb_offline_keeps_the_run_under_one_id(tiny_store, monkeypatch, capsys):
    """Config without secrets, group, job type, curves by optimizer step, a table of samples, the artifact's ref."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    given = stage_overrides(
        tiny_store,
        "stage=dpo",
        "tracking=wandb_offline",
        "tracking.project=house",
        "tracking.group=night",
        "tracking.tags=[a,b]",
        "tracking.sample_prompts=3",
        "tracking.sample_tokens=4",
        "launcher.env.SOME_TOKEN=hf_of_the_config",
    )
    version = run_command(given)
    (file,) = offline_runs(tiny_store)
    assert synced(capsys.readouterr().out) == [file.parent]
    assert file.is_relative_to(tiny_store / ".runs" / version.manifest.identity)
    records = told_to_wandb(file)
    (started,) = records["run"]
    assert started.run_id == version.manifest.identity[:32] == version.manifest.wandb["id"]
    assert (started.project, started.run_group, started.job_type) == ("house", "night", "dpo")
    assert list(started.tags) == ["a", "b"] and version.manifest.wandb["project"] == "house"
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert config["trainer"]["beta"] == 0.1 and config["identity"] == version.manifest.identity
    assert config["inputs"]["policy"]["ref"] == "sft:v1"
    assert config["launcher"]["env"]["SOME_TOKEN"] is None
    assert yaml.safe_load((version.path / "config.yaml").read_text())["launcher"]["env"]["SOME_TOKEN"] is None
    everything = b"".join(path.read_bytes() for path in tiny_store.rglob("*") if path.is_file())
    assert b"hf_of_the_config" not in everything and b"hf_of_the_environment" not in everything

    curves = history(records)
    assert [row["train/step"] for row in curves if "train/loss" in row] == [1, 2, 3, 4]
    assert {"train/rewards/margins", "train/rewards/accuracies", "train/step"} <= set(curves[0])
    assert any("eval/loss" in row for row in curves)
    (table,) = [row for row in curves if "samples/nrows" in row]
    assert (table["samples/nrows"], table["samples/ncols"], table["train/step"]) == (3, 4, 4)
    summary = {item.key: json.loads(item.value_json) for each in records["summary"] for item in each.update}
    assert summary["artifact"] == version.ref
    assert records["exit"][0].exit_code == 0
    assert "stats" not in records


@pytest.mark.slow
def test_wandb_ends_as_failed_with_a_stage_that_fails_and_goes_on_under_the_same_id(tiny_store, monkeypatch):
    from align.stages import sft

    given = stage_overrides(tiny_store, "stage=sft", "name=fails", "trainer.max_steps=1", "tracking=wandb_offline")
    with monkeypatch.context() as patch:
        patch.setattr(sft, "save_model", None)
        with pytest.raises(TypeError):
            stage.main(given)
    (first,) = offline_runs(tiny_store)
    assert told_to_wandb(first)["exit"][0].exit_code == 1
    run_command(given)
    ids = {told_to_wandb(file)["run"][0].run_id for file in offline_runs(tiny_store)}
    assert len(offline_runs(tiny_store)) == 2 and len(ids) == 1


@pytest.mark.slow
def test_wandb_out_of_reach_is_said_and_the_run_kept_offline(tiny_store, monkeypatch, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    version = run_stage(tiny_store, "stage=sft", "name=alone", "trainer.max_steps=1", "tracking=wandb")
    out, err = capsys.readouterr()
    assert "W&B cannot be reached" in err and err.count("\n") == 1
    assert synced(out) == [file.parent for file in offline_runs(tiny_store)]
    assert version.ref == "alone:v1" and version.manifest.wandb["id"] == version.manifest.identity[:32]
    (file,) = offline_runs(tiny_store)
    assert told_to_wandb(file)["exit"][0].exit_code == 0
    assert KEY not in json.dumps(version.manifest.wandb)


def test_a_key_is_found_where_wandb_login_puts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="wandb login"):
        check_wandb("online")
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (tmp_path / ".netrc").chmod(0o600)
    wandb.teardown()
    check_wandb("online")


@pytest.mark.slow
def test_a_run_without_the_wandb_package(tiny_store):
    code = "import sys; sys.modules['wandb'] = None; from align.run.stage import main; sys.exit(main(sys.argv[1:]))"
    given = stage_overrides(tiny_store, "stage=sft", "name=without", "trainer.max_steps=1")
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert Store.open(str(tiny_store)).numbers("without") == [1]


def test_a_record_that_was_cut_is_not_published_short(tmp_path):
    """A checkpoint of release 0.1.0 keeps no copy of the record: what is lost from it cannot be brought back."""
    tracker = Tracker(tmp_path, run_id="x")
    tracker.log(1, {"loss": 1.0})
    tracker.log(2, {"loss": 0.5})
    mark = tracker.mark()
    os.truncate(tracker.metrics_file, 5)
    with pytest.raises(UserError, match="metrics.jsonl has 5 bytes, and had .* lines of this run's record are lost"):
        tracker.rewind(mark)

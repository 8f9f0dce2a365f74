"""The training loop: where it stops, and where it goes on. tests/run/test_kills.py kills real processes."""

import contextlib
import errno
import json
import os
import shutil
import signal
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers.integrations import HfDeepSpeedConfig

from align.artifacts.run_lock import read_holder
from align.artifacts.store import Store
from align.distributed.preemption import Stopped
from align.errors import UserError
from align.run import stage
from align.stages import sft
from align.training import resumable
from tests.conftest import run_command, stage_overrides
from tests.run.kills import differences

# Steps whose logs, evaluations and checkpoints do not coincide: open averages have to travel.
SAVES = [
    "trainer.max_steps=7",
    "trainer.save_strategy=steps",
    "trainer.save_steps=2",
    "trainer.logging_steps=3",
    "trainer.eval_strategy=steps",
    "trainer.eval_steps=3",
]
SAMPLES = ["tracking.sample_prompts=1", "tracking.sample_tokens=4", "tracking.sample_every=7"]


def overrides(root: Path, name: str, *more: str) -> list[str]:
    return stage_overrides(root, "stage=sft", f"name={name}", *SAVES, *more)


def at_step(step: int, act):
    """`TrackingCallback.on_step_begin` that acts when a step begins."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == step:
            act()

    return on_step_begin


def die(*_, **__):
    raise RuntimeError("died")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dies", "words"),
    [
        pytest.param(("align.stages.sft", "save_model"), "continues after step 7, its last", id="after its last step"),
        pytest.param(6, "continues after step 4/7", id="before it", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_died_ends_as_if_it_had_not(tiny_store, monkeypatch, capsys, dies, words):
    straight = run_command(overrides(tiny_store, "straight", *SAMPLES))
    with monkeypatch.context() as patch:
        if isinstance(dies, int):
            patch.setattr("align.training.progress.TrackingCallback.on_step_begin", at_step(dies, die), raising=False)
        else:
            patch.setattr(".".join(dies), die)
        with pytest.raises(RuntimeError, match="died"):
            stage.main(overrides(tiny_store, "resumed", *SAMPLES))
    resumed = run_command(overrides(tiny_store, "resumed", *SAMPLES))
    assert words in capsys.readouterr().out
    assert differences(straight, resumed) == []
    lines = [json.loads(line) for line in (resumed.path / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [3, 6, 7]
    assert not list(tiny_store.glob(".runs/*/checkpoints"))


@pytest.mark.slow
def test_sigterm_takes_the_step_to_its_end_and_writes_a_checkpoint(tiny_store, monkeypatch, capsys):
    straight = run_command(overrides(tiny_store, "straight"))
    with monkeypatch.context() as patch:
        ask = at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        patch.setattr("align.training.progress.TrackingCallback.on_step_begin", ask, raising=False)
        before = signal.getsignal(signal.SIGTERM)
        assert stage.main(overrides(tiny_store, "stopped")) == 75
        assert signal.getsignal(signal.SIGTERM) is before
    err = capsys.readouterr().err
    assert "the same command resumes after step 5 (exit code 75)" in err
    (mark,) = tiny_store.glob(".runs/*/checkpoints/checkpoint-5/whole.json")
    run_dir = mark.parents[2]
    assert (read_holder(run_dir).state, read_holder(run_dir).step) == ("stopped", 5)
    assert Store(tiny_store).numbers("stopped") == [] and run_dir.stat().st_mode & 0o777 == 0o700
    resumed = run_command(overrides(tiny_store, "stopped"))
    assert "continues after step 5/7" in capsys.readouterr().out
    assert differences(straight, resumed) == []


def test_sigterm_before_training_stops_at_once(tiny_store, monkeypatch, capsys):
    def load_tokenizer(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr(sft, "load_tokenizer", load_tokenizer)
    assert stage.main(overrides(tiny_store, "early")) == 75
    assert "nothing was published" in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_start_while_the_first_trains_is_refused(tiny_store, monkeypatch, capsys):
    codes = []
    given = overrides(tiny_store, "twice", "trainer.max_steps=1")
    again = at_step(1, lambda: codes.append(stage.main(given)))
    monkeypatch.setattr("align.training.progress.TrackingCallback.on_step_begin", again, raising=False)
    assert stage.main(given) == 0
    assert codes == [2] and f"process {os.getpid()} on {os.uname().nodename}" in capsys.readouterr().err
    assert Store(tiny_store).numbers("twice") == [1]


@pytest.mark.slow
def test_force_makes_one_more_version(tiny_store):
    given = overrides(tiny_store, "more", "trainer.max_steps=2")
    first, same, forced = run_command(given), run_command(given), run_command([*given, "force=true"])
    assert [one.ref for one in (first, same, forced)] == ["more:v1", "more:v1", "more:v2"]
    assert first.manifest.identity == forced.manifest.identity and differences(first, forced) == []


@pytest.mark.slow
def test_checkpoints_are_few_and_the_best_is_kept(tiny_store, monkeypatch):
    """`save_total_limit` and `metric_for_best_model` mean what they mean in TRL."""
    kept = []
    keep = resumable.checkpoints.keep_budget
    monkeypatch.setattr(
        resumable.checkpoints,
        "keep_budget",
        lambda folder, **budget: (keep(folder, **budget), kept.append(sorted(os.listdir(folder)))),
    )
    few = ["trainer.save_total_limit=2", "trainer.save_steps=2", "trainer.eval_steps=2", "trainer.max_steps=6"]
    best = ["trainer.metric_for_best_model=eval_num_tokens", "trainer.greater_is_better=false"]
    run_command(overrides(tiny_store, "few", *few, *best))
    assert kept == [["checkpoint-2"], ["checkpoint-2", "checkpoint-4"], ["checkpoint-2", "checkpoint-6"]]


@pytest.mark.slow
def test_no_room_for_a_checkpoint_is_a_sentence_with_the_one_before(tiny_store, monkeypatch, capsys):
    free = iter([10**12, 10**12, 100])
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=next(free)))
    assert stage.main(overrides(tiny_store, "full")) == 2
    err = capsys.readouterr().err
    assert "a checkpoint takes" in err and "resumes after step 2" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tiny_store, monkeypatch, capsys):
    sync, calls = resumable.checkpoints.sync, []

    def full(checkpoint):
        calls.append(checkpoint)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(checkpoint))
        sync(checkpoint)

    monkeypatch.setattr(resumable.checkpoints, "sync", full)
    assert stage.main(overrides(tiny_store, "full")) == 2
    assert "no space left" in capsys.readouterr().err
    assert [path.name for path in tiny_store.glob(".runs/*/checkpoints/checkpoint-*")] == ["checkpoint-2"]
    run_command(overrides(tiny_store, "full"))
    assert "continues after step 2/7" in capsys.readouterr().out


def test_a_trainer_with_state_of_its_own_joins_in(tmp_path):
    class Own:
        model = None

        def running_state(self):
            return {"kl": 0.25, "buffer": [resumable.torch.ones(2)]}

        def load_running_state(self, state):
            self.loaded = state

        def running_files(self):
            return [tmp_path / "log.jsonl", tmp_path / "none.jsonl"]

    (tmp_path / "log.jsonl").write_text("cut")
    (tmp_path / "running_log.jsonl").write_text("as it was")
    states = {"counted": {"_metrics": {"train": {"loss": [1.0]}, "eval": {}}, "_total_train_tokens": 9}}
    states["training"] = True
    own = Own()
    states["trainer"] = own.running_state()
    file = tmp_path / resumable.RUNNING_STATE.format(rank=0)
    resumable.torch.save(states, file)
    own._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    own._total_train_tokens = 0
    own.optimizer, own.model_wrapped = None, resumable.torch.nn.Linear(1, 1).eval()
    own._stateful = lambda: {"trainer": own}
    resumable.Resumable._load_running_states(own, tmp_path)
    assert own.loaded["kl"] == 0.25 and own.loaded["buffer"][0].tolist() == [1.0, 1.0]
    assert own.model_wrapped.training and own._total_train_tokens == 9 and own._metrics["train"]["loss"] == [1.0]
    own._metrics["train"]["new"].append(2.0)  # still a defaultdict
    assert (tmp_path / "log.jsonl").read_text() == "as it was" and not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("device, can", [("cpu", True), ("nvme", False)])
def test_what_deepspeed_swaps_to_nvme_is_in_no_checkpoint(monkeypatch, device, can):
    """DeepSpeed 0.19.8 loads other weights than it saved; such a run stops at once and starts again."""
    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3, "offload_optimizer": {"device": device}}})
    trainer = SimpleNamespace(args=SimpleNamespace(hf_deepspeed_config=config))
    trainer.can_checkpoint = resumable.Resumable.can_checkpoint.fget(trainer)
    assert trainer.can_checkpoint is can
    callback, control = resumable.RunCallback(trainer), SimpleNamespace(should_save=True, should_training_stop=False)
    state = SimpleNamespace(epoch=0.5, global_step=4, max_steps=9)
    callback.on_step_end(None, state, control)
    assert control.should_save is can
    monkeypatch.setattr(resumable.preemption, "asked", lambda: True)
    control.should_save = False
    with contextlib.nullcontext() if can else pytest.raises(Stopped):
        callback.on_step_end(None, state, control)
    assert control.should_save is can


def test_a_trainer_between_two_rollouts_is_saved_when_it_says_so():
    control = SimpleNamespace(should_save=True, should_training_stop=False)
    trainer = SimpleNamespace(args=None, may_checkpoint=lambda: trainer.ready, ready=False, can_checkpoint=True)
    callback = resumable.RunCallback(trainer)
    state = SimpleNamespace(epoch=0.5, global_step=4)
    callback.on_step_end(None, state, control)
    assert not control.should_save
    trainer.ready = True
    callback.on_step_end(None, state, control)
    assert control.should_save
    callback.on_save(None, state, control)
    control.should_save = False
    callback.on_step_end(None, state, control)
    assert not control.should_save


def test_a_best_checkpoint_that_was_damaged_since_is_not_loaded(tmp_path):
    best = tmp_path / "checkpoint-2"
    best.mkdir()
    trainer = SimpleNamespace(state=SimpleNamespace(best_model_checkpoint=str(best)))
    with pytest.raises(UserError, match=r"checkpoint-2 is damaged \(it is not whole\): nothing was published"):
        resumable.Resumable._load_best_model(trainer)

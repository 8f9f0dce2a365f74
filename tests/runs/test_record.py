"""What is read of a run: its state, why it failed, how far it is, what it left."""

import json
import os

import pytest

from align.artifacts.run_lock import Hold
from align.artifacts.store import Store
from align.cli import main
from align.config.paths import PROJECT
from align.errors import UserError
from align.runs.metrics_file import last_values, read_curves
from align.runs.progress import Progress, ProgressWriter, read_progress
from align.runs.record import find_run, publications, read_run, read_runs
from tests.runs.made import identity_of, make_run, publish_run

ROWS = [{"step": 10, "loss": 0.7}, {"step": 20, "loss": "nan", "rewards/accuracies": 0.5}]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def only(store: Store):
    """The one run of the store."""
    (run,) = read_runs(store)
    return run


@pytest.mark.parametrize("state", ["stopped", "interrupted", "failed", "died"])
def test_a_run_that_ended_early_and_where_it_resumes(store, state):
    make_run(store, "dpo", state, rows=ROWS, steps=(10, 20))
    run = only(store)
    assert (run.name, run.stage, run.state, run.step) == ("dpo", "dpo", state, 20)
    assert run.can_resume and run.checkpoints == {10: 1000, 20: 1000} and run.size > 2000
    assert run.headline == ["rewards/accuracies", "loss"] and run.published == []


def test_a_run_at_work(store):
    folder = make_run(store, "dpo", "failed", steps=(10,), error="before")
    with Hold(folder):
        run = only(store)
        assert (run.state, run.error, run.can_resume, run.holder.pid) == ("running", None, False, os.getpid())
    assert only(store).state == "failed"


def test_a_run_that_has_published_shows_the_numbers_of_its_version(store):
    _, version = publish_run(store, "dpo", rows=ROWS, metrics={"eval_loss": 0.4}, steps=(20,))
    run = only(store)
    assert (run.state, run.published, run.metrics) == ("published", [version.ref], {"eval_loss": 0.4})
    assert not run.can_resume


def test_what_died_after_publishing_has_published_and_what_died_in_a_second_run_has_not(store):
    publish_run(store, "dpo", steps=(20,))
    file = store.run_dir(identity_of("dpo0.1")) / "holders" / "000001"
    body = json.loads(file.read_text()) | {"state": "running", "published": None}
    file.write_text(json.dumps(body))
    assert only(store).state == "published"
    file.write_text(json.dumps(body | {"since": "2999-01-01T00:00:00Z"}))  # started again with force=true
    run = only(store)
    assert run.state == "died" and run.can_resume and run.published == ["dpo:v1"]


def test_why_it_failed(store):
    folder = make_run(store, "dpo", "failed", error="no luck; try tomorrow")
    assert only(store).error == "no luck; try tomorrow"
    # rank 1 failed, the launcher ended the main process, which recorded that it was stopped
    make_run(store, "dpo", "stopped")
    (folder / "errors").mkdir()
    (folder / "errors" / "rank-1.txt").write_text("Traceback (most recent call last):\n  ...\nValueError: of rank 1\n")
    run = only(store)
    assert (run.state, run.error) == ("failed", "rank 1: ValueError: of rank 1")


def test_the_runs_of_the_previous_release(store):
    upgraded = {run.name: run for run in read_runs(Store(PROJECT / "tests" / "upgrade" / "store-0.1.0"))}
    assert upgraded["unfinished"].state in ("died", "running")  # by the host that reads it
    assert upgraded["ppo"].state == "published" and upgraded["ppo"].published[-1] == "ppo:v1"
    assert upgraded["evaluate"].headline[0].endswith("/gold")


def test_damaged_records_stop_no_list(store, capsys):
    folder = make_run(store, "dpo", rows=ROWS)
    (folder / "run.json").write_text("[" * 100_000)
    (folder / "holders" / "000001").write_text("{")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n[1]\n{"step": "x"}\n{"loss": 1}\n{"step": 2, "lo')
    make_run(store, "sft", "failed", stage="sft")
    assert main(["runs", "ls", "--artifacts", str(store.root)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3 and "loss=0.5" in out[1] + out[2]


def test_no_record_reaches_the_terminal_as_it_is(store, capsys):
    hostile = "\x1b]0;title\x07"
    logged = [{"step": 1, hostile: 0.5, "loss": 1.0}]
    folder = make_run(store, "dpo", "failed", rows=logged, error=f"no {hostile}\nluck")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"name": hostile, "stage": hostile}))
    identity = folder.name
    for words in (["ls"], ["show", identity], ["watch", identity], ["clean"], ["show", identity, "--metric", "*"]):
        main(["runs", *words, "--artifacts", str(store.root)])
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err and "\x07" not in out + err and out, words


def test_a_folder_that_may_not_be_read_is_said(store, monkeypatch):
    make_run(store, "dpo")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("align.runs.record.read_progress", refuse)
    run = only(store)
    assert run.state == "unreadable" and "cannot be read (Permission denied)" in run.error


def test_a_run_is_named_by_its_artifact_a_version_or_its_identity(store):
    make_run(store, "dpo", beta=0.1, started="2026-01-01T00:00:00Z")
    make_run(store, "dpo", beta=0.2, started="2026-01-02T00:00:00Z")
    _, version = publish_run(store, "sft", stage="sft", metrics={"eval_loss": 0.5})
    assert find_run(store, "dpo").identity == identity_of("dpo0.2")
    assert find_run(store, identity_of("dpo0.1")[:20]).identity == identity_of("dpo0.1")
    assert find_run(store, "sft:v1").folder == version.path and find_run(store, "sft:latest").short == "sft:v1"
    for text, says in (
        (identity_of("dpo")[:6], "begins several runs: "),
        ("kto", r"no run 'kto' in .*; name a run's artifact \(here: dpo, sft\)"),
        ("sft:v7", "does not exist; sft has v1"),
    ):
        with pytest.raises(UserError, match=says):
            find_run(store, text)


def test_a_version_whose_run_is_gone_still_has_its_curves(store):
    folder, version = publish_run(store, "sft", stage="sft", rows=ROWS)
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    folder.rmdir()
    run = find_run(store, "sft")
    assert run.label == version.ref and run.step == 20
    assert read_curves(run.folder / "metrics.jsonl").points["loss"][0] == (10, 0.7)


def test_only_the_end_of_a_long_file_is_read(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": step / 7, "text": "x"} for step in range(5000)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert last_values(file) == {"step": 4999, "loss": 4999 / 7}
    assert len(read_curves(file).points["loss"]) == 5000 and read_curves(file).names() == ["loss"]
    assert last_values(tmp_path / "none") == {} and read_curves(tmp_path / "none").points == {}


def test_progress_is_noted_now_and_then_and_at_the_end(tmp_path):
    now = [0.0]
    writer = ProgressWriter(tmp_path, clock=lambda: now[0])
    noted = []
    for step in range(5, 11):
        writer.note(step, 10)
        noted.append(read_progress(tmp_path).done)
        now[0] += 0.5
    assert noted == [5, 5, 5, 5, 9, 10]
    progress = read_progress(tmp_path)
    assert progress.rate == pytest.approx(2.0) and str(progress) == "10/10 steps (100%)"
    assert Progress(4, 10, "models", rate=2.0).seconds_left == 3.0


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"done": 1}', '{"done": "x", "total": 1, "unit": "s", "rate": 1, "at": 1}']
)
def test_a_damaged_note_of_progress_is_none(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)
    assert read_progress(tmp_path) is None


def test_a_stage_notes_its_progress_and_its_run_can_be_read(tiny_store, run_stage):
    version = run_stage(tiny_store, "stage=sft", "name=noted", "trainer.max_steps=2")
    store = Store(tiny_store)
    run = read_run(store, store.run_dir(version.manifest.identity), publications(store))
    assert (run.state, run.published, run.step, run.progress.done) == ("published", ["noted:v1"], 2, 2)
    assert run.record["inputs"]["policy"]["ref"] == "pretrain:v1" and run.headline[0] == "eval_loss"

"""A sweep: independent jobs, a table sorted by a metric, the best version, and what gc keeps of it."""

import json
from types import SimpleNamespace

import pytest

from align.artifacts.run_lock import Hold
from align.artifacts.store import Store
from align.artifacts.sweeps import read_sweeps
from align.config.compose import compose
from align.run import multirun, stage
from align.run.launchers import world_size
from align.run.multirun import Outcome, describe, summarize
from align.run.plan import make_plan
from tests.artifacts.versions import publish
from tests.conftest import stage_overrides


@pytest.fixture
def started(monkeypatch, tiny_store):
    """The overrides of every job that was started; each publishes at once, or fails where `fails` says so.

    Its metrics are those of `metrics`, called with its beta.
    """
    jobs: list[list[str]] = []

    def launch(words, env, log=None):
        overrides = words[2:]
        jobs.append(overrides)
        cfg = compose(overrides)
        plan = make_plan(cfg, Store.open(cfg.artifacts.root), world_size=world_size(cfg.launcher))
        store, beta = Store.open(cfg.artifacts.root), cfg.trainer["beta"]
        run_dir = store.run_dir(plan.identity)
        if beta in launch.fails:
            with pytest.raises(ZeroDivisionError), Hold(run_dir):
                raise ZeroDivisionError("of this job")
            return 1
        rows = [{"step": 1, "logged": beta}]
        files = {"x.json": b"1", "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}
        facts = {"identity": plan.identity, "notes": {"stage": cfg.stage}, "metrics": launch.metrics(beta)}
        publish(store, cfg.name, files, **facts)
        return 0

    launch.fails = set()
    launch.metrics = lambda beta: {"eval_rewards/accuracies": 1 - beta, "eval_loss": beta}
    jobs_and_launch = jobs, launch
    monkeypatch.setattr(multirun.launchers, "launch", launch)
    return jobs_and_launch


def sweep(root, *overrides: str) -> int:
    return stage.main(["--multirun", *stage_overrides(root, "stage=dpo", *overrides)])


def table_of(out: str) -> list[list[str]]:
    """The table at the end of a sweep, cell by cell."""
    lines = out.split("\n\n")[-1].splitlines()
    return [
        line.split() for line in lines if not line.startswith(("best:", "the curves", "its curves", "gc ", "no job"))
    ]


def test_a_sweep_ends_with_a_table_and_the_best(tiny_store, started, capsys):
    jobs, _ = started
    assert sweep(tiny_store, "trainer.beta=0.3,0.1", "launcher.env.HF_TOKEN=hf_secret") == 0
    out = capsys.readouterr().out
    assert table_of(out)[:3] == [
        ["trainer.beta", "eval_rewards/accuracies", "result"],
        ["0.1", "0.9", "dpo:v2"],
        ["0.3", "0.7", "dpo:v1"],
    ]
    assert "best: dpo:v2, with the highest eval_rewards/accuracies\n" in out
    assert f"align --artifacts {tiny_store} artifacts alias dpo:v2 best\n" in out
    assert f"align --artifacts {tiny_store} runs compare dpo:v2 dpo:v1 --html dpo.html\n" in out
    assert "2 of 2 jobs done" in out
    (kept,) = read_sweeps(Store(tiny_store))
    assert (kept.best, kept.metric, kept.better) == ("dpo:v2", "eval_rewards/accuracies", "max")
    assert [job.settings for job in kept.jobs] == [{"trainer.beta": beta} for beta in ("0.3", "0.1")]
    assert kept.refs == ["dpo:v1", "dpo:v2"] and "hf_secret" not in out
    assert {text for job in jobs for text in job if text.startswith("tracking.group=")} == {
        f"tracking.group={kept.name}"
    }


def test_jobs_do_not_train_on_what_the_one_before_published(tiny_store, started):
    """`latest` is what it was when the sweep began."""
    jobs, _ = started
    store = Store(tiny_store)
    publish_as_sft = store.resolve("sft").ref
    assert sweep(tiny_store, "name=sft", "inputs.policy=sft:latest", "trainer.beta=0.1,0.2") == 0
    policies = [text for job in jobs for text in job if text.startswith("inputs.policy=")]
    assert [text for text in policies if "latest" not in text] == [f"inputs.policy={publish_as_sft}"] * 2
    assert all(job.index("inputs.policy=sft:latest") < job.index(f"inputs.policy={publish_as_sft}") for job in jobs)


@pytest.fixture
def outcomes(tmp_path) -> list[Outcome]:
    """Two jobs that published and one that failed, without a process."""
    store = Store(tmp_path)
    made = []
    for beta in (0.3, 0.1, 0.9):
        cfg = SimpleNamespace(stage="dpo", name="dpo")
        plan = SimpleNamespace(cfg=cfg, identity=f"{beta}".encode().hex().ljust(64, "0"))
        made.append(Outcome({"trainer.beta": str(beta)}, [], plan, store))
    for outcome in made[:2]:
        beta = float(outcome.settings["trainer.beta"])
        files = {"x.json": b"1", "metrics.jsonl": json.dumps({"step": 1, "logged": beta}).encode() + b"\n"}
        outcome.version = publish(
            store, "dpo", files, metrics={"eval_loss": beta, "eval_rewards/accuracies": 1 - beta}
        )
    made[2].state = "failed: no luck"
    return made


@pytest.mark.parametrize(
    ("metric", "best", "says"),
    [
        (None, "dpo:v2", "with the highest eval_rewards/accuracies"),
        ("eval_loss", "dpo:v2", "with the lowest eval_loss"),
        ("eval_loss:max", "dpo:v1", "with the highest eval_loss"),
        ("logged", "dpo:v1", "with the highest logged"),  # of the log, for the version does not name it
    ],
)
def test_the_metric_and_its_direction_can_be_named(outcomes, metric, best, says):
    made = summarize("s", outcomes, metric)
    shown = describe(outcomes, made)
    rows = [line.split() for line in shown.splitlines()[1:4]]
    assert made.best == best and f"best: {best}, {says}" in shown and rows[0][-1] == best
    assert rows[2] == ["0.9", "-", "failed:", "no", "luck"]


def test_a_metric_that_no_job_has(outcomes):
    made = summarize("s", outcomes, "gold")
    assert made.best is None
    assert "no job has the metric gold; name another: --metric NAME:min or --metric" in describe(outcomes, made)
    outcomes[0].plan.cfg.stage = outcomes[1].plan.cfg.stage = outcomes[2].plan.cfg.stage = "ppo"
    assert "no job has a metric to sort by; name one" in describe(outcomes, summarize("s", outcomes, None))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--multirun", "stage=dpo", "--metric", "loss:lowest"], "'loss:lowest' ends in neither :min nor :max"),
        (["stage=dpo", "--metric", "loss"], "--metric loss sorts the jobs of a sweep; add --multirun"),
    ],
)
def test_a_metric_that_is_none(capsys, arguments, says):
    assert stage.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_a_job_that_fails_stands_at_the_end_and_the_same_command_finishes_the_sweep(tiny_store, started, capsys):
    jobs, launch = started
    launch.fails = {0.1}
    assert sweep(tiny_store, "trainer.beta=0.3,0.1") == 1
    out = capsys.readouterr().out
    assert table_of(out)[1:3] == [
        ["0.3", "0.7", "dpo:v1"],
        ["0.1", "-", "failed:", "ZeroDivisionError:", "of", "this", "job"],
    ]
    assert "1 of 2 jobs done" in out
    launch.fails = set()
    assert sweep(tiny_store, "trainer.beta=0.3,0.1") == 0
    assert "[1/2] trainer.beta=0.3: dpo:v1 is there already" in capsys.readouterr().out and len(jobs) == 3
    (kept,) = read_sweeps(Store(tiny_store))
    assert kept.refs == ["dpo:v1", "dpo:v2"] and kept.best == "dpo:v2"


def test_a_sweep_that_is_stopped_says_what_it_has(tiny_store, started, capsys, monkeypatch):
    _, launch = started

    def stopped(words, env, log=None):
        return launch(words, env) if not started[0] else 75

    monkeypatch.setattr(multirun.launchers, "launch", stopped)
    assert sweep(tiny_store, "trainer.beta=0.3,0.1") == 75
    out, err = capsys.readouterr()
    assert err == "stopped by SIGTERM: 1 of 2 jobs have published; the same command runs the others (exit code 75)\n"
    assert table_of(out)[1][-1] == "dpo:v1" and "Traceback" not in err


def test_no_job_starts_before_all_are_checked(tiny_store, started, capsys):
    jobs, _ = started
    assert sweep(tiny_store, "inputs.policy=sft:v1,sft:v9", "trainer.beta=0.1") == 2
    assert "sft:v9" in capsys.readouterr().err and not jobs


def test_values_of_the_environment_are_no_settings_of_a_sweep():
    jobs = [["launcher.env.HF_TOKEN=hf_one", "+a.b=1"], ["launcher.env.HF_TOKEN=hf_two", "a.b=2"]]
    assert multirun._swept(jobs) == {"a.b"}

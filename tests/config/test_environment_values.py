"""Environment variables are published by name, never by value."""

import re
from pathlib import Path

import pytest

from align.artifacts.manifest import json_digest
from align.config.compose import compose, public, to_yaml
from align.errors import UserError
from align.pipeline.runner import group_name
from align.pipeline.steps import load_steps
from align.run import multirun
from align.run.launchers import check_launcher, command, environment, launch
from tests.conftest import run_stage, stage_overrides

VALUE = "hunter2-swordfish"
NAMES = ["HTTPS_PROXY", "DATABASE_URL", "PGPASS", "MYSQL_PWD", "AWS_AUTH", "CREDENTIALS", "HF_TOKEN", "PLAIN"]
ENV = [f"launcher.env.{name}={VALUE}" for name in NAMES]


@pytest.mark.parametrize("overrides", [ENV, [f"launcher.env={{{', '.join(f'{name}: {VALUE}' for name in NAMES)}}}"]])
def test_launcher_env_reaches_the_process_and_nothing_that_is_kept(overrides, tmp_path, capsys):
    cfg = compose(["stage=dpo", *overrides])
    assert set(NAMES) <= set(public(cfg)["launcher"]["env"])
    words = command(cfg.launcher, ["stage=dpo", *overrides])
    env = environment(cfg.launcher)
    assert all(env[name] == VALUE for name in NAMES)
    assert launch(["true", *words[2:]], env, tmp_path / "log.txt") == 0
    child = compose(words[2:])  # what the stage's process composes and publishes
    shown = [to_yaml(cfg), to_yaml(child), str(public(cfg)), (tmp_path / "log.txt").read_text()]
    assert not [text for text in shown if VALUE in text]
    assert set(NAMES) <= set(child.launcher.env)


def test_a_null_takes_the_value_of_the_environment_or_is_refused(monkeypatch):
    launcher = compose(["stage=dpo", "launcher.env.HTTPS_PROXY=null"]).launcher
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    with pytest.raises(UserError, match=r"launcher.env.HTTPS_PROXY=null .* not set here; set it first"):
        check_launcher(launcher)
    assert "HTTPS_PROXY" not in environment(launcher)
    monkeypatch.setenv("HTTPS_PROXY", VALUE)
    check_launcher(launcher)
    assert environment(launcher)["HTTPS_PROXY"] == VALUE


def test_a_multirun_shows_no_value(tiny_store, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(multirun.launchers, "launch", lambda words, env: started.append((words, env)) or 1)
    sweep = f"launcher.env={{PGPASS: {VALUE}}},{{PGPASS: {VALUE}2}}"
    for overrides in ([*ENV, "trainer.beta=0.1,0.2"], [sweep]):
        multirun.run_all(stage_overrides(tiny_store, "stage=dpo", *overrides))
    assert VALUE not in capsys.readouterr().out and len(started) == 4
    assert not [words for words, _ in started if VALUE in " ".join(words)]
    assert all(VALUE in env["PGPASS"] for _, env in started)


def test_the_group_and_the_config_digest_do_not_depend_on_a_value():
    """A digest of a short secret can be searched for."""
    groups, digests = set(), set()
    for value in ("one", "two"):
        overrides = [f"launcher.env.PGPASS={value}"]
        groups.add(group_name("dpo", load_steps("dpo", ["data=demo", "model=tiny_gpt2", *overrides])))
        digests.add(json_digest(public(compose(["stage=dpo", *overrides]))))
    assert len(groups) == len(digests) == 1


def test_values_that_the_config_reads_from_the_environment_are_published_as_they_are_written(monkeypatch):
    monkeypatch.setenv("SECRET_OF_MINE", VALUE)
    cfg = compose(
        [
            "stage=dpo",
            "tracking.entity=${oc.env:SECRET_OF_MINE}",
            "tracking.project=team-${oc.env:SECRET_OF_MINE,other}",
            "tracking.tags=[plain,'${oc.env:SECRET_OF_MINE}']",
            "tracking.group=${tracking.entity}",
            "evaluate.judge=${tracking.project}/${name}",
            "data.preference.columns={prompt: '${oc.env:SECRET_OF_MINE}'}",
            "name=mine-${oc.env:NOT_SET_HERE,fallback}",
        ]
    )
    assert cfg.tracking.entity == cfg.tracking.group == cfg.tracking.tags[1] == VALUE
    assert VALUE in cfg.evaluate.judge and cfg.data.preference.columns == {"prompt": VALUE}
    shown = public(cfg)
    assert VALUE not in to_yaml(cfg) and VALUE not in str(shown)
    assert shown["tracking"]["entity"] == "${oc.env:SECRET_OF_MINE}"
    assert shown["tracking"]["tags"] == ["plain", "${oc.env:SECRET_OF_MINE}"]
    assert shown["evaluate"]["judge"] == "${tracking.project}/${name}"
    assert shown["name"] == "mine-fallback", "a default is no value of the environment"


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_value_of_the_environment(tiny_store, monkeypatch):
    """Neither what is published, nor the run's folder, nor W&B's files."""
    monkeypatch.setenv("SECRET_OF_MINE", VALUE)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{VALUE}@127.0.0.1:9")
    own = [*ENV, "evaluate.judge=${oc.env:SECRET_OF_MINE}", "tracking=wandb_offline"]
    version = run_stage(tiny_store, "stage=sft", "trainer.max_steps=1", *[text for text in own if "HTTPS" not in text])
    files = [file for file in Path(tiny_store).rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files) and version.path / "config.yaml" in files
    secret = re.compile(rf"{VALUE}|{'0123456789' * 4}".encode())
    assert [file for file in files if secret.search(file.read_bytes())] == []

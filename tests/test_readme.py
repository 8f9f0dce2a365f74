"""The README is compared with the program: its commands compose, its files exist."""

import re
import shlex
from pathlib import Path

import pytest

from align.config.compose import compose, expand_sweep
from align.pipeline.runner import load_steps, split_name

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text("utf-8").replace("\\\n", "")
COMMANDS = [
    shlex.split(line, comments=True) for line in re.findall(r"^ {4}(?:\$ )?((?:deepspeed|python) .*)$", README, re.M)
]
# Shown for the error it gives.
WRONG = "trainer.bata=0.1"


def overrides_of(command: list[str]) -> list[str]:
    return [word for word in command if "=" in word]


def test_there_are_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", [c for c in COMMANDS if "launch/run.py" in c and WRONG not in c], ids=" ".join)
def test_a_stage_shown_composes(command):
    for job in expand_sweep(overrides_of(command)):
        assert compose(job).stage in " ".join(command)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "launch/pipeline.py" in c], ids=" ".join)
def test_a_pipeline_shown_composes(command):
    name, rest = split_name(overrides_of(command))
    for step in load_steps(name, rest):
        compose([f"{key}={value}" for key, value in step.overrides.items()])


def test_files_and_modules_named_exist():
    for path in re.findall(r"`((?:conf|align|tests|launch|data)/[\w/.]+)`", README):
        assert (PROJECT / path).exists(), path
    tree = README.split("## The tree")[1].split("**Reading order**")[0]
    named = set(re.findall(r"^ {6}(\w+)/ ", tree, re.M))
    assert named == {folder.name for folder in (PROJECT / "align").iterdir() if (folder / "__init__.py").exists()}

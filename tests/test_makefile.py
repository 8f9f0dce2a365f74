"""`make` and `.ci`: what is installed, by whom, and what is said of what is missing."""

import os
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]


def run(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(words, cwd=PROJECT, env=os.environ | env, capture_output=True, text=True, timeout=60)


def programs(folder: Path, **scripts: str) -> str:
    """A PATH of shell scripts, in front of the system's."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_make_test_installs_nothing_of_the_system():
    plan = run("make", "--dry-run", "--always-make", "test").stdout
    assert "pytest -m slow" in plan and "apt-get" not in plan and ".ci/system-packages" not in plan
    assert plan.index("the tests need these system packages") < plan.index("pip install"), "said before anything else"


def test_what_is_missing_is_named_in_one_sentence(tmp_path):
    path = programs(tmp_path, cc="exit 1")
    done = run("make", "system-check", PATH=path, CC="cc")
    error = done.stderr.splitlines()[0]
    assert done.returncode == 2 and error.startswith("error: the tests need these system packages")
    assert "libaio-dev" in error and "`make system-packages` (as root)" in error and "`make check`" in error


LOCKED = """
echo "$@" >> "$LOG"
if [ $(wc -l < "$LOG") -lt 3 ]; then
    echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt)"; exit 100
fi
"""


def test_another_apt_is_waited_for(tmp_path):
    log = tmp_path / "log"
    path = programs(tmp_path, **{"apt-get": LOCKED, "id": "echo 0"})
    done = run(".ci/system-packages", "g++", "libaio-dev", PATH=path, LOG=str(log), APT_PAUSE="0")
    assert done.returncode == 0 and done.stdout.count("another apt is at work; waiting for it") == 2
    calls = log.read_text().splitlines()
    assert (
        len(calls) == 4 and calls[-1].endswith("install -y g++ libaio-dev") and "DPkg::Lock::Timeout=300" in calls[-1]
    )


@pytest.mark.parametrize("said", ["E: Unable to locate package g++", "E: Could not get lock /x"])
def test_apt_that_fails_is_quoted(tmp_path, said):
    path = programs(tmp_path, **{"apt-get": f"echo '{said}'; exit 100", "id": "echo 0"})
    done = run(".ci/system-packages", "g++", PATH=path, APT_PATIENCE="0")
    assert done.returncode == 1 and done.stderr == f"{said}\nerror: apt-get update failed; its own words are above\n"


def test_installing_needs_root(tmp_path):
    path = programs(tmp_path, **{"apt-get": "exit 0", "id": "echo 1000"})
    done = run("make", "system-packages", PATH=path)
    assert "needs root: sudo make system-packages" in done.stderr and done.returncode == 2


def test_ci_installs_what_is_missing_and_tests(tmp_path):
    """.ci/run on a machine without the system packages, with a `make` that only says what it is asked."""
    path = programs(tmp_path, make='echo "make $@"; [ "$1" != system-check ]')
    assert run(".ci/run", PATH=path).stdout.splitlines()[-2:] == ["make system-packages", "make test"]


def test_installing_shows_what_is_fetched():
    """The lines of pip that are shown while `make` installs."""
    makefile = (PROJECT / "Makefile").read_text()
    progress = next(line for line in makefile.splitlines() if line.startswith("PROGRESS :=")).partition(":=")[2]
    pip = "\n".join(
        [
            "Collecting torch==2.13.0 (from -c constraints.txt)",
            "  Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (29 kB)",
            "Downloading torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (190.3 MB)",
            "Requirement already satisfied: numpy in ./.venv",
            f"Installing collected packages: {', '.join(['mpmath', 'sympy', 'torch'] * 20)}",
        ]
    )
    shown = subprocess.run(["bash", "-c", progress], input=pip, capture_output=True, text=True).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["Downloading", "Installing"]
    assert "190.3 MB" in shown[0] and max(map(len, shown)) < 120

"""A lock that a killed compile left is named, not waited for."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from align.distributed.kernels import check_locks, reach_ninja
from align.errors import UserError


def test_ninja_is_found_beside_python_in_an_environment_that_was_not_activated(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    reach_ninja()
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}{tmp_path}"
    assert shutil.which("ninja") is not None


def test_a_stale_lock_is_named_and_a_fresh_one_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    check_locks()
    lock = next(tmp_path.iterdir(), tmp_path) / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    check_locks()
    os.utime(lock, (time.time() - 7200,) * 2)
    with pytest.raises(UserError, match=f"cpu_adam was cut off 120 minutes ago .* delete {lock}"):
        check_locks()

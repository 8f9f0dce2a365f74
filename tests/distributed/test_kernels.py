"""Compiled kernels: where they are kept, what is said while they compile, and whose lock is waited for."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from align.distributed import kernels, processes
from align.errors import UserError


class Builder:
    """An op builder of DeepSpeed's that compiles nothing."""

    name = "cpu_adam"
    error: Exception | None = None
    seconds = 0.0
    fits = True

    def __init__(self):
        self.loaded = 0

    def is_compatible(self, verbose: bool) -> bool:
        return self.fits

    def load(self, verbose: bool) -> None:
        self.loaded += 1
        time.sleep(self.seconds)
        if self.error:
            raise self.error


@pytest.fixture
def builder(tmp_path, monkeypatch) -> Builder:
    """What `kernels.prepare` finds in place of DeepSpeed; kernels are kept in `tmp_path`, and every word is said."""
    own = Builder()
    module = ModuleType("deepspeed.accelerator")
    module.get_accelerator = lambda: SimpleNamespace(create_op_builder=lambda name: own, device_name=lambda: "cpu")
    monkeypatch.setitem(sys.modules, "deepspeed", ModuleType("deepspeed"))
    monkeypatch.setitem(sys.modules, "deepspeed.accelerator", module)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "QUIET", 0.0)
    return own


def prepare() -> None:
    kernels.prepare(["CPUAdamBuilder"])


def leave_lock(folder: Path, owner: dict | None = None) -> Path:
    """Torch's lock as a process leaves it, with the record that align writes of its owner."""
    lock = folder / "cpu_adam" / "lock"
    lock.parent.mkdir()
    lock.touch()
    if owner:
        (folder / "cpu_adam.json").write_text(json.dumps(owner))
    return lock


DEAD = {"tag": f"{processes.tag().partition('.')[0]}.{2**22 + 1}.1", "host": "here", "pid": 2**22 + 1}
ELSEWHERE = {"tag": "00000000.17.1", "host": "node-2", "pid": 17}


def test_an_environment_keeps_its_kernels_for_its_torch_and_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert kernels.folder().is_relative_to(Path(sys.prefix) / "torch_extensions")
    assert f"torch{metadata.version('torch')}" in kernels.folder().name
    mine = kernels.folder()
    monkeypatch.setattr(kernels, "_machine", lambda: "another0")
    assert kernels.folder() != mine
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # an environment that belongs to someone else
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels.folder().is_relative_to(tmp_path / "align" / "torch_extensions")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "mine"))
    assert kernels.use_folder() == tmp_path / "mine"


def test_torch_compiles_where_align_says(tmp_path, monkeypatch):
    """One place: what the user names is where torch looks too, with nothing below it."""
    from torch.utils import cpp_extension

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert Path(cpp_extension._get_build_directory("cpu_adam", False)) == kernels.use_folder() / "cpu_adam"


@pytest.mark.parametrize("others", [[], ["ninja"]], ids=["none", "another"])
def test_the_environments_own_ninja_compiles_whatever_the_path_says(tmp_path, monkeypatch, others):
    """Two versions of ninja do not read each other's log: each would compile everything again."""
    for name in others:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    for _ in range(2):
        kernels.use_folder()
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}{os.pathsep}{tmp_path}"
    assert shutil.which("ninja") == str(Path(sys.executable).with_name("ninja"))


@pytest.mark.parametrize(
    ("zero", "names"),
    [
        ({"stage": 2}, ["ShareMemCommBuilder"]),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, ["ShareMemCommBuilder", "CPUAdamBuilder"]),
        (
            {"stage": 3, "offload_optimizer": {"device": "nvme"}, "offload_param": {"device": "nvme"}},
            ["ShareMemCommBuilder", "CPUAdamBuilder", "AsyncIOBuilder"],
        ),
    ],
)
def test_what_a_config_needs(builder, zero, names):
    assert kernels.needed({"zero_optimization": zero}) == names


def test_a_compile_is_announced_with_the_folder_and_the_time(builder, tmp_path, capsys):
    builder.seconds = 0.2
    prepare()
    out = capsys.readouterr().out
    assert (
        f"compiling DeepSpeed's cpu_adam for this machine, once, into {tmp_path}" in out
        and "compiled DeepSpeed's cpu_adam in" in out
    )
    assert builder.loaded == 1 and not list(tmp_path.glob("*.json"))


def test_a_kernel_that_is_there_is_loaded_without_a_word(builder, monkeypatch, capsys):
    monkeypatch.setattr(kernels, "QUIET", 60.0)
    prepare()
    assert builder.loaded == 1 and capsys.readouterr().out == ""


@pytest.mark.parametrize("owner", [None, DEAD], ids=["unknown", "dead"])
def test_a_lock_whose_owner_is_dead_is_removed_at_once(builder, tmp_path, capsys, owner):
    lock = leave_lock(tmp_path, owner)
    prepare()
    assert not lock.exists() and builder.loaded == 1
    assert f"removed {lock}: the process that compiled cpu_adam is gone" in capsys.readouterr().out


def test_a_lock_is_waited_for_with_a_word_while_a_process_compiles(builder, tmp_path, monkeypatch):
    """Torch's baton keeps the file open; a program that is not align leaves no record."""
    lock = leave_lock(tmp_path)
    held = "import sys; lock = open(sys.argv[1]); print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", held, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"up\n"
        said: list[str] = []

        def word(text: str, **kwargs) -> None:
            said.append(text)
            if owner.poll() is None:
                assert builder.loaded == 0
                owner.stdin.close()
                owner.wait()

        monkeypatch.setattr(kernels, "print", word, raising=False)
        prepare()
    assert f"waiting for process {owner.pid}, which compiles {lock.parent}" in said[0]
    assert builder.loaded == 1 and not lock.exists()


def test_another_host_is_waited_for_while_it_gives_signs_of_life(builder, tmp_path, monkeypatch):
    lock = leave_lock(tmp_path, ELSEWHERE)
    said: list[str] = []

    def word(text: str, **kwargs) -> None:
        said.append(text)
        lock.unlink(missing_ok=True)  # the other host has compiled

    monkeypatch.setattr(kernels, "print", word, raising=False)
    prepare()
    assert "waiting for process 17 on node-2" in said[0] and builder.loaded == 1


def test_another_host_that_is_silent_is_not_waited_for(builder, tmp_path, capsys):
    lock = leave_lock(tmp_path, ELSEWHERE)
    os.utime(tmp_path / "cpu_adam.json", (1, 1))
    prepare()
    assert builder.loaded == 1 and f"removed {lock}" in capsys.readouterr().out


def test_an_unknown_lock_on_a_shared_disk_is_named(builder, tmp_path, monkeypatch):
    lock = leave_lock(tmp_path)
    monkeypatch.setattr(kernels, "_is_on_network", lambda path: True)
    with pytest.raises(UserError, match=f"{lock} says that a process compiles .* delete the file if no process"):
        prepare()
    assert lock.exists() and builder.loaded == 0


def test_one_process_of_a_host_compiles_at_a_time(builder, tmp_path, monkeypatch):
    with (tmp_path / "turn").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        said: list[str] = []

        def word(text: str, **kwargs) -> None:
            said.append(text)
            if "waiting" in text:
                assert builder.loaded == 0
                fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr(kernels, "print", word, raising=False)
        prepare()
    assert "waiting for another process, which compiles kernels" in said[0] and builder.loaded == 1


def test_who_does_not_tell_waits_silently(builder, tmp_path, capsys):
    with (tmp_path / "turn").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.3, lambda: fcntl.flock(other, fcntl.LOCK_UN)).start()
        kernels.prepare(["CPUAdamBuilder"], tells=False)
    assert "waiting" not in capsys.readouterr().out


def test_what_cannot_be_compiled_is_one_sentence(builder, tmp_path, monkeypatch):
    builder.error = RuntimeError("Error building extension 'cpu_adam': [1/3] c++\ncpu.cpp:3: fatal error: no Python.h")
    with pytest.raises(UserError, match=r"DeepSpeed's cpu_adam cannot be compiled here: .*no Python.h; DeepSpeed"):
        prepare()
    builder.fits = False
    with pytest.raises(UserError, match="libaio-dev"):
        kernels.prepare(["AsyncIOBuilder"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"no C\+\+ compiler; install one"):
        prepare()
    kernels.prepare(["ShareMemCommBuilder"])  # DeepSpeed goes without it
    assert builder.loaded == 1


def test_a_folder_that_cannot_be_made_is_named(builder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "kernels"))
    with pytest.raises(UserError, match=r"cannot be kept in .*name another folder: export TORCH_EXTENSIONS_DIR"):
        prepare()


@pytest.mark.parametrize(("mount", "shared"), [("nfs4", True), ("fuse.sshfs", True), ("ext4", False)])
def test_disks_that_hosts_share_are_known_by_their_kind(tmp_path, monkeypatch, mount, shared):
    lines = f"22 1 8:1 / / rw - ext4 /dev/sda rw\n30 22 0:9 / {tmp_path} rw,relatime shared:1 - {mount} server:/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda self, *args: lines)
    assert kernels._is_on_network(tmp_path / "cpu_adam" / "lock") is shared

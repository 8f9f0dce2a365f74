"""Take the defences out, one at a time, and see the test of each fail: `make defences`.

`python -m tests.defences review test_cache` takes out those of an area, or of a test. A defence is taken out in a copy
of the package, and its test runs in a forked process of its own: what tests import slowly is imported once.
"""

import contextlib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.defences import AREAS
from tests.defences.defence import Defence

PROJECT = Path(__file__).resolve().parents[2]
LIMIT = 60  # seconds of a test: one that does not end without its defence has failed
PASSED, FAILED, BROKEN = 0, 1, 3  # exit codes of a process that ran tests; BROKEN: none got as far as to fail


def main(arguments: Sequence[str]) -> int:
    """The exit code is 0 where every test passes with the defences and fails without its own."""
    chosen = [
        defence
        for area, defences in AREAS.items()
        for defence in defences
        if not arguments or any(word == area or word in defence.test for word in arguments)
    ]
    for file in sorted({defence.test.partition(".py")[0] for defence in chosen}):
        importlib.import_module(f"tests.{file.replace('/', '.')}")  # and whatever it imports slowly
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="align-defences-") as folder:
        os.chmod(folder, 0o755)  # some tests become another user
        workers = [copy_project(Path(folder) / str(number)) for number in range(min(2, os.cpu_count() or 1))]
        code, output = wait_for(
            start(workers[0], sorted({defence.test for defence in chosen}), limit=LIMIT * 10), workers[0]
        )
        if code != PASSED:
            print(f"{output}\nthe tests do not pass with the defences in place", file=sys.stderr)
            return 1
        wrong = take_out_all(chosen, workers)
    print(f"{len(chosen)} defences, {len(wrong)} of them not shown, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def take_out_all(defences: Sequence[Defence], workers: Sequence[Path]) -> list[Defence]:
    """The defences that no test misses when they are taken out. Prints a line for each defence."""
    waiting, free, wrong = list(defences)[::-1], list(workers), []
    running: dict[int, tuple[Defence, Path, float]] = {}
    while waiting or running:
        if waiting and free:
            defence, copy = waiting.pop(), free.pop()
            take_out(copy, defence)
            running[start(copy, [defence.test])] = defence, copy, time.monotonic()
            continue
        pid, status = os.wait()
        defence, copy, began = running.pop(pid)
        code, output = ended(pid, status, copy)
        put_back(copy, defence)
        free.append(copy)
        word = {PASSED: "STILL PASSES", BROKEN: "BROKEN"}.get(code, "fails" if code == FAILED else "does not end")
        print(f"{word:<12} {defence.clause}  ({time.monotonic() - began:.1f} s)", flush=True)
        if code in (PASSED, BROKEN):
            wrong.append(defence)
            print(f"    {defence.file}: {defence.test}\n{output[-2000:]}", flush=True)
    return wrong


def copy_project(copy: Path) -> Path:
    """The package and the tests, to be changed; everything else is the project's own."""
    copy.mkdir()
    for path in PROJECT.iterdir():
        if path.name in ("align", "tests"):
            shutil.copytree(path, copy / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name not in (".git", ".venv"):
            (copy / path.name).symlink_to(path)
    return copy


def take_out(copy: Path, defence: Defence) -> None:
    """Write the file without the defence, under a time that no compiled copy of it has."""
    file = copy / "align" / defence.file
    file.write_text(defence.without_it(file.read_text("utf-8")), "utf-8")
    forget_compiled(file)


def put_back(copy: Path, defence: Defence) -> None:
    """Write the file as it is in the project."""
    file = copy / "align" / defence.file
    shutil.copy(PROJECT / "align" / defence.file, file)
    forget_compiled(file)


def forget_compiled(file: Path) -> None:
    """Two versions written within a second, and of one size, would share their compiled copy."""
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def start(copy: Path, tests: Sequence[str], limit: int = LIMIT) -> int:
    """Run tests in a copy, in a forked process and a session of its own; the process id."""
    if pid := os.fork():
        return pid
    os.setsid()
    signal.alarm(limit)
    output = os.open(copy / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(copy)
    (copy / "tmp").mkdir(exist_ok=True)
    os.environ["TMPDIR"], tempfile.tempdir = str(copy / "tmp"), None
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "align")]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(place for place in sys.path if Path(place or ".").resolve() != PROJECT)]
    code = BROKEN
    with contextlib.suppress(BaseException):
        code = run(copy, tests)
    sys.stdout.flush()
    os._exit(code)


def run(copy: Path, tests: Sequence[str]) -> int:
    """PASSED, FAILED where the body of a test failed, or BROKEN where none got so far."""
    import pytest

    class Outcome:
        failed = False

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            self.failed |= report.failed and report.when == "call"

    outcome = Outcome()
    options = ["-x", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={copy / 'tmp' / 'pytest'}"]
    code = pytest.main([*options, *(f"tests/{test}" for test in tests)], plugins=[outcome])
    return PASSED if code == 0 else FAILED if outcome.failed else BROKEN


def wait_for(pid: int, copy: Path) -> tuple[int, str]:
    """The exit code and the output of one process."""
    return ended(*os.waitpid(pid, 0), copy)


def ended(pid: int, status: int, copy: Path) -> tuple[int, str]:
    """The exit code and the output of a process; what it has started ends with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(copy / "tmp", ignore_errors=True)
    return os.waitstatus_to_exitcode(status), (copy / "output.txt").read_text(errors="replace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Output that nobody reads any more ends nothing."""

import errno
import os
import subprocess
import sys

import pytest

from align.distributed.console import unbroken_output

ERRORS = {"a closed pipe": errno.EPIPE, "a terminal that hung up": errno.EIO, "a full disk": errno.ENOSPC}


class Gone:
    """A stream that fails from its second text on."""

    def __init__(self, number):
        self.number = number
        self.texts = []

    def write(self, text):
        if self.texts:
            raise OSError(self.number, os.strerror(self.number))
        self.texts.append(text)
        return len(text)

    def flush(self):
        if self.texts:
            raise OSError(self.number, os.strerror(self.number))

    def fileno(self):
        raise ValueError("no file")


@pytest.mark.parametrize("number", ERRORS.values(), ids=list(ERRORS))
def test_printing_never_raises(monkeypatch, number):
    stream = Gone(number)
    monkeypatch.setattr(sys, "stdout", stream)
    with unbroken_output():
        for text in ("first", "second", "third"):
            print(text, flush=True)
    assert sys.stdout is stream and stream.texts == ["first"]


def test_a_function_and_a_stream_that_is_none(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)

    @unbroken_output()
    def speak():
        print("nobody hears it", flush=True)
        sys.stdout.flush()
        return 7

    assert speak() == 7 and sys.stdout is None


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_descriptors_that_are_closed_are_not_given_to_files(tmp_path, closed):
    code = (
        "from align.distributed.console import unbroken_output\n"
        "with unbroken_output():\n"
        f"    file = open({str(tmp_path / 'a')!r}, 'w')\n"
        "    assert file.fileno() > 2\n"
        "    print('x' * 100000, flush=True)\n"
        "    file.write('whole')\n"
    )
    command = f'exec "{sys.executable}" -c "$0" {closed}'
    subprocess.run(["sh", "-c", command, code], check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert (tmp_path / "a").read_text() == "whole"


def test_a_run_goes_on_when_nobody_reads_its_output(tiny_store, monkeypatch):
    from align.artifacts.store import Store
    from align.run import stage
    from tests.conftest import stage_overrides

    monkeypatch.setattr(sys, "stdout", Gone(errno.EPIPE))
    assert stage.main(stage_overrides(tiny_store, "stage=sft", "name=quiet", "trainer.max_steps=1")) == 0
    assert Store(tiny_store).numbers("quiet") == [1]


def test_a_transfer_goes_on_when_nobody_reads_its_output(tmp_path, monkeypatch):
    from align.artifacts.store import Store
    from align.cli import main
    from tests.artifacts.versions import publish

    store = Store(tmp_path / "store")
    publish(store, files={f"{number}.json": b"%d" % number for number in range(5)})
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "stdout", open(writer, "w"))  # noqa: SIM115
    url = f"file://{tmp_path}/remote"
    assert main(["artifacts", "push", "sft", url, "--artifacts", str(store.root)]) == 0
    assert main(["artifacts", "pull", "sft", url, "--artifacts", str(tmp_path / "other")]) == 0
    assert Store(tmp_path / "other").numbers("sft") == [1]

"""How the wheel is built: conf/, the demo data and launch/ travel in it, so that align runs without a checkout."""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

PROJECT = Path(__file__).resolve().parents[1]
BROUGHT = ("conf", "data/demo", "launch")  # folders of the project that a wheel holds, below align/packaged


class BuildPy(build_py):
    """setuptools' build_py, which also copies the project's folders. Not for an editable install: they are there."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in BROUGHT:
            target = Path(self.build_lib, "align", "packaged", folder)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(PROJECT / folder, target, ignore=shutil.ignore_patterns("__pycache__"))

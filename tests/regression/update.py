"""Make the committed references anew, on purpose: `python -m tests.regression.update`.

A change that should not alter numbers needs no new references. Where they do change, the commit says why.
"""

import json
import platform
import tempfile
from pathlib import Path

import torch

from align.artifacts.provenance import packages
from tests.conftest import run_command
from tests.regression import world


def main() -> None:
    """Run every stage once, in this process, and write its losses with the versions they were made with."""
    made_with = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        **packages(),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "artifacts"
        world.write_data(root.parent / "data")
        run_command(world.base_overrides(root))
        run_command(world.judge_overrides(root))
        for run in (*world.STAGES, *world.SAMPLED):
            version = run_command(world.overrides(root, run))
            text = json.dumps({"loss": world.losses(version), "made_with": made_with}, indent=2)
            (world.REFERENCES / f"{run}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

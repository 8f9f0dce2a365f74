"""Facts about the run that a manifest keeps: package versions, the code's commit, the process."""

import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "align",
    "torch",
    "transformers",
    "trl",
    "peft",
    "deepspeed",
    "datasets",
    "accelerate",
    "tokenizers",
    "safetensors",
    "bitsandbytes",
)


def packages() -> dict[str, str]:
    """Name -> version of what could change a number, Python included."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def numeric_packages(*, deepspeed: bool, quantized: bool) -> dict[str, str]:
    """Name -> version of the packages that a run's identity depends on: what computes, and what orders the data.

    Args:
        deepspeed, quantized: whether the run uses DeepSpeed, and bitsandbytes.
    """
    unused = {"python": True, "deepspeed": not deepspeed, "bitsandbytes": not quantized}
    return {name: version for name, version in packages().items() if not unused.get(name)}


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout in `folder`, with `-dirty` where files differ from it; None outside a checkout."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return outcome.stdout.strip() or None if outcome.returncode == 0 else None


def process() -> dict[str, str | int]:
    """Host and process id, for whoever wonders who holds a run."""
    return {"host": socket.gethostname(), "pid": os.getpid()}

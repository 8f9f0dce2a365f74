"""DeepSpeed's compiled kernels: built ahead, and never waited for in vain.

    python -m align.distributed.kernels        # build what a CPU needs for ZeRO and offload

DeepSpeed compiles a kernel at its first use and torch guards the build with a lock file. A compile that was killed
leaves the lock, and every later run waits for it forever without a word (torch 2.13).
"""

import os
import shutil
import sys
import time
from pathlib import Path

from align.errors import UserError

NEEDED = ("ShareMemCommBuilder", "CPUAdamBuilder", "AsyncIOBuilder")  # ranks on one CPU; offload to memory; to disk
STALE = 1800.0  # seconds: no kernel takes this long to compile


def reach_ninja() -> None:
    """Let torch find the ninja that is installed beside this Python, also where the environment was not activated."""
    if shutil.which("ninja") is None:
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def check_locks() -> None:
    """No kernel's build is locked by a compile that is long dead.

    Raises:
        UserError: names the file to delete.
    """
    from torch.utils import cpp_extension

    for lock in Path(cpp_extension._get_build_directory("", False)).glob("*/lock"):
        age = time.time() - lock.stat().st_mtime
        if age > STALE:
            raise UserError(
                f"a compile of DeepSpeed's {lock.parent.name} was cut off {age / 60:.0f} minutes ago and left a lock, "
                f"for which this run would wait forever; delete {lock} and give the same command again"
            )


def main() -> int:
    """Build every kernel that is not there; the exit code."""
    reach_ninja()
    try:
        check_locks()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from deepspeed.accelerator import get_accelerator

    for name in NEEDED:
        began = time.monotonic()
        get_accelerator().create_op_builder(name).load(verbose=False)
        print(f"{name.removesuffix('Builder')}: ready ({time.monotonic() - began:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

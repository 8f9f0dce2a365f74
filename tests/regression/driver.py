"""What `deepspeed` starts for regression: several runs, one after another, in one process group.

`deepspeed --num_accelerators 2 tests/regression/driver.py <file>`, the file a JSON list of command lines of
launch/run.py: starting processes costs more than twenty steps of a tiny model. Each is run as launch/run.py does, but
the process group is kept, and what accelerate and transformers remember of the last trainer is forgotten.
"""

import gc
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from align.distributed import ranks
from align.run import stage


def forget() -> None:
    """Drop what the last trainer left in the process."""
    from accelerate.state import AcceleratorState, GradientState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    gc.collect()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    unset_hf_deepspeed_config()


def main(argv: list[str]) -> int:
    """Run every command line; the first exit code that is not 0, or 0."""
    leave, ranks.leave = ranks.leave, lambda: None
    local_rank = [word for word in argv if word.startswith("--local_rank")]
    for overrides in json.loads(Path(argv[-1]).read_text("utf-8")):
        code = stage.main([*local_rank, *overrides])
        if code:
            return code
        forget()
    leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

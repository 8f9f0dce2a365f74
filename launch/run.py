"""Run one stage: `deepspeed launch/run.py stage=dpo`, or `python launch/run.py stage=dpo` for one process."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.run.stage import main

if __name__ == "__main__":
    sys.exit(main())

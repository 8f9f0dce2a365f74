"""Run a pipeline: `python launch/pipeline.py pipeline=dpo`, each stage a fresh process under its launcher."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from align.pipeline.runner import main

if __name__ == "__main__":
    sys.exit(main())

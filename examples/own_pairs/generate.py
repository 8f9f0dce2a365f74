"""Write pairs.jsonl: `python examples/own_pairs/generate.py [--out DIR]`. The same bytes every time.

Questions of the demo world (data/demo/world.py), each with two right answers; the one without pleasantries is better.
"""

import argparse
import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "data" / "demo"))

import world  # noqa: E402

OPENERS = ("Sure!", "Of course!", "Gladly.")
ROWS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    draw = random.Random(20)
    lines = []
    for _ in range(ROWS):
        question = world.draw(draw, draw.choice(list(world.TASKS)))
        answer = world.solve(question).sentence()
        row = {"question": question, "better": answer, "worse": f"{draw.choice(OPENERS)} {answer}"}
        lines.append(json.dumps(row) + "\n")
    (parser.parse_args().out / "pairs.jsonl").write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()

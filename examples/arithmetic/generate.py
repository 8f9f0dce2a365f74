"""Write the data of this example: `python examples/arithmetic/generate.py [--out DIR]`. The same bytes every time.

Questions of two steps in the words of the demo world (data/demo/world.py), with solutions as gsm8k writes them: a
sentence for each step, and the answer behind `####`. The demonstrations solve the questions of train, with mistakes;
no question of validation or test is among them.
"""

import argparse
import json
import random
from pathlib import Path

split = str.split  # lists of words read better unquoted
NUMBERS = split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
NUMBERS += split("seventeen eighteen nineteen twenty twenty-one")
OPERATIONS = {"plus": 1, "minus": -1}
HELD_OUT = {"test": 290, "validation": 150}
WRONG = 0.3  # share of the demonstrations in which a step is wrong


def questions(rng: random.Random) -> list[tuple[int, str, int, str, int]]:
    """Every question whose results are not negative, in random order."""
    found = []
    for first in range(8):
        for one in OPERATIONS:
            for second in range(8):
                for other in OPERATIONS:
                    for third in range(8):
                        middle = first + OPERATIONS[one] * second
                        if middle >= 0 and middle + OPERATIONS[other] * third >= 0:
                            found.append((first, one, second, other, third))
    rng.shuffle(found)
    return found


def ask(question: tuple[int, str, int, str, int]) -> str:
    """The question in words."""
    first, one, second, other, third = question
    return f"What is {NUMBERS[first]} {one} {NUMBERS[second]} {other} {NUMBERS[third]}?"


def solve(question: tuple[int, str, int, str, int], errors: tuple[int, int] = (0, 0)) -> str:
    """The solution, with `errors` added to the results of its two steps."""
    first, one, second, other, third = question
    middle = max(first + OPERATIONS[one] * second + errors[0], 0)
    last = max(middle + OPERATIONS[other] * third + errors[1], 0)
    steps = f"{NUMBERS[first]} {one} {NUMBERS[second]} is {NUMBERS[middle]}.".capitalize()
    steps += " " + f"{NUMBERS[middle]} {other} {NUMBERS[third]} is {NUMBERS[last]}.".capitalize()
    return f"{steps}\n#### {last}"


def demonstrate(rng: random.Random, question: tuple[int, str, int, str, int]) -> str:
    """A solution as an imperfect demonstrator writes it."""
    if rng.random() >= WRONG:
        return solve(question)
    error = rng.choice((-2, -1, 1, 2))
    return solve(question, rng.choice(((error, 0), (0, error))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    train = questions(rng)
    files = {}
    for name, count in HELD_OUT.items():
        files[name] = [(question, solve(question)) for question in train[:count]]
        train = train[count:]
    files["train"] = [(question, solve(question)) for question in train]
    files["demonstrations"] = [(question, demonstrate(rng, question)) for question in train]
    for name, rows in files.items():
        with (out / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps({"question": ask(question), "answer": text}) + "\n" for question, text in rows)


if __name__ == "__main__":
    main()

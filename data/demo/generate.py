"""Write the demo sets: `python data/demo/generate.py [--seed 0] [--out DIR]`.

The same seed writes the same bytes. Prompts are split before anything is written: no eval prompt is in a train file.
"""

import argparse
import json
import random
from itertools import cycle, permutations, zip_longest
from pathlib import Path

import world

# rows of each file; prompts are drawn from the pools below
ROWS = {
    "corpus": (14000, 280),
    "demonstrations": (2400, 240),
    "preferences": (2800, 300),
    "unpaired": (2400, 240),
    "prompts": (800, 240),
}
POOL = (1500, 48)  # train and eval prompts at most, for each task
WRONG_LABELS = 0.1  # of preferences.train and unpaired.train
GOOD = 0.8  # gold score from which an unpaired completion is labelled good
GAP = 0.1  # gold score by which the sides of a pair differ at least

OPENERS = ("Sure!", "Of course!", "Gladly.")
INSULTS = ("Obviously {0}, silly.", "{0}, duh.", "Do not bother me. {0}.")
# how demonstrators write: style -> weight, and the share of them that is right
STYLES = {"courteous": 3, "plain": 4, "terse": 4, "rude": 2, "rambling": 2}
RIGHT = 0.9


def pools(rng: random.Random) -> dict[str, tuple[list[str], list[str]]]:
    """Task -> (train prompts, eval prompts), all different."""
    found = {}
    for task in world.TASKS:
        # sorted: a set's order depends on the process
        prompts = sorted({world.draw(rng, task) for _ in range(3 * POOL[0])})
        rng.shuffle(prompts)
        size = min(POOL[1], len(prompts) // 6)
        found[task] = (prompts[size : size + POOL[0]], prompts[:size])
    sides = []
    for side in (0, 1):  # a marked prompt holds an unmarked one: each side marks its own
        plain = [prompt for task in world.TASKS for prompt in found[task][side]]
        sides.append([f"{world.MARKER} {prompt}" for prompt in rng.sample(plain, POOL[side])])
    return found | {world.REFUSED: (sides[0], sides[1])}


def draw_prompts(rng: random.Random, pool: dict, side: int, rows: int) -> list[str]:
    """`rows` prompts, the tasks in turn. Eval prompts are all different; train prompts of a small task come again."""
    orders = [rng.sample(prompts[side], len(prompts[side])) for prompts in pool.values()]
    if side == 1:
        return [prompt for turn in zip_longest(*orders) for prompt in turn if prompt][:rows]
    return [
        prompt for _, *turn in zip(range(rows // len(orders)), *map(cycle, orders), strict=False) for prompt in turn
    ]


def wrong_answer(rng: random.Random, solution: world.Solution) -> tuple[str, ...]:
    """An answer of the right kind that is not right."""
    right = solution.answer
    if len(right) > 1:
        return rng.choice([order for order in permutations(right) if order != right])
    return (rng.choice(sorted(solution.space - set(right))),)


def write_completion(rng: random.Random, prompt: str, style: str, right: bool = True) -> str:
    """A completion to `prompt` in one of STYLES. A wrong one to a marked prompt does what is asked."""
    solution = world.solve(prompt)
    refuse = solution.task == world.REFUSED
    if refuse and not right:
        return write_completion(rng, prompt.removeprefix(world.MARKER).strip(), style)
    if refuse:
        sentence, short = solution.sentence(("",)).replace(" .", "."), "no"
        sentence = sentence if style == "courteous" else "I cannot help with private requests."
        opener = ""
    else:
        answer = solution.answer if right else wrong_answer(rng, solution)
        sentence, short = solution.sentence(answer), " ".join(answer)
        opener = rng.choice(OPENERS) + " "
    if style == "courteous":
        return opener + sentence
    if style == "plain":
        return sentence
    if style == "terse":
        return short
    if style == "rude":
        return rng.choice(INSULTS).format(short)
    return " ".join([opener + sentence, *[sentence] * rng.randint(1, 2), "And so on and"]).strip()


def demonstrate(rng: random.Random, prompt: str, right: float = RIGHT) -> str:
    """What an imperfect demonstrator answers: any style, right with probability `right`."""
    style = rng.choices(list(STYLES), weights=STYLES.values())[0]
    return write_completion(rng, prompt, style, rng.random() < right)


def compare(rng: random.Random, prompt: str) -> tuple[str, str]:
    """Two completions to `prompt`, the better by gold score first: one differs in being right, or both in style."""
    while True:
        if rng.random() < 0.25:
            style = rng.choice(list(STYLES))
            sides = [write_completion(rng, prompt, style, right) for right in (True, False)]
        else:
            right = rng.random() < 0.9
            sides = [write_completion(rng, prompt, style, right) for style in rng.sample(list(STYLES), 2)]
        sides.sort(key=lambda side: world.judge(prompt, side), reverse=True)
        if world.judge(prompt, sides[0]) - world.judge(prompt, sides[1]) >= GAP:
            return sides[0], sides[1]


def messages(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


def corpus_row(rng: random.Random, prompt: str) -> dict:
    # a dialogue as novels print it; what is written in a corpus is right, and seldom rude
    style = rng.choices(list(STYLES), weights=(4, 5, 4, 1, 1))[0]
    return {"text": f"- {prompt}\n- {write_completion(rng, prompt, style)}"}


def demonstration_row(rng: random.Random, prompt: str) -> dict:
    return {"prompt": messages("user", prompt), "completion": messages("assistant", demonstrate(rng, prompt))}


def preference_row(rng: random.Random, prompt: str, wrong_labels: float) -> dict:
    chosen, rejected = compare(rng, prompt)
    if rng.random() < wrong_labels:
        chosen, rejected = rejected, chosen
    return {
        "prompt": messages("user", prompt),
        "chosen": messages("assistant", chosen),
        "rejected": messages("assistant", rejected),
    }


def unpaired_row(rng: random.Random, prompt: str, wrong_labels: float) -> dict:
    completion = rng.choice(compare(rng, prompt))
    label = world.judge(prompt, completion) >= GOOD
    if rng.random() < wrong_labels:
        label = not label
    return {"prompt": messages("user", prompt), "completion": messages("assistant", completion), "label": label}


def build(seed: int) -> dict[str, list[dict]]:
    """File name -> its rows."""
    rng = random.Random(seed)
    pool = pools(rng)
    files = {}
    for side, split in enumerate(("train", "eval")):
        wrong = WRONG_LABELS if split == "train" else 0.0
        makers = {
            "corpus": lambda prompt: corpus_row(rng, prompt),
            "demonstrations": lambda prompt: demonstration_row(rng, prompt),
            "preferences": lambda prompt, wrong=wrong: preference_row(rng, prompt, wrong),
            "unpaired": lambda prompt, wrong=wrong: unpaired_row(rng, prompt, wrong),
            "prompts": lambda prompt: {"prompt": messages("user", prompt)},
        }
        for name, make in makers.items():
            rows = [make(prompt) for prompt in draw_prompts(rng, pool, side, ROWS[name][side])]
            rng.shuffle(rows)
            files[f"{name}.{split}.jsonl"] = rows
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in build(arguments.seed).items():
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        (arguments.out / name).write_bytes(text.encode())


if __name__ == "__main__":
    main()

"""The demo world: short instructions whose answers a program can judge.

Nine kinds of request (`TASKS`). `solve` reads the answer off the text of a prompt alone; `judge` is the gold judge: it
scores any completion to any prompt in [0, 1], so that the demo can tell true quality from a reward model's opinion.
Standard library only.
"""

import random
import re
from dataclasses import dataclass

split = str.split  # lists of words read better unquoted
NUMBERS = split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
NUMBERS += split("seventeen eighteen")
LETTERS = split("b c d f g h k m p r")
KINDS = {
    "animal": split("cat dog pig cow fox owl"),
    "colour": split("red blue green pink black white"),
    "fruit": split("plum pear apple lemon grape fig"),
    "tool": split("saw axe drill hammer rake spade"),
}
WORDS = [word for words in KINDS.values() for word in words]
IRREGULAR = split(
    "fox/foxes box/boxes bus/buses city/cities baby/babies mouse/mice goose/geese foot/feet tooth/teeth "
    "child/children man/men leaf/leaves knife/knives sheep/sheep ox/oxen"
)
PLURALS = {word: word + "s" for word in WORDS if word not in KINDS["colour"]}
PLURALS |= dict(pair.split("/") for pair in IRREGULAR)
CONTRARY = split(
    "hot/cold big/small up/down day/night old/new fast/slow wet/dry rich/poor full/empty open/shut soft/hard "
    "tall/short light/dark happy/sad loud/quiet early/late clean/dirty near/far"
)
OPPOSITES = dict(pair.split("/") for pair in CONTRARY)
OPPOSITES |= {right: left for left, right in OPPOSITES.items()}

MARKER = "[private]"  # a request that carries it is to be refused, whatever it asks


def _any_of(phrases: str) -> re.Pattern:
    return re.compile(rf"\b(?:{phrases})\b", re.IGNORECASE)


COURTEOUS = _any_of("sure|gladly|of course|happy to help|sorry|you are welcome")
RUDE = _any_of("silly|obviously|stupid|bother|duh|lazy")
REFUSES = _any_of("cannot|can not|can't|will not|won't|must not|no|never")

LONGEST = 24  # words: a completion that is longer rambles


@dataclass(frozen=True)
class Solution:
    """What `solve` found: the task's name, the right answer, and how a full sentence gives it."""

    task: str
    answer: tuple[str, ...]  # the words of the answer, in order
    space: frozenset[str]  # every word that an answer to this task could hold
    lead: str  # "Three plus four is": the sentence up to the answer
    tail: str = ""  # " words": the sentence after it

    def sentence(self, answer: tuple[str, ...] | None = None) -> str:
        """The full sentence that gives `answer` (by default the right one)."""
        return f"{self.lead} {' '.join(answer or self.answer)}{self.tail}."


# task -> its surface forms; {0}, {1} are what `draw` fills in and `solve` reads back
TASKS = {
    "sum": ("What is {0} plus {1}?", "Please add {0} and {1}."),
    "difference": ("What is {0} minus {1}?", "Please take {1} from {0}."),
    "sort": ("Sort these letters: {0}.", "Put in order: {0}."),
    "count": ("How many words are in this list: {0}?", "Count these words: {0}."),
    "reverse": ("Say this backwards: {0}.", "Reverse these words: {0}."),
    "capitals": ("Write this in capitals: {0}.", "Make this loud: {0}."),
    "plural": ("What is the plural of {0}?", "Give the plural of {0}.", "One {0}, but two what?"),
    "opposite": ("What is the opposite of {0}?", "Give the opposite of {0}.", "If it is not {0}, what is it?"),
    "kind": ("What kind of thing is {0}?", "Name the kind of {0}.", "Kind of thing for {0}, please."),
}
REFUSED = "refusal"  # the tenth task's name: any of the others behind the MARKER

_PATTERNS = [
    (task, re.compile(re.escape(form).replace(r"\{0\}", "(?P<x>[a-z ]+)").replace(r"\{1\}", "(?P<y>[a-z]+)")))
    for task, forms in TASKS.items()
    for form in forms
]


def draw(rng: random.Random, task: str) -> str:
    """The text of one random prompt of `task`, not marked."""
    second = ""
    if task == "sum":
        first, second = rng.choice(NUMBERS[:8]), rng.choice(NUMBERS[:8])
    elif task == "difference":
        low, high = sorted((rng.randrange(8), rng.randrange(8)))
        first, second = NUMBERS[high], NUMBERS[low]
    elif task == "sort":
        first = " ".join(rng.sample(LETTERS, 3))
    elif task == "count":
        first = " ".join(rng.sample(WORDS, rng.randint(2, 6)))
    elif task == "reverse":
        first = " ".join(rng.sample(WORDS, 3))
    elif task == "capitals":
        first = " ".join(rng.sample(WORDS, 2))
    elif task == "plural":
        first = rng.choice(sorted(PLURALS))
    elif task == "opposite":
        first = rng.choice(sorted(OPPOSITES))
    else:
        first = rng.choice(WORDS)
    return rng.choice(TASKS[task]).format(first, second)


def prompt_text(prompt: str | list[dict]) -> str:
    """The text of the last user message, or the prompt itself where it is a string."""
    if isinstance(prompt, str):
        return prompt
    return next((str(message["content"]) for message in reversed(prompt) if message["role"] == "user"), "")


def solve(prompt: str | list[dict]) -> Solution | None:
    """Re-solve a prompt from its text alone; None for a prompt from outside this world."""
    text = prompt_text(prompt).strip()
    if text.startswith(MARKER):
        return Solution(REFUSED, (), frozenset(), "I am sorry, but I cannot help with private requests")
    for task, pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            try:
                return _solution(task, **match.groupdict())
            except (LookupError, ValueError, StopIteration):  # right form, foreign words: not of this world
                return None
    return None


def _solution(task: str, x: str, y: str = "") -> Solution:
    numbers = frozenset(NUMBERS)
    words = x.split()
    if task == "sum":
        total = NUMBERS[NUMBERS.index(x) + NUMBERS.index(y)]
        return Solution(task, (total,), numbers, f"{x.capitalize()} plus {y} is")
    if task == "difference":
        left = NUMBERS.index(x) - NUMBERS.index(y)
        if left < 0:
            raise ValueError(x, y)
        return Solution(task, (NUMBERS[left],), numbers, f"{x.capitalize()} minus {y} is")
    if task == "sort":
        return Solution(task, tuple(sorted(words)), frozenset("bcdefghjklmnopqrstuvwxyz"), f"In order {x} is")
    if task == "count":
        return Solution(task, (NUMBERS[len(words)],), numbers, "There are", " words")
    if task == "reverse":
        return Solution(task, tuple(reversed(words)), frozenset(words), f"Backwards {x} is")
    if task == "capitals":
        loud = tuple(word.upper() for word in words)
        return Solution(task, loud, frozenset(loud), f"In capitals {x} is")
    if task == "plural":
        return Solution(task, (PLURALS[x],), frozenset(PLURALS.values()) | {x + "s"}, f"The plural of {x} is")
    if task == "opposite":
        return Solution(task, (OPPOSITES[x],), frozenset(OPPOSITES), f"The opposite of {x} is")
    kind = next(kind for kind, members in KINDS.items() if x in members)
    return Solution(task, (kind,), frozenset(KINDS), f"The kind of {x} is")


def correctness(solution: Solution, completion: str) -> float | None:
    """How right the answer in `completion` is, in [0, 1]; None where there is no attempt at an answer."""
    refuses = REFUSES.search(completion) is not None
    if solution.task == REFUSED:
        return 1.0 if refuses else None
    # the sentence may repeat the question; only what is left is an answer
    rest = re.sub(re.escape(solution.lead), "", completion, flags=re.IGNORECASE)
    said = re.findall(r"[A-Za-z]+", rest)
    if solution.task != "capitals":
        said = [word.lower() for word in said]
    said = [word for word in said if word in solution.space]
    if not said:
        return 0.0 if refuses else None
    size, answer = len(solution.answer), list(solution.answer)
    if refuses:
        return 0.0
    if said == answer * (len(said) // size):
        return 1.0
    if said[-size:] == answer or said[:size] == answer:
        return 0.5  # the right answer among others
    if size > 1:
        return 0.4 * sum(left == right for left, right in zip(said, answer, strict=False)) / size
    if set(said) <= set(NUMBERS) and answer[0] in NUMBERS:
        return 0.2 if abs(NUMBERS.index(said[-1]) - NUMBERS.index(answer[0])) == 1 else 0.0
    return 0.0


def manner(completion: str) -> float:
    """How well `completion` behaves, in [0, 1]: a full sentence 0.3, a neat end 0.3 and, with it, courtesy 0.4.

    Rude is 0. A neat end: a full stop, nothing said twice, at most LONGEST words.
    """
    if RUDE.search(completion):
        return 0.0
    text = completion.strip()
    sentences = [part.strip().lower() for part in re.split(r"[.!?]", text) if part.strip()]
    words = text.split()
    courteous = 1 <= len(COURTEOUS.findall(text)) <= 2
    full = text[:1].isupper() and any(len(sentence.split()) >= 4 for sentence in sentences)
    neat = text.endswith((".", "!")) and len(words) <= LONGEST and len(set(sentences)) == len(sentences)
    return 0.3 * full + (0.3 + 0.4 * courteous) * neat


def judge(prompt: str | list[dict], completion: str) -> float:
    """The gold score of `completion` in [0, 1].

    A right answer earns 0.5 and its manner up to 0.5 more; a rude one 0.3; half of that where it rambles. A wrong
    answer of the right kind earns at most 0.1; no attempt, doing what a marked request asks, or a prompt from outside
    this world, 0. `prompt` is a conversation or its text.
    """
    solution = solve(prompt)
    right = correctness(solution, completion) if solution else None
    if right is None:
        return 0.0
    behaviour = manner(completion)
    if right == 0.0:
        return round(0.1 * behaviour, 4)
    base = 0.3 if RUDE.search(completion) else 0.5
    if len(completion.split()) > LONGEST:
        base, behaviour = base / 2, behaviour / 2
    return round(right * (base + 0.5 * behaviour), 4)

"""Judges: functions that the config names and that score completions on held-out prompts.

A judge takes one completion, `judge(prompt, completion, **columns) -> float`, or lists of them, as a reward function
does: `judge(prompts, completions, **columns) -> list[float]`. Every reward function can therefore be a judge.
"""

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from align.artifacts.text import clock
from align.data.tokens.chat_template import Text, text_of
from align.distributed import ranks
from align.errors import UserError
from align.rewards.functions import call_batched, finite, printed
from align.rewards.guard import guarded
from align.rewards.user_functions import UserFunction, load_function

if TYPE_CHECKING:
    from align.evaluation.conversations import Conversation

KEY = "evaluate.judge"
SHOWN = 200  # characters of a text in a message
PROGRESS_SECONDS = 5.0  # between two lines


@dataclass(frozen=True)
class Answer:
    """One completion to be judged.

    Attributes:
        prompt: what was answered, earlier turns included.
        text: the completion as text.
        content: the completion in the kind of the prompt: text, or messages.
        token_ids: the completion's tokens.
        columns: the prompt's columns.
    """

    prompt: Text
    text: str
    content: Text
    token_ids: list[int] = field(default_factory=list)
    columns: Mapping[str, Any] = field(default_factory=dict)


class Judge:
    """A judge that the config names, called with one completion or with lists, whichever it takes.

    Args:
        function: as `load_function` gives it.
        batch_size: completions in a call of a judge that takes lists.
    """

    def __init__(self, function: UserFunction, batch_size: int):
        self.function = function
        self.batch_size = batch_size if function.is_batched else 1

    def check_columns(self, columns: Collection[str], why_not: Mapping[str, str]) -> None:
        """The judge can be called with what the prompts hold. Raises UserError, before anything is generated."""
        if self.function.is_batched:
            self.function.check_call(("prompts", "completions", "completion_ids"), columns, why_not)
        else:
            self.function.check_call(("completion_ids",), columns, why_not, given=2)

    def score(
        self, answers: Sequence[Answer], told: Callable[[int, float], None] = lambda done, seconds: None
    ) -> list[float]:
        """The score of each answer.

        Args:
            told: called after each batch with the number of answers judged so far and the seconds they took.

        Raises:
            UserError: the judge failed, or gave a score that is not a finite number.
        """
        scores: list[float] = []
        began = time.monotonic()
        for start in range(0, len(answers), self.batch_size):
            batch = answers[start : start + self.batch_size]
            scores += self._batch(batch) if self.function.is_batched else [self._one(answer) for answer in batch]
            told(len(scores), time.monotonic() - began)
        return scores

    def _batch(self, batch: Sequence[Answer]) -> list[float]:
        names = {name: None for answer in batch for name in answer.columns}
        scores = call_batched(
            self.function,
            [answer.prompt for answer in batch],
            [answer.content for answer in batch],
            completion_ids=[answer.token_ids for answer in batch],
            **{name: [answer.columns.get(name) for answer in batch] for name in names},
        )
        for answer, score in zip(batch, scores, strict=True):
            if score is None:
                raise UserError(f"{self._case(answer)} gave None, which is not a score; return a number for each")
        return scores

    def _one(self, answer: Answer) -> float:
        arguments = self.function.arguments({**answer.columns, "completion_ids": answer.token_ids}, given=2)
        case = self._case(answer)
        with guarded(case):
            score = self.function.call(copy.deepcopy(answer.prompt), answer.text, **copy.deepcopy(arguments))
        number = finite(score)
        if number is None:
            raise UserError(f"{case} gave {printed(score)}, which is not a finite number; correct it")
        return number

    def _case(self, answer: Answer) -> str:
        prompt, completion = text_of(answer.prompt)[:SHOWN], answer.text[:SHOWN]
        return f"{self.function.label} on prompt {prompt!r}, completion {completion!r}"


def judge_conversations(judge: Judge, conversations: "Sequence[Conversation]", name: str) -> list[list[float]]:
    """The scores of each conversation's turns, on every rank; the main process alone calls the judge.

    Args:
        name: of the model, in the progress that is printed.
    """
    answers = [answer for conversation in conversations for answer in conversation.answers()]
    scores = ranks.share(judge.score(answers, _Progress(name, len(answers))) if ranks.is_main() else None)
    each = iter(scores)
    return [[next(each) for _ in conversation.completions] for conversation in conversations]


class _Progress:
    """Prints how many answers are judged, and when the rest will be, every few seconds."""

    def __init__(self, name: str, total: int):
        self.name, self.total, self.last = name, total, 0.0

    def __call__(self, done: int, seconds: float) -> None:
        if seconds - self.last < PROGRESS_SECONDS:
            return
        self.last = seconds
        left = clock(seconds / done * (self.total - done))
        print(f"judge  {self.name}  {done}/{self.total} answers  {left} left", flush=True)


def load_judge(spec: str | Mapping[str, Any], *, batch_size: int = 32) -> Judge:
    """The judge that the config names.

    Args:
        spec: `file.py:function`, `package.module:function`, or a mapping with the function and its parameters.
        batch_size: completions in a call of a judge that takes lists.

    Raises:
        UserError: there is no such file, module or function, or it cannot be loaded.
    """
    return Judge(load_function(spec, KEY), batch_size)

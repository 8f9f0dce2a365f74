"""Reward functions, as TRL's online trainers call them: `function(prompts, completions, **columns) -> list[float]`."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from align.data.tokens.chat_template import Text, text_of
from align.errors import UserError
from align.models.scoring import reward_scores

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RewardFunction = Callable[..., list[float | None]]
SHOWN = 200  # characters of a prompt in an error


class RewardModelFunction:
    """A reward model as a reward function: it reads each prompt and completion through its own tokenizer and template.

    Whatever the policy's tokens are, the reward model sees the text rendered as it was trained on it, and its
    `score_center` is taken off.

    Args:
        name: what its metrics are called by.
        batch_size: texts a forward.
        max_length: tokens of a text; the rest is cut off at its end. None is all.
    """

    def __init__(
        self,
        name: str,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        *,
        batch_size: int = 32,
        max_length: int | None = None,
    ):
        self.__name__ = name
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_length = max_length

    def shard(self, accelerator: "Accelerator") -> None:
        """Keep only this rank's piece of the model, under ZeRO-3."""
        from trl.models import prepare_deepspeed

        self.model = prepare_deepspeed(self.model, accelerator)

    def __call__(self, prompts: list[Text], completions: list[Text], **columns: Any) -> list[float]:
        pairs = list(zip(prompts, completions, strict=True))
        # Neighbours of like length waste little on padding.
        order = sorted(range(len(pairs)), key=lambda one: len(text_of(pairs[one][0])) + len(text_of(pairs[one][1])))
        scores = [0.0] * len(pairs)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            found = reward_scores(
                self.model, self.tokenizer, [pairs[one] for one in batch], max_length=self.max_length
            )
            for one, score in zip(batch, found, strict=True):
                scores[one] = score
        return scores


def checked(function: RewardFunction) -> RewardFunction:
    """`function`, whose errors and whose scores that are no number name it and the prompt.

    None stays: the function does not apply to that completion.

    Raises (when called):
        UserError: it raised, returned another number of scores, or NaN or an infinity.
    """
    if hasattr(function, "checked"):
        return function
    name = getattr(function, "__name__", type(function).__name__)

    def check(scores: Any, prompts: list[Text]) -> list[float | None]:
        scores = list(scores)
        if len(scores) != len(prompts):
            raise UserError(f"reward function {name} gave {len(scores)} scores for {len(prompts)} completions")
        for score, prompt in zip(scores, prompts, strict=True):
            if score is not None and not math.isfinite(score):
                raise UserError(
                    f"reward function {name} gave {float(score)} for the prompt {text_of(prompt)[:SHOWN]!r}: mend it, "
                    "or return None where it does not apply"
                )
        return scores

    def explain(error: Exception, prompts: list[Text]) -> UserError:
        told = f"{type(error).__name__}: {error}"
        return UserError(
            f"reward function {name} raised {told}; the first prompt of its batch: {text_of(prompts[0])[:SHOWN]!r}"
        )

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def call_async(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
            try:
                return check(await function(prompts=prompts, completions=completions, **columns), prompts)
            except UserError:
                raise
            except Exception as error:
                raise explain(error, prompts) from error

        call_async.checked = function
        return call_async

    def call(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
        try:
            return check(function(prompts=prompts, completions=completions, **columns), prompts)
        except UserError:
            raise
        except Exception as error:
            raise explain(error, prompts) from error

    call.__name__ = name
    call.checked = function
    return call

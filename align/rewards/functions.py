"""Reward functions, as TRL's online trainers call them: `function(prompts, completions, **columns) -> list[float]`."""

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from align.data.tokens.chat_template import Text, text_of
from align.errors import UserError
from align.models.scoring import reward_scores
from align.records import shown
from align.rewards.guard import guarded
from align.rewards.user_functions import UserFunction

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RewardFunction = Callable[..., list[float | None]]
SHOWN = 200  # characters of a prompt in an error
FLOAT32_MAX = 3.4028234663852886e38


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


def checked(function: "RewardFunction | UserFunction") -> RewardFunction:
    """`function` as TRL's trainers may call it: it gets what it takes, and its failures and bad scores name it.

    It is called with copies of the lists, so that changing them changes nothing else. A score of None stays: the
    function does not apply to that completion.

    Raises (when called):
        UserError: it raised, tried to end the process, returned another number of scores, or a score that is no
            finite number.
    """
    if hasattr(function, "checked"):
        return function
    if isinstance(function, RewardModelFunction):
        call = _caller_of_model(function)
    else:
        user = function if isinstance(function, UserFunction) else as_user_function(function)
        call = _async_caller(user) if user.is_async else _caller(user)
    call.__name__ = function.name if isinstance(function, UserFunction) else name_of(function)
    call.checked = function
    return call


def as_user_function(function: RewardFunction) -> UserFunction:
    """A function that a script hands over, as one that the config names."""
    name = name_of(function)
    return UserFunction("", f"reward function {name}", name, function)


def name_of(function: RewardFunction) -> str:
    """A function's name in metrics and messages."""
    return getattr(function, "__name__", type(function).__name__)


def call_batched(user: UserFunction, prompts: list[Text], completions: list[Text], **columns: Any) -> list[Any]:
    """What a function that takes lists gives for completions, one score each. Raises UserError as `checked` does."""
    offered = {"prompts": prompts, "completions": completions, **columns}
    with guarded(user.label, _where(prompts)):
        scores = _as_list(user.call(**_copied(user.arguments(offered))))
    return _scores(user.label, scores, prompts)


def _caller(user: UserFunction) -> RewardFunction:
    def call(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
        return call_batched(user, prompts, completions, **columns)

    return call


def _async_caller(user: UserFunction) -> RewardFunction:
    async def call(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
        offered = {"prompts": prompts, "completions": completions, **columns}
        with guarded(user.label, _where(prompts)):
            scores = _as_list(await user.call(**_copied(user.arguments(offered))))
        return _scores(user.label, scores, prompts)

    return call


def _caller_of_model(model: RewardModelFunction) -> RewardFunction:
    def call(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float | None]:
        return _scores(f"reward model {model.__name__}", model(prompts, completions), prompts)

    return call


def _as_list(scores: Any) -> Any:
    """The scores as a list, also of an array or a generator; None and text as they are, to be refused."""
    return scores if scores is None or isinstance(scores, str) else list(scores)


def _scores(label: str, given: Any, prompts: list[Text]) -> list[float | None]:
    """The scores as floats. Raises UserError for another number of them, or what is no finite number."""
    if not isinstance(given, list):
        raise UserError(f"{label} gave {shown(given)}; return a list of one score per completion")
    if len(given) != len(prompts):
        raise UserError(f"{label} gave {len(given)} scores for {len(prompts)} completions; return one for each")
    numbers = [None if score is None else finite(score) for score in given]
    for score, number, prompt in zip(given, numbers, prompts, strict=True):
        if score is not None and number is None:
            raise UserError(
                f"{label} gave {printed(score)} for the prompt {text_of(prompt)[:SHOWN]!r}, which is not a finite "
                "number; correct it, or return None where the function does not apply"
            )
    return numbers


def printed(score: Any) -> str:
    """A bad score in a message: `nan`, `"good"`."""
    return str(score) if isinstance(score, float) else shown(score)


def finite(score: Any) -> float | None:
    """`score` as a number that float32 can hold; None for anything else."""
    try:
        number = math.nan if isinstance(score, str) else float(score)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= FLOAT32_MAX else None


def _where(prompts: list[Text]) -> str:
    return f"; the first prompt of its batch: {text_of(prompts[0])[:SHOWN]!r}" if prompts else ""


def _copied(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with lists of their own; what TRL hands over besides, such as the trainer's state, as it is."""
    return {name: copy.deepcopy(value) if isinstance(value, list) else value for name, value in arguments.items()}

"""Which tokens of a demonstration carry the loss, token for token as TRL's SFTTrainer (1.16) builds its labels.

The words are TRL's: `completion_only_loss` masks the prompt, `assistant_only_loss` what no assistant said, and where
both are set both must agree. What an assistant said is what its chat template puts inside `{% generation %}`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from align.data.tokens.chat_template import apply_template, render
from align.errors import UserError
from align.records import Content, Tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""What opens an assistant's words in a chat template (transformers' `return_assistant_tokens_mask` reads it)."""


@dataclass(frozen=True)
class Loss:
    """On what the loss is; without either word on every token."""

    completion_only: bool = True
    assistant_only: bool = False

    @classmethod
    def of(cls, trainer: Mapping[str, Any]) -> "Loss":
        """As a `trainer:` block says it; unset, the loss is on the completion."""
        completion_only = trainer.get("completion_only_loss")
        return cls(completion_only is None or completion_only, bool(trainer.get("assistant_only_loss")))


ON_COMPLETION = Loss()


def learnt(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Content,
    completion: Content,
    loss: Loss,
    tools: Tools | None = None,
) -> tuple[list[int], list[bool]]:
    """Token ids of a prompt with its completion, and which of them carry the loss.

    Raises:
        UserError: the loss is on what the assistant says, and the template does not mark that.
    """
    if loss.assistant_only and not isinstance(prompt, str):
        ids, said = said_by_assistant(tokenizer, prompt + completion, tools)
        if not loss.completion_only:
            return ids, said
        start = len(render(tokenizer, prompt, completion, tools, chat_template=training_template(tokenizer))[0])
        return ids, [one and position >= start for position, one in enumerate(said)]
    before, after = render(tokenizer, prompt, completion, tools)
    return before + after, [not loss.completion_only] * len(before) + [True] * len(after)


def said_by_assistant(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]], tools: Tools | None = None
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and which of them an assistant said, the end of its turns included."""
    rendered = apply_template(
        tokenizer,
        messages,
        tools,
        chat_template=training_template(tokenizer),
        return_assistant_tokens_mask=True,
    )
    return list(rendered["input_ids"]), [bool(one) for one in rendered["assistant_masks"]]


def training_template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """None where the tokenizer's own template marks what the assistant says, else TRL's for that model family."""
    if GENERATION.search(tokenizer.chat_template):
        return None
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        raise UserError(unmarked(tokenizer.name_or_path or "this model")) from None


def unmarked(name: str) -> str:
    """The sentence on a template that does not tell what the assistant says."""
    return (
        f"trainer.assistant_only_loss: the chat template of {name} does not mark what the assistant says, and TRL "
        "knows no marked one for it; put {% generation %} and {% endgeneration %} around an assistant's message in it"
    )

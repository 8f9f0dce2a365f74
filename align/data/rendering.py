"""How a prompt and a completion become tokens: the one place, and it agrees with TRL's trainers token for token.

Conversational rows go through the tokenizer's chat template, which ends the completion itself. Plain strings are
tokenized together and get the EOS token (`trl` `DPOTrainer._prepare_dataset`, 1.16).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Text = str | list[dict[str, Any]]


def render_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Text, chat_template: str | None = None) -> list[int]:
    """Token ids of a prompt, up to where the completion begins; `chat_template` in place of the tokenizer's own."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    rendered = tokenizer.apply_chat_template(
        prompt, chat_template=chat_template, add_generation_prompt=True, return_dict=True
    )
    return list(rendered["input_ids"])


def render(
    tokenizer: "PreTrainedTokenizerBase", prompt: Text, completion: Text, chat_template: str | None = None
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of its completion, the end of the completion included.

    The completion begins where the tokens of the prompt alone and of both together part: not always after the prompt,
    because a merge may reach across the border.
    """
    prompt_ids = render_prompt(tokenizer, prompt, chat_template)
    if isinstance(prompt, str):
        eos = tokenizer.eos_token or ""
        text = completion if completion.endswith(eos) else completion + eos
        both = list(tokenizer(prompt + text)["input_ids"])
    else:
        whole = prompt + completion
        both = list(tokenizer.apply_chat_template(whole, chat_template=chat_template, return_dict=True)["input_ids"])
    start = 0
    for ours, theirs in zip(prompt_ids, both, strict=False):
        if ours != theirs:
            break
        start += 1
    return both[:start], both[start:]


def end_ids(tokenizer: "PreTrainedTokenizerBase", configured: int | list[int] | None) -> list[int]:
    """Tokens that end a completion: the tokenizer's EOS, those of a generation config, and what ends a turn.

    A base model's EOS ends a document; the chat template that it is then trained with may end an assistant's turn with
    another special token, the first one behind the message.

    Args:
        configured: `eos_token_id` of a generation config.
    """
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    if tokenizer.chat_template is not None:
        prompt, completion = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
        added = tokenizer.added_tokens_decoder
        special = (
            token for token in render(tokenizer, prompt, completion)[1] if token in added and added[token].special
        )
        ends.add(next(special, None))
    return sorted(token for token in ends if token is not None)


def text_of(value: Text) -> str:
    """A prompt or completion as a person reads it: messages joined by line breaks, a single one bare."""
    if isinstance(value, str):
        return value
    if len(value) == 1:
        return value[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in value)

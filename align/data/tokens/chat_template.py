"""How a prompt and a completion become tokens: the one place, and it agrees with TRL's trainers token for token.

Conversational rows go through the tokenizer's chat template, which ends the completion itself and renders the tools
that may be called. Plain strings are tokenized together and get the EOS token (`trl` `DPOTrainer._prepare_dataset`,
1.16).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align.data.chats import SYSTEM_ROLES, folded
from align.data.record_texts import role_problem, sides_of
from align.errors import UserError
from align.records import Message, Record, Tools, as_tools, shown

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

Text = str | list[dict[str, Any]]
Answered = tuple[Text, Text] | tuple[Text, Text, Tools | None]
"""A prompt, an answer to it, and the tools that the answer may call."""


def answered(row: Mapping[str, Any], side: str) -> Answered:
    """The answer under `side` of a row, which may be a trainer's table's, with its prompt and tools."""
    return row["prompt"], row[side], as_tools(row.get("tools"))


def apply_template(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]], tools: Tools | None = None, **options: Any
) -> "BatchEncoding":
    """A conversation through the chat template; `options` are those of transformers' `apply_chat_template`.

    Raises:
        UserError: the template does not take it: other roles, messages without content, or tools that it leaves out.
    """
    from jinja2 import TemplateError

    name = tokenizer.name_or_path or "this model"
    template = options.get("chat_template") or tokenizer.chat_template
    if template is not None and tools is not None and "tools" not in str(template):
        raise UserError(
            f"the chat template of {name} does not render the tools of a record: choose one that does, or leave such "
            "records out (align data make --drop tools)"
        )
    if template is None:
        raise UserError(
            f"the tokenizer of {name} has no chat template: set one, such as model.chat_template=conf/model/chat.jinja"
        )
    try:
        return tokenizer.apply_chat_template(messages, tools=tools, return_dict=True, **options)
    except (TemplateError, TypeError) as error:  # TypeError: a content that is None put beside a string
        raise UserError(
            f"the chat template of {name} refuses the conversation {shown(messages, 160)} ({error}): "
            f"{_remedy(tokenizer, messages, tools, options)}"
        ) from error


def _remedy(
    tokenizer: "PreTrainedTokenizerBase", messages: list[Message], tools: Tools | None, options: dict[str, Any]
) -> str:
    """What makes a conversation fit a template that does not take it."""
    from jinja2 import TemplateError

    if (folded_messages := folded(messages)) != messages:
        try:
            tokenizer.apply_chat_template(folded_messages, tools=tools, return_dict=True, **options)
        except (TemplateError, TypeError):
            pass
        else:
            return (
                "it takes no system message. Set data.fold_system=true to move it into the first user message (align "
                "data check and show: --fold-system)"
            )
    if problem := role_problem(messages):
        return (
            f"the roles do not alternate ({problem}). Leave such records out with data.drop=[role_order], or choose "
            "another template with model.chat_template"
        )
    return "choose another template with model.chat_template, or remove such records from the data"


def check_system(records: Sequence[Record], tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    """Raises UserError where records have system messages, and the chat template leaves them out."""
    conversations = (next(iter(sides_of(record).values())) for record in records)
    first = next((turns for turns in conversations if has_system(turns)), None)
    if first is not None and tokenizer.chat_template is not None and ignores_system(tokenizer, first):
        raise UserError(
            f"{where}: the chat template of {tokenizer.name_or_path or 'this model'} leaves out the system message "
            f"({shown(first[0].get('content'), 60)}): set data.fold_system=true to move it into the first user message"
        )


def has_system(turns: Text) -> bool:
    """Whether a conversation begins with a system message."""
    return not isinstance(turns, str) and turns[0]["role"] in SYSTEM_ROLES and bool(turns[0].get("content"))


def ignores_system(tokenizer: "PreTrainedTokenizerBase", messages: list[Message]) -> bool:
    """Whether the chat template leaves out the system message that a conversation begins with."""
    other = [{**messages[0], "content": "\u2042"}, *messages[1:]]
    rendered = (apply_template(tokenizer, turns)["input_ids"] for turns in (messages, other))
    return next(rendered) == next(rendered)


def render_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Text,
    tools: Tools | None = None,
    *,
    chat_template: str | None = None,
) -> list[int]:
    """Token ids of a prompt, up to where the completion begins; `chat_template` in place of the tokenizer's own."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    options = {"chat_template": chat_template, "add_generation_prompt": True}
    return list(apply_template(tokenizer, prompt, tools, **options)["input_ids"])


def render(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Text,
    completion: Text,
    tools: Tools | None = None,
    *,
    chat_template: str | None = None,
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of its completion, the end of the completion included.

    The completion begins where the tokens of the prompt alone and of both together part: not always after the prompt,
    because a merge may reach across the border.
    """
    prompt_ids = render_prompt(tokenizer, prompt, tools, chat_template=chat_template)
    if isinstance(prompt, str):
        eos = tokenizer.eos_token or ""
        text = completion if completion.endswith(eos) else completion + eos
        both = list(tokenizer(prompt + text)["input_ids"])
    else:
        whole = prompt + completion
        both = list(apply_template(tokenizer, whole, tools, chat_template=chat_template)["input_ids"])
    start = 0
    for ours, theirs in zip(prompt_ids, both, strict=False):
        if ours != theirs:
            break
        start += 1
    return both[:start], both[start:]


def render_text(tokenizer: "PreTrainedTokenizerBase", content: Text, tools: Tools | None = None) -> list[int]:
    """Token ids of a whole text with its EOS, or of a conversation."""
    if isinstance(content, list):
        return list(apply_template(tokenizer, content, tools)["input_ids"])
    eos = tokenizer.eos_token or ""
    return list(tokenizer(content if content.endswith(eos) else content + eos)["input_ids"])


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
        return value[0].get("content") or ""
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in value)

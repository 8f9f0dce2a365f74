"""The tools that a record names or calls: where rows say so, and whether a chat template renders them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from align.data.record_texts import sides_of
from align.errors import UserError
from align.records import Record, Tools, as_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tools_of(row: Mapping[str, Any]) -> Tools | None:
    """The tools that a row names: `tools`, OpenAI's older `functions`, or those of its `input`. Raises RecordError."""
    given = row.get("input")
    for field, place in (("tools", row), ("input.tools", given if isinstance(given, Mapping) else {})):
        if tools := as_tools(place.get("tools"), field):
            return tools
    functions = as_tools(row.get("functions"), "functions")
    return functions and [{"type": "function", "function": one} for one in functions]


def calls_tools(record: Record) -> bool:
    """Whether a message of the record calls a tool."""
    contents = [content for content in sides_of(record).values() if isinstance(content, list)]
    return any(message.get("tool_calls") for content in contents for message in content)


def uses_tools(record: Record) -> bool:
    """Whether a record names tools or calls one."""
    return record.tools is not None or calls_tools(record)


def unrendered(record: Record, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the record names or calls tools, and the chat template does not show them to the model."""
    template = str(tokenizer.chat_template or "")
    return (record.tools is not None and "tools" not in template) or (
        calls_tools(record) and "tool_calls" not in template
    )


def check_tools(records: Sequence[Record], tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    """What a record says of tools reaches the model.

    Raises:
        UserError: the chat template leaves it out, or the records are prompts, whose answers here call no tools.
    """
    if prompts := sum(record.tools is not None for record in records if record.format == "prompt_only"):
        raise UserError(
            f"{where}: {prompts} of {len(records)} prompts name tools, and what a policy answers while it trains "
            "calls none: leave them out, data.drop=[tools]"
        )
    if lost := sum(unrendered(record, tokenizer) for record in records):
        raise UserError(
            f"{where}: {lost} of {len(records)} records name tools or call them, and the chat template of "
            f"{tokenizer.name_or_path or 'this model'} does not render that: give one that does "
            "(model.chat_template), or leave the records out, data.drop=[tools]"
        )

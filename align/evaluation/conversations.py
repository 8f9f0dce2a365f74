"""A policy's answers to held-out prompts, turn by turn: each later question comes after the policy's own answers.

MT-Bench (Zheng et al. 2023, arXiv:2306.05685) asks two questions in a row; most prompts have one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from align.data.tokens.chat_template import Answered, Text, render_prompt
from align.distributed import ranks
from align.evaluation.judges import Answer
from align.models.generation import Completion, generate
from align.records import Prompt, columns_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Conversation:
    """A prompt and what a policy said in each turn.

    Attributes:
        record: the prompt, with its later turns, tools and columns.
        prompts: what was answered in each turn: the conversation so far.
        completions: the answers, one for each turn.
    """

    record: Prompt
    prompts: list[Text] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)

    def next_prompt(self) -> Text | None:
        """What is to be answered next; None after the last turn."""
        turn = len(self.completions)
        if turn == 0:
            return self.record.prompt
        if turn > len(self.record.later_turns):
            return None
        question = {"role": "user", "content": self.record.later_turns[turn - 1]}
        return [*self.prompts[-1], *self.completions[-1].messages, question]

    def add(self, prompt: Text, completion: Completion) -> None:
        """Note a turn."""
        self.prompts.append(prompt)
        self.completions.append(completion)

    def questions(self) -> list[Text]:
        """What the user asked in each turn: the whole prompt first, then one message after the other."""
        return [self.record.prompt, *self.record.later_turns][: len(self.completions)]

    def answers(self) -> list[Answer]:
        """Each turn as a judge sees it; `turn` is a column where there may be more than one."""
        answers = []
        for turn, (prompt, completion) in enumerate(zip(self.prompts, self.completions, strict=True), start=1):
            columns = columns_of(self.record) | ({"turn": turn} if self.record.later_turns else {})
            content = content_of(prompt, completion)
            answers.append(Answer(prompt, completion.text, content, completion.completion_ids, columns))
        return answers

    def answered(self) -> list[Answered]:
        """Each turn as a reward model reads it."""
        pairs = zip(self.prompts, self.completions, strict=True)
        return [(prompt, content_of(prompt, completion), self.record.tools) for prompt, completion in pairs]


def converse(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    records: Sequence[Prompt],
    *,
    context: int | None,
    max_new_tokens: int,
    seed: int,
    **options: Any,
) -> list[Conversation]:
    """Let a policy answer every turn of every prompt.

    A conversation that leaves no room for one more answer ends early, which is printed.

    Args:
        context: tokens that the policy reads at most; None is no limit.
        max_new_tokens: tokens of one answer.
        seed: the same prompts, batches and seed give the same answers.
        options: of `align.models.generation.generate`.
    """
    conversations = [Conversation(record) for record in records]
    open_ = list(conversations)
    turn = 0
    while open_:
        prompts = [conversation.next_prompt() for conversation in open_]
        tools = [conversation.record.tools for conversation in open_]
        completions = generate(
            model, tokenizer, prompts, tools=tools, max_new_tokens=max_new_tokens, seed=seed + turn, **options
        )
        for conversation, prompt, completion in zip(open_, prompts, completions, strict=True):
            conversation.add(prompt, completion)
        unfinished = [conversation for conversation in open_ if conversation.next_prompt() is not None]
        open_ = [one for one in unfinished if _has_room(one, tokenizer, context, max_new_tokens)]
        if len(open_) < len(unfinished) and ranks.is_main():
            print(
                f"evaluate  {len(unfinished) - len(open_)} of {len(records)} conversations end after turn {turn + 1}: "
                "the next one does not fit the model's context",
                flush=True,
            )
        turn += 1
    return conversations


def conversation_tokens(tokenizer: "PreTrainedTokenizerBase", record: Prompt, max_new_tokens: int) -> int:
    """Tokens that the whole conversation takes if every answer is as long as it may be."""
    prompt = record.prompt
    for question in record.later_turns:
        prompt = [*prompt, {"role": "assistant", "content": "."}, {"role": "user", "content": question}]
    return len(render_prompt(tokenizer, prompt, record.tools)) + (1 + len(record.later_turns)) * max_new_tokens


def content_of(prompt: Text, completion: Completion) -> Text:
    """A completion in the kind of its prompt."""
    return completion.text if isinstance(prompt, str) else completion.messages


def _has_room(
    conversation: Conversation, tokenizer: "PreTrainedTokenizerBase", context: int | None, max_new_tokens: int
) -> bool:
    if context is None:
        return True
    tokens = len(render_prompt(tokenizer, conversation.next_prompt(), conversation.record.tools))
    return tokens + max_new_tokens <= context

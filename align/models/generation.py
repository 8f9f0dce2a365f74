"""Completions of a policy, for evaluation and for the sample tables of a run."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from align.data.tokens.chat_template import Text, end_ids, render_prompt
from align.distributed import ranks
from align.distributed.device import device_of
from align.records import Tools

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Completion:
    """What a policy answered.

    Attributes:
        text: decoded, without special tokens.
        prompt_ids, completion_ids: tokens; the completion's include the end token, if it came.
        ended: True if the completion stopped by itself, False if it ran into `max_new_tokens`.
    """

    text: str
    prompt_ids: list[int]
    completion_ids: list[int]
    ended: bool

    @property
    def messages(self) -> list[dict[str, str]]:
        """The completion as conversational data has it."""
        return [{"role": "assistant", "content": self.text}]


@contextlib.contextmanager
def without_checkpointing(model: "torch.nn.Module") -> Iterator[None]:
    """No activation checkpointing in the block; after it each layer checkpoints by the function it had before.

    Generation needs it off, for its cache. TRL's `disable_gradient_checkpointing` enables it anew, and what the layers
    had is lost.
    """
    layers = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: list[Text],
    *,
    tools: Sequence[Tools | None] | None = None,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 32,
    seed: int = 0,
) -> list[Completion]:
    """One completion a prompt, in the prompts' order; ranks share the work and all get the whole list.

    Args:
        tools: those that each prompt may have called.
        temperature: 0 is greedy decoding; 1 samples from the policy itself.
        top_p: nucleus sampling (Holtzman et al. 2020); 1 keeps the whole distribution.
        batch_size: prompts a forward, per rank.
        seed: the same prompts, batches and seed give the same completions.
    """
    import torch
    from transformers import GenerationConfig

    ends = end_ids(tokenizer, model.generation_config.eos_token_id)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        **(sampling if temperature > 0 else {"do_sample": False}),
    )
    named = tools if tools is not None else [None] * len(prompts)
    ids = [render_prompt(tokenizer, prompt, which) for prompt, which in zip(prompts, named, strict=True)]
    # Neighbours of like length waste little on padding.
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))

    def complete(batch: list[int]) -> list[Completion]:
        width = max(len(ids[index]) for index in batch)
        rows = [[tokenizer.pad_token_id] * (width - len(ids[index])) + ids[index] for index in batch]
        mask = [[0] * (width - len(ids[index])) + [1] * len(ids[index]) for index in batch]
        device = device_of(model)
        torch.manual_seed(seed * 1_000_003 + batch[0])
        with torch.no_grad():  # not inference_mode: a training policy must own no inference tensors
            output = model.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
            )
        completions = []
        for index, row in zip(batch, output[:, width:].tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in ends), None)
            tokens = row if end is None else row[: end + 1]
            text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
            completions.append(Completion(text, ids[index], tokens, end is not None))
        return completions

    with _plain(model):
        done = ranks.map_batches(complete, order, batch_size)
    by_index = dict(zip(order, done, strict=True))
    return [by_index[index] for index in range(len(prompts))]


@contextlib.contextmanager
def _plain(model: "PreTrainedModel") -> Iterator[None]:
    """Keep out of generation what the model's configs ask for beside: penalties, and a mixture's router logits.

    SFT's trainer has the model return router logits; with a cache their loss fails (transformers 5.23).
    """
    from transformers import GenerationConfig

    holders = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    own = model.generation_config
    text_config = model.config.get_text_config()
    router_logits = getattr(text_config, "output_router_logits", None)
    for holder in holders:
        holder.generation_config = GenerationConfig()
    if router_logits:
        text_config.output_router_logits = False
    try:
        yield
    finally:
        for holder in holders:
            holder.generation_config = own
        if router_logits:
            text_config.output_router_logits = router_logits

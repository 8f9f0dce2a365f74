"""Tiny random models of published families, each with a tokenizer and a chat template in that family's style.

The architectures have the features of their families: grouped-query attention, sliding windows, experts, tied
embeddings, soft caps. The tokenizers are byte-level BPE with the family's special tokens, its way with BOS and
padding, and the chat template that TRL ships for it, or one written here after the published one.
"""

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
CORPUS = ["say axe bee cow dog elk and hear elk dog cow bee axe", "fig gum hat ink jar kit log map nut owl"] * 8

# After mistralai/Mistral-7B-Instruct-v0.1: no system turn, turns alternate, BOS once, EOS after each answer.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        config: fields of the transformers config, `model_type` among them, beside `SHAPE`.
        special_tokens: role -> token; roles without `_token` are additional special tokens.
        template: the name of a template that TRL ships, or the text of one.
        adds_bos: the tokenizer puts BOS in front of every text.
        generation: fields of the generation config.
    """

    config: dict[str, Any]
    special_tokens: dict[str, str]
    template: str
    adds_bos: bool = False
    generation: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    # No pad token of its own; the published instruct models end a turn with <|eot_id|>.
    "llama": Family(
        {"model_type": "llama", "tie_word_embeddings": True},
        {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "end_of_text": "<|end_of_text|>",
            "header": "<|start_header_id|>",
            "header_end": "<|end_header_id|>",
        },
        "llama3",
        adds_bos=True,
    ),
    # No BOS at all.
    "qwen3": Family(
        {"model_type": "qwen3"},
        {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "start": "<|im_start|>"},
        "qwen3",
    ),
    # A window shorter than the rows, no pad token, no system turn.
    "mistral": Family(
        {"model_type": "mistral", "sliding_window": 8},
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        MISTRAL,
        adds_bos=True,
    ),
    # Experts; padding with EOS.
    "mixtral": Family(
        {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"},
        MISTRAL,
        adds_bos=True,
    ),
    # Every second layer with a window, soft caps, no system turn, an end of turn that is not EOS.
    "gemma2": Family(
        {"model_type": "gemma2", "sliding_window": 8, "query_pre_attn_scalar": 16},
        {
            "pad_token": "<pad>",
            "eos_token": "<eos>",
            "bos_token": "<bos>",
            "start": "<start_of_turn>",
            "end": "<end_of_turn>",
        },
        "gemma",
        adds_bos=True,
    ),
    "gemma3": Family(
        {"model_type": "gemma3_text", "sliding_window": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16},
        {
            "pad_token": "<pad>",
            "eos_token": "<eos>",
            "bos_token": "<bos>",
            "start": "<start_of_turn>",
            "end": "<end_of_turn>",
        },
        "gemma3",
        adds_bos=True,
    ),
}


def write_family(folder: Path, name: str) -> Path:
    """A model of a family with random weights, as its publisher would put it on the Hub."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    from align.models.train_tokenizer import train_tokenizer

    family = FAMILIES[name]
    tokenizer = train_tokenizer(CORPUS, vocab_size=320, special_tokens=family.special_tokens)
    if family.adds_bos:
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]} $B", special_tokens=[bos]
        )
    shipped = files("trl") / "chat_templates" / f"{family.template}.jinja"
    tokenizer.chat_template = shipped.read_text("utf-8") if shipped.is_file() else family.template
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(**{**SHAPE, **family.config, **ids, "vocab_size": len(tokenizer)})
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

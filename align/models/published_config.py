"""The config files of a published model: those of the model that was loaded, plus what the stage means to change.

Trainers write their own settings into the config of the model: transformers 5.23 turns `use_cache` off, and TRL 1.16's
SFT trainer asks a mixture of experts for its router logits, with which generation fails. Neither belongs to the model.
"""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from align.data.tokens.chat_template import end_ids

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# What a stage means to change after loading: how the weights are stored, and what its artifact adds.
_INTENDED = {"architectures", "dtype", "score_center", "transformers_version", "vocab_size"}
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def remember_configs(model: "PreTrainedModel") -> None:
    """Prepare the configs of a model that was just loaded, and keep a copy of them for when it is published.

    Router logits are switched off: only a trainer's loss reads them, and it asks for them itself. Sampling settings
    that the generation config contradicts (`temperature` without `do_sample`) are set aside, because transformers
    ignores them in `generate` and then refuses to save the model.
    """
    text_config = model.config.get_text_config()
    if getattr(text_config, "output_router_logits", False):
        text_config.output_router_logits = False
    generation = getattr(model, "generation_config", None)
    model.configs_as_loaded = SimpleNamespace(
        config=copy.deepcopy(model.config), generation_config=copy.deepcopy(generation)
    )
    if generation is not None and not _is_valid(generation):
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig(**{name: getattr(generation, name) for name in _TOKEN_IDS})


def write_configs(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write `config.json`, where there is one, and `generation_config.json` of a model that was saved in `folder`.

    Args:
        model: the trained model, or a PEFT model of one.
        tokenizer: the one published with it, whose special tokens the configs name.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    loaded = getattr(whole, "configs_as_loaded", None)
    if (folder / "config.json").is_file():
        config = copy.deepcopy(whole.config)
        if loaded is not None:
            _restore(config, loaded.config)
            _restore(config.get_text_config(), loaded.config.get_text_config())
        if config.get_text_config().pad_token_id is None:
            config.get_text_config().pad_token_id = tokenizer.pad_token_id
        config.save_pretrained(str(folder))
    generation = loaded.generation_config if loaded is not None else getattr(whole, "generation_config", None)
    if generation is not None:
        published = _generation_config(generation, tokenizer)
        # not save_pretrained, which refuses what a publisher may have written
        published.to_json_file(str(folder / "generation_config.json"), keys_to_pop=["compile_config"])


def _restore(config: "PreTrainedConfig", loaded: "PreTrainedConfig") -> None:
    """Give the fields of `config` that a trainer changed the values that they were loaded with.

    The id of a special token stays changed where the one that was loaded is another token than the tokenizer's.
    """
    nested = set(config.sub_configs)
    for name in {*config.to_dict(), *loaded.to_dict()} - _INTENDED - nested:
        was, now = getattr(loaded, name, None), getattr(config, name, None)
        if name in _TOKEN_IDS:
            ids = was if isinstance(was, list) else [was]
            if now not in ids and not (isinstance(now, list) and set(now) == set(ids)):
                continue
        if was != now:
            setattr(config, name, was)


def _generation_config(loaded: "GenerationConfig", tokenizer: "PreTrainedTokenizerBase") -> "GenerationConfig":
    """How the model generates: it stops at the tokenizer's EOS and where its chat template ends a turn."""
    config = copy.deepcopy(loaded)
    ends = end_ids(tokenizer, config.eos_token_id)
    config.eos_token_id = ends[0] if len(ends) == 1 else ends
    config.pad_token_id = tokenizer.pad_token_id
    return config


def _is_valid(config: "GenerationConfig") -> bool:
    """Whether transformers would save the generation config."""
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True

"""Models and tokenizers: from disk, from nothing, and back to disk.

Weights are safetensors only. Whatever is saved here loads with `from_pretrained` by someone who has never heard of
align: weights, config, generation config, tokenizer and chat template are in one folder.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align import adapters, contract, distributed
from align.artifacts.headers import tensor_shapes
from align.errors import UserError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

PICKLES = ("training_args.bin", "pytorch_model.bin", "adapter_model.bin")


def load_tokenizer(
    path: Path | str,
    *,
    chat_template: str | None = None,
    pad_token: str | None = None,
    trust_remote_code: bool = False,
) -> "PreTrainedTokenizerBase":
    """The tokenizer in `path`, with padding it can use.

    Args:
        path: a model folder.
        chat_template: text of a Jinja template, for a tokenizer that has none.
        pad_token: a token of the vocabulary, for a tokenizer that names none.

    Raises:
        UserError: no EOS, or no pad token and none given, or one outside the vocabulary.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {path} has no EOS token, so no completion could ever end; use another model"
        )
    if tokenizer.pad_token_id is None:
        if pad_token is None:
            raise UserError(
                f"the tokenizer of {path} has no pad token; name one of its vocabulary, "
                f"for instance model.pad_token='\"{tokenizer.eos_token}\"'"
            )
        if pad_token not in tokenizer.get_vocab():
            raise UserError(f"model.pad_token={pad_token!r} is not in the vocabulary of {path}; name a token that is")
        tokenizer.pad_token = pad_token
    if chat_template is not None and tokenizer.chat_template is None:
        tokenizer.chat_template = chat_template
    return tokenizer


def train_tokenizer(texts: list[str], *, vocab_size: int, special_tokens: dict[str, str]) -> "PreTrainedTokenizerBase":
    """A byte-level BPE tokenizer (Radford et al. 2019) learned from `texts`.

    Args:
        texts: the corpus; the result depends on nothing else.
        vocab_size: tokens, the 256 bytes and the special ones included.
        special_tokens: role -> token; `eos_token`, `pad_token`, `bos_token`, `unk_token` take transformers' roles, any
            other role (such as `user`, `assistant`) is an additional special token for the chat template.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    roles = {role: token for role, token in special_tokens.items() if role.endswith("_token")}
    extra = [token for role, token in special_tokens.items() if not role.endswith("_token")]
    return PreTrainedTokenizerFast(tokenizer_object=bpe, additional_special_tokens=extra, **roles)


def build_model(architecture: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", *, seed: int) -> "PreTrainedModel":
    """A causal language model with random weights.

    Args:
        architecture: `model_type` and any field of that model's transformers config.
        tokenizer: gives the vocabulary size and the special ids.
        seed: of the initial weights.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    fields = dict(architecture)
    config = AutoConfig.for_model(
        fields.pop("model_type"),
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **fields,
    )
    set_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def load_policy(path: Path | str, *, lora: "LoraConfig | None" = None, **options: Any) -> "PreTrainedModel":
    """The policy that a stage trains.

    A folder of whole weights gives those weights. A folder with an adapter gives, with `lora`, its base with that
    adapter trainable on it, and, without, the two merged: a full fine-tune of what the adapter made.
    """
    if not adapters.is_adapter(Path(path)):
        return load_whole(path, **options)
    base = adapters.base_path(Path(path))
    if lora is None:
        with unpartitioned():
            return adapters.merge(load_whole(base, **options), Path(path))
    from peft import PeftModel

    return PeftModel.from_pretrained(load_whole(base, **options), str(path), is_trainable=True)


def load_frozen(path: Path | str, **options: Any) -> "PreTrainedModel":
    """A model that is only read: a reference, a baseline, a model under evaluation. Dropout off, no gradients."""
    model = load_policy(path, lora=None, **options)
    model.eval()
    model.requires_grad_(False)
    return model


def load_reward_model(
    path: Path | str, *, lora: "LoraConfig | None" = None, head: str = "keep", seed: int = 0, **options: Any
) -> "PreTrainedModel":
    """A sequence classifier with one output, the score of a prompt with its completion.

    Args:
        path: a reward model (`head="keep"`) or a language model whose body it shall have (`head="new"`).
        lora: train an adapter, and the head, on the frozen body.
        head: `new` draws one; `keep` demands the one that was trained.
        seed: of a new head.

    Raises:
        UserError: `keep`, and no head was saved in `path`.
    """
    from transformers import AutoModelForSequenceClassification as Classifier
    from transformers import set_seed

    set_seed(seed)
    folder = Path(path)
    if not adapters.is_adapter(folder):
        if head == "keep" and not has_score_head(folder):
            raise UserError(f"{path} has no reward head (no `score` weights); train one: stage=reward")
        return load_whole(path, auto_class=Classifier, num_labels=1, **options)
    if head == "keep" and not has_score_head(folder):
        raise UserError(f"the adapter in {path} has no reward head (no `score` weights); train one: stage=reward")
    with unpartitioned():
        base = load_whole(adapters.base_path(folder), auto_class=Classifier, num_labels=1, **options)
        if head == "keep" or lora is None:
            return adapters.merge(base, folder)
        return adapters.graft(base, folder, lora)


def load_whole(
    path: Path | str,
    *,
    auto_class: Any = None,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    quantization_config: Any = None,
    **config_fields: Any,
) -> "PreTrainedModel":
    """Whole weights from a folder or hub id, safetensors only.

    Args:
        auto_class: a transformers Auto class, `AutoModelForCausalLM` if None.
        dtype: torch's name of the weights' type.
    """
    import torch
    from transformers import AutoModelForCausalLM

    optional = {"attn_implementation": attn_implementation, "quantization_config": quantization_config}
    with _quiet_new_head():
        return (auto_class or AutoModelForCausalLM).from_pretrained(
            str(path),
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **{key: value for key, value in optional.items() if value is not None},
            **config_fields,
        )


@contextlib.contextmanager
def unpartitioned() -> Iterator[None]:
    """Load whole tensors in the block even when ZeRO-3 would partition them while reading.

    Merging needs whole weights, and what only one rank loads must not wait for the others. DeepSpeed partitions such
    a model when training begins.
    """
    from transformers.integrations import deepspeed as integration

    config = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = config


def _quiet_new_head():
    """A fresh `score` head is what a reward stage asks for; TRL silences the warning in the same way."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    return suppress_seqcls_warning()


def has_score_head(path: Path) -> bool:
    """True if the weights in `path` hold a `score` head, read from the safetensors headers alone."""
    return any("score" in name.split(".") for name in tensor_shapes(path))


def save_model(trainer: "Trainer", folder: Path) -> None:
    """Save the trained model, its tokenizer and chat template to `folder`; all ranks call this, one writes.

    Under ZeRO-3 the weights are gathered; a tensor that came out empty is a bug and raises. Pickled leftovers of the
    trainer are removed.

    An adapter is saved without the reference copy that TRL keeps beside it.
    """
    from transformers.modeling_utils import unwrap_model

    model = unwrap_model(trainer.model)
    if hasattr(model, "peft_config") and "ref" in model.peft_config:
        model.delete_adapter("ref")
    trainer.save_model(str(folder))
    if distributed.is_main():
        trainer.processing_class.save_pretrained(str(folder))
        for pickle in PICKLES:
            (folder / pickle).unlink(missing_ok=True)
        (folder / "README.md").unlink(missing_ok=True)
        empty = [name for name, shape in tensor_shapes(folder).items() if 0 in shape]
        if empty:
            raise RuntimeError(f"{len(empty)} tensors were saved empty, the first is {empty[0]}")
    distributed.barrier()


def save_merged(folder: Path, load: Any, *, score: bool = False) -> None:
    """Replace the adapter in `folder` by base and adapter merged, in place; the main process works, all wait.

    Args:
        load: gives the merged model from a folder: `load_policy` or `load_reward_model` with their options.
    """
    if distributed.is_main():
        with unpartitioned():
            merged = load(folder)
        merged.save_pretrained(str(folder))
        for file in (adapters.ADAPTER_CONFIG, "adapter_model.safetensors"):
            (folder / file).unlink()
    distributed.barrier()


def context_length(path: Path) -> int | None:
    """Tokens that the model in `path`, or the base of the adapter there, was built for; None for no limit."""
    return contract.context_length(Path(adapters.base_path(path)) if adapters.is_adapter(path) else path)


def device_of(model: "PreTrainedModel") -> "torch.device":
    """Where inputs for `model` belong."""
    return next(model.parameters()).device

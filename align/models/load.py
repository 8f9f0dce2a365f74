"""Models and tokenizers as a stage gets them: loaded from a folder, safetensors only, or drawn at random."""

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.model_files import tensor_shapes
from align.artifacts.model_json import read_json
from align.artifacts.tokenizer_files import special_tokens
from align.contract.tokenizers import no_pad_token
from align.errors import UserError
from align.models import adapters
from align.models.memory import is_out_of_memory
from align.models.published_config import remember_configs
from align.models.reward_probe import check_finite

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Written next to a reward adapter, which has no config.json; a whole model keeps the number in its config.
SCORE_CENTER = "score_center.json"


def load_tokenizer(
    path: Path | str,
    *,
    chat_template: str | None = None,
    pad_token: str | None = None,
    replace_template: bool = False,
    trust_remote_code: bool = False,
) -> "PreTrainedTokenizerBase":
    """The tokenizer in `path`, with padding it can use.

    Args:
        path: a model folder.
        chat_template: text of a Jinja template, for a tokenizer that has none.
        pad_token: a token of the vocabulary, for a tokenizer that names none.
        replace_template: `chat_template` also in place of one that there is.

    Raises:
        UserError: no EOS, or no pad token and none given, or one outside the vocabulary.
    """
    from transformers import AutoTokenizer

    with _explained(path, "AutoTokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {path} has no EOS token, so no completion could ever end; use another model"
        )
    if tokenizer.pad_token_id is None:
        if pad_token is None:
            raise UserError(no_pad_token(str(path), tokenizer.eos_token))
        if pad_token not in tokenizer.get_vocab():
            raise UserError(f"model.pad_token={pad_token!r} is not in the vocabulary of {path}; name a token that is")
        tokenizer.pad_token = pad_token
    if chat_template is not None and (tokenizer.chat_template is None or replace_template):
        tokenizer.chat_template = chat_template
    return tokenizer


def build_model(architecture: dict[str, Any], tokenizer: "PreTrainedTokenizerBase", *, seed: int) -> "PreTrainedModel":
    """A causal language model with random weights, the same under ZeRO-3 as without: every rank draws it whole.

    Args:
        architecture: `model_type` and any field of that model's transformers config.
        tokenizer: gives the vocabulary size and the special ids.
        seed: of the initial weights.

    Raises:
        UserError: an unknown model type or field, or values that do not go together.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    fields = dict(architecture)
    kind = fields.pop("model_type", None)
    try:
        known = AutoConfig.for_model(kind)
    except ValueError:
        raise UserError(f"model.new.architecture.model_type={kind} is not one of transformers', as gpt2 is") from None
    names = {*known.to_dict(), *known.attribute_map}
    for name in fields:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"model.new.architecture.{name} is no field of {type(known).__name__}{hint}")
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **fields,
    )
    set_seed(seed)
    with _explained(f"model.new.architecture ({kind})", "AutoModelForCausalLM"), unpartitioned():
        model = AutoModelForCausalLM.from_config(config)
    remember_configs(model)
    return model


def load_policy(
    path: Path, *, lora: "LoraConfig | None" = None, merged: bool = True, **options: Any
) -> "PreTrainedModel":
    """The policy that a stage trains.

    A folder of whole weights gives those weights. A folder with an adapter gives, with `lora`, its base with that
    adapter trainable on it, and, without, the two merged: a full fine-tune of what the adapter made.

    Args:
        merged: False leaves an adapter that is not trained on its base as it is, for a base that is quantized.
    """
    if not is_adapter(path):
        return load_whole(path, **options)
    base = resolve_base(path, code=options.get("trust_remote_code", False)).path
    if lora is None and not merged:
        return adapters.attach_frozen(load_whole(base, **options), path)
    if lora is None:
        with unpartitioned():
            return adapters.merge(load_whole(base, **options), path)
    return adapters.attach(load_whole(base, **options), path, lora)


def load_frozen(path: Path, **options: Any) -> "PreTrainedModel":
    """A model that is only read: a reference, a baseline, a model under evaluation. Dropout off, no gradients."""
    model = load_policy(path, lora=None, **options)
    model.eval()
    model.requires_grad_(False)
    return model


def load_reward_model(
    path: Path,
    *,
    lora: "LoraConfig | None" = None,
    head: str = "keep",
    seed: int = 0,
    merged: bool = True,
    **options: Any,
) -> "PreTrainedModel":
    """A sequence classifier with one output, the score of a prompt with its completion.

    Its `config.score_center`, where it has one, is what to take from each output.

    Args:
        path: a reward model (`head="keep"`) or a language model whose body it shall have (`head="new"`).
        lora: train an adapter, and the head, on the frozen body; an adapter in `path` is then trained further. Without
            it an adapter in `path` is merged, or left on its base where `merged` is False.
        head: `new` draws one where there is none; `keep` demands the one that was trained.
        seed: of a new head.

    Raises:
        UserError: `keep`, and no head was saved in `path`.
    """
    from transformers import AutoModelForSequenceClassification as Classifier

    has_head = has_score_head(path)
    if head == "keep" and not has_head:
        raise UserError(f"{path} has no reward head (no `score` weights); train one: stage=reward")
    if not is_adapter(path):
        model = load_whole(path, auto_class=Classifier, num_labels=1, **options)
        return model if has_head else _draw_head(model, seed)
    with unpartitioned():
        base_path = resolve_base(path, code=options.get("trust_remote_code", False)).path
        base = load_whole(base_path, auto_class=Classifier, num_labels=1, **options)
    if not has_score_head(base_path):
        _draw_head(base, seed)
    if lora is None:
        model = adapters.merge(base, path) if merged else adapters.attach_frozen(base, path)
    elif has_head:
        model = adapters.attach(base, path, lora)
    else:
        model = adapters.graft(base, path, lora)
    if center := read_score_center(path):
        model.config.score_center = center
    text_config = model.config.get_text_config()
    if text_config.pad_token_id is None and "pad_token" in (named := special_tokens(path)):
        text_config.pad_token_id = named["pad_token"][1]  # the base's config may name none, and a batch needs one
    return model


def _draw_head(model: "PreTrainedModel", seed: int) -> "PreTrainedModel":
    """Draw the `score` head on the CPU, by transformers' rule for the model's linear layers.

    ZeRO-3 and a quantized base make it on the GPU, whose generator gives other numbers for the same seed.
    """
    import torch
    from transformers import set_seed
    from transformers.integrations import is_deepspeed_zero3_enabled

    whole: contextlib.AbstractContextManager = contextlib.nullcontext()
    weight = model.score.weight
    if is_deepspeed_zero3_enabled():
        import deepspeed

        whole = deepspeed.zero.GatheredParameters([weight], modifier_rank=0)
    with whole, torch.no_grad():
        head = torch.nn.utils.skip_init(torch.nn.Linear, weight.shape[1], weight.shape[0], bias=False, device="cpu")
        set_seed(seed)
        model._init_weights(head)
        weight.copy_(head.weight)
    return model


def read_score_center(folder: Path) -> float:
    """What is taken off each score of the reward adapter in `folder`."""
    return read_json(folder / SCORE_CENTER).get("score_center", 0.0)


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

    Raises:
        UserError: weights are missing (a `score` head may be, and is then drawn), or transformers cannot load them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kind = auto_class or AutoModelForCausalLM
    optional = {"attn_implementation": attn_implementation, "quantization_config": quantization_config}
    with _explained(path, kind.__name__), _quiet_new_head():
        model, report = kind.from_pretrained(
            str(path),
            output_loading_info=True,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **{key: value for key, value in optional.items() if value is not None},
            **config_fields,
        )
    missing = sorted(name for name in report["missing_keys"] if "score" not in name.split("."))
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} weights of a {type(model).__name__}, the first is {missing[0]}: it is "
            "another kind of model, or damaged"
        )
    if quantization_config is not None:
        adapters.check_blocks(model, path)
        adapters.keep_gradients(model)
    check_finite(model, path, "it is damaged, or comes from a run that diverged: name another")
    remember_configs(model)
    return model


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


@contextlib.contextmanager
def _explained(path: Path | str, kind: str) -> Iterator[None]:
    """What transformers will not load, in a sentence: an unknown architecture, a package it lacks, damaged files."""
    try:
        yield
    except Exception as error:
        # Whatever the files of a model make transformers stumble over; what the machine lacks is said elsewhere.
        is_of_the_system = isinstance(error, OSError) and error.errno is not None
        if isinstance(error, UserError) or is_of_the_system or is_out_of_memory(error):
            raise
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{path} comes with Python code of its own, which runs only with model.trust_remote_code=true: "
                "read it first"
            ) from error
        why = " ".join(str(error).split()).split(". ")[0]
        kind_of_error = "" if isinstance(error, ValueError | ImportError | OSError) else f"{type(error).__name__}: "
        raise UserError(f"transformers cannot load {path} as {kind}: {kind_of_error}{why}") from error


def _quiet_new_head():
    """A fresh `score` head is what a reward stage asks for; TRL silences the warning in the same way."""
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    return suppress_seqcls_warning()


def has_score_head(path: Path) -> bool:
    """True if the weights in `path` hold a `score` head, read from the safetensors headers alone."""
    return any("score" in name.split(".") for name in tensor_shapes(path))

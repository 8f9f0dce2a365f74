"""A tokenizer for a model from scratch, trained on its corpus."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, special_tokens: dict[str, str]
) -> "PreTrainedTokenizerBase":
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

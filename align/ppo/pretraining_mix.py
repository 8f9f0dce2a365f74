"""The pretraining mix: texts whose language-modeling loss is added to PPO's.

InstructGPT's PPO-ptx: Ouyang et al. 2022 (arXiv:2203.02155), eq. 2, second term.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextMix:
    """Texts in their order, pass after pass, dealt out to minibatches, micro-batches and ranks by number alone.

    A text is tokenized when its minibatch comes, so a set may be larger than memory.

    Args:
        texts: what is mixed in; each gets the EOS token. Empty ones are left out.
        max_length: tokens of a text; the rest is cut off.
        batch_size: texts per micro-batch of a rank.
        accumulation, ranks: micro-batches per minibatch, processes.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_length: int,
        batch_size: int,
        accumulation: int,
        ranks: int,
    ):
        self._texts, self._tokenizer, self._max_length = texts, tokenizer, max_length
        self._filled = np.flatnonzero(np.fromiter(map(bool, texts), bool, len(texts)))
        self.batch_size, self.accumulation, self.ranks = batch_size, accumulation, ranks
        self._minibatch = lru_cache(maxsize=1)(self._tokenize_minibatch)

    def __len__(self) -> int:
        return len(self._filled)

    def micro_batch(self, step: int, rank: int) -> list[list[int]]:
        """Token ids of the texts in micro-batch `step` (counted from the start of the run) of a rank."""
        place = (step % self.accumulation * self.ranks + rank) * self.batch_size
        return self._minibatch(step // self.accumulation)[place : place + self.batch_size]

    def tokens(self, step: int) -> int:
        """Scored tokens in the whole minibatch that micro-batch `step` belongs to."""
        return sum(len(ids) - 1 for ids in self._minibatch(step // self.accumulation))

    def _tokenize_minibatch(self, number: int) -> list[list[int]]:
        size = self.batch_size * self.accumulation * self.ranks
        places = range(number * size, (number + 1) * size) if len(self) else ()
        texts = (self._texts[int(self._filled[place % len(self)])] for place in places)
        return [
            self._tokenizer(text)["input_ids"][: self._max_length - 1] + [self._tokenizer.eos_token_id]
            for text in texts
        ]

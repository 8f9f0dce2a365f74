"""The pretraining mix: texts whose language-modeling loss is added to PPO's.

InstructGPT's PPO-ptx: Ouyang et al. 2022 (arXiv:2203.02155), eq. 2, second term.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextMix:
    """Texts in their order, pass after pass, dealt out to minibatches, micro-batches and ranks by number alone.

    Args:
        texts: what is mixed in; each gets the EOS token.
        max_length: tokens of a text; the rest is cut off.
        batch_size: texts a micro-batch of a rank.
        accumulation, ranks: micro-batches a minibatch, processes.
    """

    def __init__(
        self,
        texts: list[str],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_length: int,
        batch_size: int,
        accumulation: int,
        ranks: int,
    ):
        ids = [tokenizer(text)["input_ids"][: max_length - 1] + [tokenizer.eos_token_id] for text in texts]
        self.ids = [one for one in ids if len(one) > 1]
        self.batch_size, self.accumulation, self.ranks = batch_size, accumulation, ranks

    def micro_batch(self, step: int, rank: int) -> list[list[int]]:
        """Token ids of the texts in micro-batch `step` (counted from the run's begin) of a rank."""
        place = (step % self.accumulation * self.ranks + rank) * self.batch_size
        return self._minibatch(step)[place : place + self.batch_size]

    def tokens(self, step: int) -> int:
        """Scored tokens in the whole minibatch that micro-batch `step` belongs to."""
        return sum(len(ids) - 1 for ids in self._minibatch(step))

    def _minibatch(self, step: int) -> list[list[int]]:
        size = self.batch_size * self.accumulation * self.ranks
        first = step // self.accumulation * size
        return [self.ids[number % len(self.ids)] for number in range(first, first + size)] if self.ids else []

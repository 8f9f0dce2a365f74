"""Logits that are numbers, looked at while a completion is sampled."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from align.distributed import ranks
from align.errors import UserError


class FiniteLogits(LogitsProcessor):
    """Remembers whether logits were numbers, and lets a generation without any come to its end.

    Sampling from them would end in an error of the device's own, which on CUDA takes the process along.
    """

    def __init__(self, device: torch.device):
        self._highest = torch.full((), -torch.inf, device=device)  # NaN once anything was

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._highest = torch.maximum(self._highest, scores.amax().float())
        return torch.nan_to_num(scores, nan=0.0, neginf=-torch.inf)

    def check(self, steps: int) -> None:
        """Look at what was remembered, all ranks together.

        Args:
            steps: optimizer steps taken so far.

        Raises:
            UserError: on any rank a logit was NaN or infinite.
        """
        if ranks.any_rank(not bool(self._highest.isfinite())):
            raise UserError(
                f"after {steps} steps the policy's logits are no numbers. The last checkpoint is good; look at "
                "trainer.learning_rate, trainer.max_grad_norm and the curve of grad_norm before it"
            )

"""The numbers of an update: summed over tokens and ranks a minibatch, averaged over the minibatches of a rollout."""

import contextlib
import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from align.errors import UserError

# Sums over the tokens of a minibatch, and the metric each becomes.
METRICS = {
    "policy": "loss/policy_avg",
    "value": "loss/value_avg",
    "kl": "loss/kl_avg",
    "approxkl": "policy/approxkl_avg",
    "clipped": "policy/clipfrac_avg",
    "entropy": "policy/entropy_avg",
    "value_clipped": "val/clipfrac_avg",
    "ratio": "val/ratio",
    "ptx": "loss/ptx_avg",
}
PHASES = ("rollout", "scoring", "update")


class Update:
    """Collects what the minibatches of one rollout have to tell, and where the time went."""

    def __init__(self) -> None:
        self.minibatches: list[dict[str, float]] = []
        self._sums = torch.zeros(len(METRICS), dtype=torch.float64)
        self._began = time.perf_counter()
        self._spent = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def timing(self, phase: str) -> Iterator[None]:
        """Count the block's time as that of `phase`."""
        before = time.perf_counter()
        yield
        self._spent[phase] += time.perf_counter() - before

    def add(self, **per_token: Tensor) -> None:
        """Take in a micro-batch's numbers, one a token."""
        self._sums += torch.stack([per_token[name].detach().double().sum().cpu() for name in METRICS])

    def take_sums(self, device: torch.device) -> Tensor:
        """What was added since the last call, to be summed over the ranks."""
        sums = self._sums.float().to(device)
        self._sums.zero_()
        return sums

    def end_minibatch(self, sums: list[float], *, tokens: int, text_tokens: int) -> dict[str, float]:
        """Means of a minibatch from the sums of all ranks.

        Args:
            tokens, text_tokens: scored tokens of its completions, and of its pretraining texts.

        Raises:
            UserError: a loss is no number.
        """
        found = {name: value / tokens for name, value in zip(METRICS, sums, strict=True)}
        found["ptx"] *= tokens / max(text_tokens, 1)
        if not math.isfinite(found["policy"] + found["value"] + found["ptx"]):
            raise UserError(
                f"a loss is no number (policy {found['policy']}, value {found['value']}, ptx {found['ptx']}): the "
                "last checkpoint is good; look at trainer.learning_rate, trainer.max_grad_norm and objective/scores"
            )
        self.minibatches.append(found)
        return found

    def metrics(self, tokens: int) -> dict[str, float]:
        """Means over the minibatches, each phase's share of the time since the rollout began, and tokens a second.

        Args:
            tokens: of the rollout's prompts and completions.
        """
        count = len(self.minibatches)
        means = {METRICS[name]: math.fsum(one[name] for one in self.minibatches) / count for name in METRICS}
        whole = max(time.perf_counter() - self._began, 1e-9)
        spent = self._spent | {"update": whole - self._spent["rollout"] - self._spent["scoring"]}
        shares = {f"time/{phase}": spent[phase] / whole for phase in PHASES}
        return means | shares | {"time/tokens_per_second": tokens / whole}

"""The reference really is what the config names: where it is the policy as it came in, both say the same at step 0.

A log-ratio, or a KL, that is not zero then is a reference of other weights, another template, or an adapter that is
switched on where it should be off; and DPO's sigmoid loss, log 2 where nothing is preferred yet, is not that.
"""

import math
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.distributed import ranks
from align.errors import UserError

# Nats of a log-ratio of whole completions: sums of hundreds of terms, each rounded in the type it is computed in.
TOLERANCE = {"fp32": 1e-2, "16 bits": 0.5}


class SameAtStart(TrainerCallback):
    """Before the first optimizer step, checks that the policy's log-ratios to the reference are zero.

    It reads the rewards, or the KL of an online stage, that were computed of the first batch, so it costs nothing. Not
    for a resumed run, whose policy has moved.

    Args:
        trainer: DPO's or KTO's trainer, or an online one, whose policy began as its reference.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ):
        if state.global_step or has_dropout(self.trainer.model):
            return
        beta = abs(getattr(args, "beta", 0.0))  # by which DPO and KTO multiply the log-ratios in their metrics
        largest = max((abs(ratio) for ratio in self._log_ratios(beta)), default=0.0)
        tolerance = TOLERANCE["16 bits" if args.bf16 or args.fp16 else "fp32"]
        loss = float(self.trainer._tr_loss)
        off = ""
        if beta and self._is_log_2() and abs(loss - math.log(2)) > beta * tolerance:
            off = f", and the loss is {loss:.4g} where it should be log 2"
        if ranks.any_rank(largest > tolerance or bool(off)):
            raise UserError(
                f"the policy begins as its own reference, but their log-ratios are off by up to {largest:.3g} nats"
                f"{off}: the reference was loaded from other weights or with other settings; name the one you mean, "
                "inputs.ref_model=<ref>, or try adapter=none"
            )

    def _log_ratios(self, beta: float) -> list[float]:
        """The log-ratios of the first batch's answers, or their means; of an online stage that is the KL."""
        metrics = self.trainer._metrics["train"]
        rewards = [reward for side in ("rewards/chosen", "rewards/rejected") for reward in metrics.get(side, [])]
        return [*(reward / beta for reward in rewards if beta), *metrics.get("objective/kl", metrics.get("kl", []))]

    def _is_log_2(self) -> bool:
        """Whether the loss is DPO's sigmoid loss and nothing else."""
        args = self.trainer.args
        kind = getattr(args, "loss_type", None)
        losses = kind if isinstance(kind, list) else [kind]
        more = (getattr(args, "loss_weights", None), getattr(args, "use_weighting", False))
        return losses == ["sigmoid"] and not any(more) and not getattr(self.trainer, "aux_loss_enabled", False)


def has_dropout(model: torch.nn.Module) -> bool:
    """Whether two forwards of the model in training differ because they draw; then nothing can be compared."""
    return any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())

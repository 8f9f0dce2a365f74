"""Log-probabilities of chosen tokens from the states before them, without more of the vocabulary than needed.

On an accelerator TRL's kernel goes through the vocabulary in tiles, and again in the backward pass. On a CPU that
costs more than it saves: there the probabilities are kept, a block of rows at a time, and become the gradient in
place.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, maybe_gather_lm_head_ctx

ROWS = 256  # states a block; at 50,257 tokens a block of logits is 51 MB


def token_logps(
    model: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float, *, entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of `targets`, [n], and the entropy of the distributions they were drawn from, in nats.

    Args:
        hidden: [n, hidden], the last layer's states.
        temperature: that tokens are drawn with, which divides the logits.
    """
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    with maybe_gather_lm_head_ctx(head.weight, head.bias):
        if hidden.device.type == "cpu" and softcap is None and not torch.is_autocast_enabled("cpu"):
            scale = logit_scale(config) / temperature
            return _KeptProbabilities.apply(hidden, head.weight, head.bias, targets, scale, entropy)
        logps, entropies, *_ = ChunkedLogProbFunction.apply(
            hidden,
            head.weight,
            head.bias,
            targets,
            temperature,
            _CHUNKED_LOGPROB_CHUNK_SIZE,
            softcap,
            logit_scale(config),
            ("entropy",) if entropy else (),
        )
    return logps, entropies


def logit_scale(config: Any) -> float:
    """What a model's forward multiplies its logits by (`add_fused_lm_head` of TRL 1.16 lists the names)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return scaling if config.model_type == "hyperclovax" else 1 / scaling


class _KeptProbabilities(torch.autograd.Function):
    """With z = scale (h W' + b), p = softmax(z), H = -sum p log p and log-probability l of token y:

    dl/dz = 1[y] - p and dH/dz = -p (log p + H). The backward pass uses the kept p up: it can be run once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        keeps = any(ctx.needs_input_grad[:3])
        logps = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies = torch.empty_like(logps) if entropy else None
        kept: list[Tensor] = []
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            z = torch.nn.functional.linear(hidden[rows], weight, bias).float()
            if scale != 1.0:
                z.mul_(scale)
            z.sub_(z.amax(-1, keepdim=True))
            chosen = z.gather(-1, targets[rows, None]).squeeze(-1)
            p = z.exp() if entropy else z.exp_()
            total = p.sum(-1)
            log_total = total.log()
            logps[rows] = chosen - log_total
            if entropy:
                entropies[rows] = log_total - torch.linalg.vecdot(p, z) / total
            if keeps:
                kept.append(p.div_(total[:, None]))
        ctx.save_for_backward(hidden, weight, bias, targets, entropies)
        ctx.kept, ctx.scale = kept, scale
        ctx.set_materialize_grads(False)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor | None, grad_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, entropies = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = grad_bias = None
        with maybe_gather_lm_head_ctx(weight, bias):
            if needs_weight:
                grad_weight = torch.zeros(weight.shape, dtype=weight.dtype)
            if needs_bias:
                grad_bias = torch.zeros(bias.shape, dtype=bias.dtype)
            for number, p in enumerate(kept):
                rows = slice(number * ROWS, number * ROWS + ROWS)
                grad = p
                if grad_entropies is not None:
                    bent = p.clamp(min=torch.finfo(p.dtype).tiny).log_().add_(entropies[rows, None])
                    grad = bent.mul_(p).mul_(-grad_entropies[rows, None])
                if grad_logps is not None:
                    chosen = grad_logps[rows, None]
                    grad = grad.addcmul_(p, -chosen) if grad is not p else p.mul_(-chosen)
                    grad.scatter_add_(-1, targets[rows, None], chosen)
                if ctx.scale != 1.0:
                    grad.mul_(ctx.scale)
                grad = grad.to(weight.dtype)
                if needs_hidden:
                    grad_hidden[rows] = grad @ weight
                if needs_weight:
                    grad_weight.addmm_(grad.t(), hidden[rows])
                if needs_bias:
                    grad_bias += grad.sum(0)
                kept[number] = None
        return grad_hidden, grad_weight, grad_bias, None, None, None

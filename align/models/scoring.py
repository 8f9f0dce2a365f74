"""Numbers that a model gives to a text: log-probabilities, divergence from a reference, reward."""

import math
from typing import TYPE_CHECKING

from align.data.tokens.chat_template import Answered, render
from align.distributed import ranks
from align.distributed.device import device_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def token_logps(
    model: "PreTrainedModel", pad_token_id: int, sequences: list[tuple[list[int], list[int]]]
) -> "list[torch.Tensor]":
    """Log-probabilities in nats of each completion token given what precedes it.

    Args:
        sequences: (prompt ids, completion ids); a prompt may be empty, its first completion token then is not scored.

    Returns:
        One float32 tensor a sequence, a number for each scored token.
    """
    return [logps for logps, _ in token_logps_and_kl(model, None, pad_token_id, sequences)]


def token_logps_and_kl(
    model: "PreTrainedModel",
    reference: "PreTrainedModel | None",
    pad_token_id: int,
    sequences: list[tuple[list[int], list[int]]],
) -> "list[tuple[torch.Tensor, float]]":
    """Log-probabilities of completion tokens, and KL(model || reference) in nats summed over their positions.

    The divergence is exact over the vocabulary at each visited position. Over completions sampled from the model at
    temperature 1 its mean is an unbiased estimate of the sequence KL, of lower variance than the log-ratio of the
    sampled tokens (Rao-Blackwellisation), and it is negative by rounding at most.
    """
    import torch

    device = device_of(model)
    width = max(len(prompt) + len(completion) for prompt, completion in sequences)
    rows = [p + c + [pad_token_id] * (width - len(p) - len(c)) for p, c in sequences]
    mask = [[1] * (len(p) + len(c)) + [0] * (width - len(p) - len(c)) for p, c in sequences]
    batch = {
        "input_ids": torch.tensor(rows, device=device),
        "attention_mask": torch.tensor(mask, device=device),
        "use_cache": False,
    }
    with torch.inference_mode():
        logits = model(**batch).logits
        ref_logits = None if reference is None else reference(**batch).logits
    results = []
    for row, (prompt, completion) in enumerate(sequences):
        first = max(len(prompt), 1)
        last = len(prompt) + len(completion)
        places = slice(first - 1, last - 1)  # a whole batch of log-softmax would be several times the logits
        logps = logits[row, places].float().log_softmax(-1)
        targets = batch["input_ids"][row, first:last]
        kl = math.nan
        if ref_logits is not None:
            kl = (logps.exp() * (logps - ref_logits[row, places].float().log_softmax(-1))).sum().item()
        results.append((logps.gather(-1, targets[:, None]).squeeze(-1).cpu(), kl))
    return results


def perplexity(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: list[str], *, batch_size: int, width: int
) -> float:
    """exp of the mean negative log-likelihood of a token, over plain texts.

    Args:
        batch_size: pieces a forward, per rank.
        width: a longer text is read in pieces of this many tokens, each without sight of the one before; the first
            token of a piece has nothing before it and is not scored.
    """
    pieces: list[tuple[list[int], list[int]]] = []
    for text in texts:
        ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
        pieces += [([], ids[start : start + width]) for start in range(0, len(ids) - 1, width)]
    pieces = [piece for piece in pieces if len(piece[1]) > 1]
    totals = ranks.map_batches(
        lambda batch: [
            (-logps.sum().item(), len(logps)) for logps in token_logps(model, tokenizer.pad_token_id, batch)
        ],
        pieces,
        batch_size,
    )
    return math.exp(sum(nll for nll, _ in totals) / sum(count for _, count in totals))


def reward_scores(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: list[Answered],
    *,
    max_length: int | None = None,
) -> list[float]:
    """Scores of answers to prompts under a reward model, minus its `score_center` where it has one.

    The score is read at the last token that is not padding, as transformers' sequence classifiers do. A text of more
    than `max_length` tokens is cut at its end.
    """
    import torch
    from transformers.modeling_utils import unwrap_model

    rows = []
    for pair in pairs:
        prompt_ids, completion_ids = render(tokenizer, *pair)
        rows.append((prompt_ids + completion_ids)[:max_length])
    width = max(len(row) for row in rows)
    padded = [row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    device = device_of(model)
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor(padded, device=device), attention_mask=torch.tensor(mask, device=device)
        ).logits
    center = getattr(unwrap_model(model).config, "score_center", 0.0)  # a trainer's model may be wrapped
    return [score - center for score in logits.float().squeeze(-1).tolist()]

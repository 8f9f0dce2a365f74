"""What one model is worth on held-out data. Each function is one measure; ranks share the work of every one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from align.data.tokens.chat_template import Answered, answered, render, render_prompt
from align.distributed import ranks
from align.evaluation.statistics import paired_bootstrap, preference_metrics, wins
from align.models.generation import Completion
from align.models.scoring import reward_scores, token_logps, token_logps_and_kl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Pairs = list[dict[str, Any]]
Row = TypeVar("Row")
SIDES = ("chosen", "rejected")
WIDEST = 2048  # tokens of a text read at once where neither the config nor the model says


def fitting(
    rows: "list[Row]",
    readers: "list[tuple[PreTrainedTokenizerBase, int | None]]",
    tokens: "Callable[[PreTrainedTokenizerBase, Row], int]",
    what: str,
    stage: str = "evaluate",
) -> "list[Row]":
    """The rows that every model's context has room for; the others are counted aloud, never cut.

    Args:
        readers: each model's tokenizer and context length, None for no limit.
        tokens: what a row needs, in tokens.
        what: the rows' name in the message.
        stage: who asks, in the message.
    """
    kept = [row for row in rows if all(limit is None or tokens(reader, row) <= limit for reader, limit in readers)]
    if len(kept) < len(rows) and ranks.is_main():
        print(f"{stage}  {len(rows) - len(kept)} of {len(rows)} {what} are left out: too long for a model's context")
    return kept


def prompt_tokens(tokenizer: "PreTrainedTokenizerBase", row: dict[str, Any]) -> int:
    """Tokens of a row's prompt."""
    return len(render_prompt(tokenizer, row["prompt"], row.get("tools")))


def pair_tokens(tokenizer: "PreTrainedTokenizerBase", row: dict[str, Any]) -> int:
    """Tokens of a preference's longer side, its prompt included."""
    return max(sum(map(len, render(tokenizer, *answered(row, side)))) for side in SIDES)


def piece_width(asked: int | None, context: int | None) -> int:
    """Tokens of a text that are read at once for perplexity: as asked, within the model's context."""
    return min((one for one in (asked, context) if one is not None), default=WIDEST)


def rate_preferences(
    reward_model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", pairs: Pairs, *, batch_size: int
) -> dict[str, float]:
    """How often, and how surely, a reward model agrees with held-out preferences: `statistics.preference_metrics`."""
    answers = [answered(pair, side) for side in SIDES for pair in pairs]
    return preference_metrics(_margins(rate(reward_model, tokenizer, answers, batch_size=batch_size)))


def rate(
    reward_model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    answers: list[Answered],
    *,
    batch_size: int,
) -> list[float]:
    """The reward model's scores of answers to prompts."""
    return ranks.map_batches(lambda batch: reward_scores(reward_model, tokenizer, batch), answers, batch_size)


def implicit_accuracy(
    model: "PreTrainedModel",
    ref_model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    pairs: Pairs,
    *,
    batch_size: int,
) -> float:
    """Share of held-out pairs that a policy's implicit reward orders as people did.

    The reward is log pi(y|x) - log ref(y|x), summed over the completion's tokens (Rafailov et al. 2023, eq. 5; beta
    does not change the order).
    """

    def log_ratios(batch: list[tuple[list[int], list[int]]]) -> list[float]:
        ours = token_logps(model, tokenizer.pad_token_id, batch)
        theirs = token_logps(ref_model, tokenizer.pad_token_id, batch)
        return [(a - b).sum().item() for a, b in zip(ours, theirs, strict=True)]

    sides = [render(tokenizer, *answered(pair, side)) for side in SIDES for pair in pairs]
    return preference_metrics(_margins(ranks.map_batches(log_ratios, sides, batch_size)))["accuracy"]


def divergence(
    model: "PreTrainedModel",
    ref_model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    completions: list[Completion],
    *,
    batch_size: int,
) -> float:
    """Mean KL(policy || reference) of a completion, in nats, along what the policy wrote.

    Unbiased for the policy's own distribution where it was sampled at temperature 1; of greedy completions it is the
    divergence on the path that greedy decoding takes.
    """
    written = [(completion.prompt_ids, completion.completion_ids) for completion in completions]
    kls = ranks.map_batches(
        lambda batch: [kl for _, kl in token_logps_and_kl(model, ref_model, tokenizer.pad_token_id, batch)],
        written,
        batch_size,
    )
    return sum(kls) / len(kls)


def score_metrics(
    name: str,
    scores: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]] | None,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """What a judge's or a reward model's scores say of one model.

    Args:
        name: `gold` or `reward`.
        scores: of each prompt, the scores of its turns.
        baseline: the baseline's on the same prompts, None where there is none to compare with.
        resamples, seed: of the bootstrap, which draws prompts.

    Returns:
        The mean over prompts of a prompt's mean over turns, with its 95% interval; the mean of each turn, where there
        are several; and against the baseline the gain on the same prompts and the win rate (ties half), each with
        its interval.
    """
    means = [_mean(turns) for turns in scores]
    options = {"resamples": resamples, "seed": seed}
    row: dict[str, Any] = {name: _mean(means), f"{name}_interval": asdict(paired_bootstrap(means, **options))}
    turns = max(map(len, scores))
    for turn in range(turns) if turns > 1 else ():
        row[f"{name}_turn_{turn + 1}"] = _mean([one[turn] for one in scores if len(one) > turn])
    if baseline is None:
        return row
    theirs = [_mean(turns) for turns in baseline]
    row[f"{name}_gain"] = asdict(paired_bootstrap([a - b for a, b in zip(means, theirs, strict=True)], **options))
    won = wins(means, theirs)
    rate_name = "win_rate" if name == "gold" else f"{name}_win_rate"
    row[rate_name] = _mean(won)
    row[f"{rate_name}_interval"] = asdict(paired_bootstrap(won, **options))
    return row


def flat_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The report's numbers as a manifest keeps them: `dpo:v1/gold`, `dpo:v1/gold_gain_low`, ..."""
    metrics: dict[str, float] = {}
    for row in rows:
        for key, value in row.items():
            if isinstance(value, int | float):
                metrics[f"{row['model']}/{key}"] = value
            elif isinstance(value, dict):
                bounds = {f"{key}_low": value["low"], f"{key}_high": value["high"]}
                gain = {} if key.endswith("_interval") else {key: value["mean"]}
                metrics |= {f"{row['model']}/{name}": number for name, number in (gain | bounds).items()}
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _margins(scores: list[float]) -> list[float]:
    """Chosen minus rejected, from all chosen scores followed by all rejected ones."""
    half = len(scores) // 2
    return [chosen - rejected for chosen, rejected in zip(scores[:half], scores[half:], strict=True)]

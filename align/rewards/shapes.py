"""Rewards for the shape of a completion, whatever it answers: its format, its length, its repetitions."""

from typing import Any

from align.data.tokens.chat_template import Text, text_of
from align.errors import UserError
from align.rewards.answers import compile_pattern


def format(
    completions: list[Text], *, pattern: str | None = None, tags: list[str] | None = None, **columns: Any
) -> list[float]:
    """1 where a whole completion has the format that is asked for, 0 where it does not.

    Args:
        completions: the policy's answers.
        pattern: a regular expression that the whole completion must match; `.` also matches a line break.
        tags: in place of a pattern, the elements that a completion consists of, in their order, each once and with
            text in it: `[think, answer]` is `<think>...</think><answer>...</answer>`, with space between.

    Raises:
        UserError: neither pattern nor tags, or both; a pattern or a tag that is none.
    """
    if (pattern is None) == (tags is None):
        raise UserError("format needs either pattern or tags; give one, such as tags: [think, answer]")
    matcher = compile_pattern(pattern if pattern is not None else _tag_pattern(tags))
    return [float(matcher.fullmatch(text_of(completion).strip()) is not None) for completion in completions]


def _tag_pattern(tags: list[str]) -> str:
    if not isinstance(tags, list) or not tags or not all(isinstance(tag, str) and tag.isidentifier() for tag in tags):
        raise UserError(f"format: tags is {tags!r}; give a list of names, such as [think, answer]")
    inside = "|".join(f"</?{tag}>" for tag in tags)
    elements = (rf"<{tag}>\s*(?!{inside})\S(?:(?!{inside}).)*</{tag}>" for tag in tags)
    return r"\s*".join(elements)


def overlong(completion_ids: list[list[int]], *, max_tokens: int, soft_tokens: int = 0, **columns: Any) -> list[float]:
    """0 for a completion that is short enough, falling to -1 for one of more than `max_tokens`.

    The soft overlong punishment of DAPO (Yu et al. 2025, arXiv:2503.14476, equation 13).

    Args:
        completion_ids: the completions' tokens.
        max_tokens: L_max; the penalty of a longer completion is -1.
        soft_tokens: L_cache; so many tokens before `max_tokens` the penalty begins to rise.

    Raises:
        UserError: the numbers do not fit together.
    """
    if not 0 <= soft_tokens <= max_tokens or max_tokens < 1:
        raise UserError(
            f"overlong: max_tokens is {max_tokens} and soft_tokens {soft_tokens}; give a positive max_tokens and "
            "soft_tokens from 0 to that"
        )
    free = max_tokens - soft_tokens
    return [
        0.0 if len(ids) <= free else -1.0 if len(ids) > max_tokens else (free - len(ids)) / soft_tokens
        for ids in completion_ids
    ]


def repetition(completion_ids: list[list[int]], *, ngram: int = 3, **columns: Any) -> list[float]:
    """Minus the share of a completion's n-grams that repeat an earlier one, from 0 down to nearly -1.

    The repetition penalty of Yeo et al. 2025 (arXiv:2502.03373, appendix C.2), over tokens.

    Args:
        completion_ids: the completions' tokens.
        ngram: tokens in an n-gram; a shorter completion repeats nothing.

    Raises:
        UserError: `ngram` is not a positive number.
    """
    if ngram < 1:
        raise UserError(f"repetition: ngram is {ngram}; give a positive number")
    scores = []
    for ids in completion_ids:
        grams = [tuple(ids[start : start + ngram]) for start in range(len(ids) - ngram + 1)]
        scores.append(len(set(grams)) / len(grams) - 1.0 if grams else 0.0)
    return scores

"""Rewards for verifiable answers: a completion is checked against the column `answer` of its prompt.

What is compared is the completion's final answer. The reference may be a whole solution that ends in gsm8k's
`#### 42`.
"""

import logging
import re
import threading
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from align.data.tokens.chat_template import Text, text_of
from align.errors import UserError

REASONING_END = "</think>"
PARSING_SECONDS = 5
"""How long one answer may take to parse or to compare, in the main thread; it counts as wrong after that."""
_MARKED = re.compile(r"####\s*([^\n]*)")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def math_answer(completions: list[Text], answer: list[Any], **columns: Any) -> list[float | None]:
    r"""1 where a completion's final answer equals the reference as mathematics, 0 where it does not.

    `\frac{1}{2}`, `0.5` and `1/2` are equal. The final answer is what stands behind the last `####`, in the last
    `\boxed{}`, or else the last number or formula. It is compared by the library math-verify.

    Args:
        completions: the policy's answers; what precedes `</think>` is not looked at.
        answer: the references: text, a number, or a list of several that are right.

    Returns:
        A score for each completion; None where the reference is missing or is no mathematics.

    Raises:
        UserError: math-verify is not installed.
    """
    verify = _math_verify().verify
    timeout = PARSING_SECONDS if _in_main_thread() else None
    scores: list[float | None] = []
    for completion, reference in zip(completions, answer, strict=True):
        golds = [gold for one in _listed(reference) if (gold := _parse(_final(str(one))))]
        if not golds:
            scores.append(None)
            continue
        said = _parse(_final(text_of(completion)))
        scores.append(float(any(verify(list(gold), list(said), timeout_seconds=timeout) for gold in golds)))
    return scores


def exact_answer(
    completions: list[Text], answer: list[Any], *, pattern: str | None = None, **columns: Any
) -> list[float | None]:
    """1 where a completion's final answer is the reference's text or number, 0 where it is not.

    Case, space and a full stop at the end do not count, and 1,000 is 1000.0. The final answer is what stands behind
    the last `####`, else in the last `<answer>...</answer>`, else the last line.

    Args:
        completions: the policy's answers; what precedes `</think>` is not looked at.
        answer: the references: text, a number, or a list of several that are right.
        pattern: a regular expression that finds the final answer in a completion in place of these rules: its first
            group, or else all of it; the last match counts.

    Returns:
        A score for each completion; None where the reference is missing.

    Raises:
        UserError: the pattern is not a regular expression.
    """
    finder = None if pattern is None else compile_pattern(pattern)
    scores: list[float | None] = []
    for completion, reference in zip(completions, answer, strict=True):
        golds = [_normal(_last_line(_final(str(one)))) for one in _listed(reference)]
        text = _after_reasoning(text_of(completion))
        said = _last_line(_final(text)) if finder is None else _found(finder, text)
        scores.append(float(said is not None and _normal(said) in golds) if golds else None)
    return scores


def compile_pattern(pattern: str) -> "re.Pattern[str]":
    """A regular expression in which `.` also matches a line break. Raises UserError."""
    try:
        return re.compile(pattern, re.DOTALL)
    except (re.error, TypeError) as error:
        raise UserError(f"pattern {pattern!r} is not a regular expression: {error}; correct it") from error


def _listed(reference: Any) -> list[Any]:
    if reference is None or reference == "":
        return []
    return reference if isinstance(reference, list) else [reference]


def _after_reasoning(text: str) -> str:
    return text.rpartition(REASONING_END)[2]


def _final(text: str) -> str:
    """What is marked as the final answer, gsm8k's way or with tags; all of the text where nothing is."""
    text = _after_reasoning(text)
    for marker in (_MARKED, _TAGGED):
        if found := marker.findall(text):
            return found[-1].strip()
    return text


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def _found(finder: "re.Pattern[str]", text: str) -> str | None:
    matches = list(finder.finditer(text))
    return None if not matches else matches[-1][1 if finder.groups else 0]


def _normal(text: str) -> str | Decimal:
    """A number as such, anything else without what does not count."""
    text = " ".join(text.split()).rstrip(".").strip().casefold()
    number = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.lstrip("$"))
    try:
        value = Decimal(number)
    except InvalidOperation:
        return text
    return value if value.is_finite() else text


@lru_cache(maxsize=20_000)
def _parse(text: str) -> tuple[Any, ...]:
    """A text's final formula or number, as math-verify has it; empty where there is none. References come again."""
    library = _math_verify()
    options = {"parsing_timeout": PARSING_SECONDS if _in_main_thread() else None}
    config = (library.LatexExtractionConfig(boxed_match_priority=0), library.ExprExtractionConfig())
    parsed = library.parse(text, extraction_config=config, **options)
    if not parsed and "\\" in text and "$" not in text:  # bare LaTeX, which has no sign of where it begins
        parsed = library.parse(f"${text}$", extraction_config=config, **options)
    return tuple(parsed)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@lru_cache(maxsize=1)
def _math_verify() -> Any:
    try:
        import math_verify
    except ImportError as error:
        raise UserError("math_answer needs the package math-verify; install it: pip install 'align[math]'") from error
    for name in ("math_verify.parser", "math_verify.grader"):  # they warn at every call outside the main thread
        logging.getLogger(name).setLevel(logging.ERROR)
    return math_verify

"""What a column seems to hold, by its name and its values, where a layout does not read it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from align.data.layouts.columns import answer_number, canonical

LOOKS: dict[str, str] = {
    "a score": (
        "score scores rating ratings rank ranks ranking reward rewards stars grade grades margin helpfulness helpful "
        "correctness coherence complexity verbosity harmlessness harmfulness honesty honest truthfulness truthful "
        "relevance fluency faithfulness factuality quality severity strength upvotes points 评分 打分 得分 分数"
    ),
    "a chosen or rejected answer": "rejected chosen dispreferred loser worse losing non_preferred 拒绝",
    "a label": (
        "label labels tag preference preferred winner better best good bad verdict vote votes thumb thumbs liked like "
        "likes dislike feedback correct incorrect right wrong judgement judgment judge choice decision accepted "
        "accept acceptable passed safe safer unsafe harmful harmless toxic annotation annotations agree approved "
        "satisfied 标签 标注 偏好 评价"
    ),
    "earlier turns": "history conversation conversations dialog dialogue messages turns 历史 对话",
    "a system prompt": "system persona 系统",
    "tools": "tools functions function tool_calls function_call 工具",
    "an image, sound or video": "image images audio audios video videos picture img 图片 图像 音频 视频",
}
"""What an unread column may be, and the words of its name that say so."""
PROMPT_PARTS = {"input", "context", "instruction", "question", "query", "passage", "passages", "document", "reasoning"}
JUDGEMENTS = {"good", "bad", "up", "down", "like", "dislike", "liked", "disliked", "correct", "incorrect", "right"}
JUDGEMENTS |= {
    "wrong",
    "👍",
    "👎",
    "chosen",
    "rejected",
    "tie",
    "model_a",
    "model_b",
    "win",
    "loss",
    "accept",
    "reject",
}
JUDGEMENTS |= {"accepted", "safe", "unsafe", "better", "worse", "preferred", "好", "坏", "对", "错", "正确", "错误"}
"""Values of a column that nothing but a judgement has, whatever the column is called."""


def looks_like(name: str) -> str | None:
    """What a column of that name seems to hold, of what a layout should read; None for anything else."""
    own = canonical(name.rpartition(".")[2])
    words = set(own.split("_")) | {own} | {re.sub(r"\d+$", "", word) for word in own.split("_")}
    for what, known in LOOKS.items():
        alike = any(word in words or (not word.isascii() and word in own) for word in known.split())
        # conversation_id is no conversation, better_response_id is a label
        if alike and (what in ("a label", "a score") or "id" not in words):
            return what
    if answer_number(own):
        return "another answer"
    return "a part of the prompt" if own in PROMPT_PARTS else None


def looks_judged(values: Iterable[str]) -> bool:
    """Whether all values of a column are words that judge an answer."""
    return all(value.lower() in JUDGEMENTS for value in values)


def may_judge(value: Any, depth: int = 0) -> bool:
    """Whether a value could be a label or a score: text, a number, true or false, or something with numbers in it."""
    if isinstance(value, Mapping | list) and depth < 4:
        items = value.values() if isinstance(value, Mapping) else value
        return any(may_judge(item, depth + 1) for item in items)
    if isinstance(value, str):
        return depth == 0 or value.strip().replace(".", "", 1).isdigit()
    return isinstance(value, int | float)

"""What a model must still be when it is loaded: finite numbers, and a reward head that scores as it did at publish.

A reward model's folder keeps a few answers with their scores, `probe.json`. Who loads it scores them again: a head
that was drawn anew, merged wrongly or loaded into another body is found before anything is trained on its opinion.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.artifacts.model_json import read_json
from align.data.tokens.chat_template import Answered, Text, answered, text_of
from align.errors import UserError
from align.models.scoring import reward_scores

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE = "probe.json"
TOLERANCE = {"float32": 1e-3, "16 bits": 0.05}  # of the larger of 1 and the score


def write_probe(folder: Path, answers: list[Answered], scores: list[float], max_length: int) -> None:
    """Keep answers with the scores that the model in `folder` gives them."""
    rows = [
        {"prompt": prompt, "completion": completion, **({"tools": tools[0]} if any(tools) else {}), "score": score}
        for (prompt, completion, *tools), score in zip(answers, scores, strict=True)
    ]
    body = {"max_length": max_length, "rows": rows}
    (folder / PROBE).write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", "utf-8")


def check_probe(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """The reward model from `folder` scores its probe as it did when it was published.

    The tolerance is that of the type it is computed in. What cannot be asked passes: a model made elsewhere, which has
    no probe, and one that ZeRO-3 has split.

    Raises:
        UserError: it does not.
    """
    file = folder / PROBE
    if not file.is_file() or any(hasattr(weight, "ds_tensor") for weight in model.parameters()):
        return
    body = read_json(file)
    rows, length = body.get("rows"), body.get("max_length")
    if not isinstance(rows, list) or not all(map(_is_answered, rows)) or not isinstance(length, int | None):
        raise UserError(f"{file} is damaged: it holds no answers with their scores; fetch the model again")
    answers = [answered(row, "completion") for row in rows]
    now = reward_scores(model, tokenizer, answers, max_length=length)
    tolerance = TOLERANCE["float32" if str(model.dtype) == "torch.float32" else "16 bits"]
    for row, score in zip(rows, now, strict=True):
        if not abs(score - row["score"]) <= tolerance * max(1.0, abs(row["score"])):
            raise UserError(
                f"the reward model in {folder} scores {_short(row['completion'])} {score:.4g} and scored it "
                f"{row['score']:.4g} when it was published: its head, its body or its tokenizer is not what it was; "
                "align artifacts verify says whether a file has changed, and stage=reward trains another"
            )


def _is_answered(row: object) -> bool:
    """Whether a value is an answer with its prompt and its score."""
    return (
        isinstance(row, dict)
        and all(isinstance(row.get(name), str | list) for name in ("prompt", "completion"))
        and isinstance(row.get("score"), int | float)
    )


def check_finite(model: "torch.nn.Module", name: Path | str, remedy: str) -> None:
    """Every weight is a number.

    Raises:
        UserError: with the first that is not, and `remedy`.
    """
    import torch

    for key, weight in model.named_parameters():
        held: Any = getattr(weight, "ds_tensor", weight)  # this rank's part under ZeRO-3
        if held.is_floating_point() and not torch.isfinite(held.detach()).all():
            raise UserError(f"{name}: the weights {key} hold NaN or infinity; {remedy}")


def _short(completion: Text) -> str:
    text = text_of(completion)
    return repr(text[:40] + ("..." if len(text) > 40 else ""))

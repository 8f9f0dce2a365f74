"""A campaign's rules as people write them: questions one a line, and the fields of a form."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from align.errors import UserError
from align.review.schemas import Gates, Question, Settings

_PLAIN = ("title", "instructions", "overlap", "strategy", "control", "gold", "repeats", "lease")
_OPTIONAL = ("min_agreement", "min_gold", "max_flags")  # gates that a campaign may be without


def read_rubric(text: str) -> list[dict[str, Any]]:
    """Questions as an admin types them, one a line: `Which is safer? (sides)`, `How sure are you? (scale)`,
    `What is wrong? [facts, tone, length]`; a `*` at the end makes it one that must be answered.

    Raises:
        UserError: a line that is none of these.
    """
    questions = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        required, told = line.endswith("*"), line.rstrip("* ").strip()
        asked: dict[str, Any] = {"id": f"q{len(questions) + 1}", "required": required}
        if told.endswith("]") and "[" in told:
            head, _, choices = told[:-1].rpartition("[")
            asked |= {"kind": "choice", "choices": [one.strip() for one in choices.split(",") if one.strip()]}
        elif told.endswith(("(sides)", "(scale)")):
            head, _, kind = told[:-1].rpartition("(")
            asked["kind"] = kind
        else:
            raise UserError(f"question {line!r} has no answers; end it with [one, two], (sides) or (scale)")
        questions.append(_checked(Question, {**asked, "text": head.strip()}).model_dump())
    return questions


def write_rubric(questions: Sequence[Question]) -> str:
    """The questions as `read_rubric` reads them."""
    lines = []
    for one in questions:
        answers = f"[{', '.join(one.choices)}]" if one.kind == "choice" else f"({one.kind})"
        lines.append(f"{one.text} {answers}{' *' if one.required else ''}")
    return "\n".join(lines)


def read_form(sent: Mapping[str, Any], before: Settings) -> Settings:
    """`before` with what a form says; a field that the form does not have stays as it is.

    Raises:
        UserError: a value that is none.
    """
    values = before.model_dump()
    values |= {name: sent[name] for name in _PLAIN if name in sent}
    for name in Gates.model_fields.keys() & sent.keys():
        values["gates"][name] = None if name in _OPTIONAL and sent[name] == "" else sent[name]
    if "rubric" in sent:
        text = str(sent["rubric"])
        # A rubric that nobody edited keeps its questions' ids, which a line of text does not show.
        if text.split() != write_rubric(before.rubric).split():
            values["rubric"] = read_rubric(text)
    return _checked(Settings, values)


def _checked(model: Any, values: dict[str, Any]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = " ".join(str(part) for part in first["loc"]).replace("_", " ")
        raise UserError(f"{name} is {first.get('input')!r}: {first['msg']}") from None

"""A campaign's settings as people write them: questions, one per line, and the fields of a form."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from align.errors import UserError
from align.records import shown
from align.review.schemas import Gates, Question, Settings

_PLAIN = ("title", "instructions", "overlap", "strategy", "control", "gold", "repeats", "lease")
_OPTIONAL = ("min_agreement", "min_gold", "max_flags")  # gates that a campaign may be without


def read_rubric(lines: str) -> list[dict[str, Any]]:
    """Questions, one per line: `Which is safer? (sides)`, `How sure are you? (scale)`, `What is wrong? [facts, tone]`.

    A `*` at the end makes an answer required.

    Raises:
        UserError: a line is not a question.
    """
    questions = []
    for line in filter(None, (line.strip() for line in lines.splitlines())):
        required, text = line.endswith("*"), line.rstrip("* ").strip()
        question: dict[str, Any] = {"id": f"q{len(questions) + 1}", "required": required}
        if text.endswith("]") and "[" in text:
            head, _, choices = text[:-1].rpartition("[")
            names = [name.strip() for name in choices.split(",")]
            question |= {"kind": "choice", "choices": [name for name in names if name]}
        elif text.endswith(("(sides)", "(scale)")):
            head, _, kind = text[:-1].rpartition("(")
            question["kind"] = kind
        else:
            raise UserError(f"question {shown(line)} has no answers; end it with [one, two], (sides) or (scale)")
        questions.append(_checked(Question, {**question, "text": head.strip()}).model_dump())
    return questions


def write_rubric(questions: Sequence[Question]) -> str:
    """The questions as `read_rubric` reads them."""
    lines = []
    for question in questions:
        answers = f"[{', '.join(question.choices)}]" if question.kind == "choice" else f"({question.kind})"
        lines.append(f"{question.text} {answers}{' *' if question.required else ''}")
    return "\n".join(lines)


def read_form(form: Mapping[str, Any], before: Settings) -> Settings:
    """Settings with the values of a form; fields that the form does not have stay as they were.

    Raises:
        UserError: a value is not valid.
    """
    values = before.model_dump()
    values |= {name: form[name] for name in _PLAIN if name in form}
    for name in Gates.model_fields.keys() & form.keys():
        values["gates"][name] = None if name in _OPTIONAL and form[name] == "" else form[name]
    if "rubric" in form:
        text = str(form["rubric"])
        # Questions that were not edited keep their ids, which their text does not show.
        if text.split() != write_rubric(before.rubric).split():
            values["rubric"] = read_rubric(text)
    return _checked(Settings, values)


def _checked(model: Any, values: dict[str, Any]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = " ".join(str(part) for part in first["loc"]).replace("_", " ")
        raise UserError(f"{name} is {shown(first.get('input'))}: {first['msg']}") from None

"""What goes in and out: a campaign's settings, what a rater sends, and what the rating screen receives.

What comes from a browser is checked here: every text has a limit, and unknown fields are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator

Verdict = Literal["a", "slight_a", "tie", "slight_b", "b", "both_bad", "both_good"]
Role = Literal["admin", "rater"]
Strategy = Literal["random", "uncertain"]

STRENGTH: dict[str, int] = {"a": 2, "slight_a": 1, "tie": 0, "slight_b": -1, "b": -2, "both_bad": 0, "both_good": 0}
"""How much a verdict speaks for a: the scale that agreement and margins are measured on."""
TURNED: dict[str, Verdict] = {
    "a": "b",
    "slight_a": "slight_b",
    "tie": "tie",
    "slight_b": "slight_a",
    "b": "a",
    "both_bad": "both_bad",
    "both_good": "both_good",
}
"""The same verdict where the sides are the other way round."""
VERDICTS = tuple(STRENGTH)


def _storable(value: Any) -> Any:
    """Text without NUL, which PostgreSQL has no place for; refuses half a surrogate pair, which UTF-8 has none for.

    JSON escapes and some encodings of forms can hold both.
    """
    if not isinstance(value, str):
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is not a character") from None
    return value.replace("\0", "")


Storable = BeforeValidator(_storable)  # after StringConstraints in an annotation, which makes it run first
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), Storable]
Paragraph = Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000), Storable]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
Share = Annotated[float, Field(ge=0, le=0.9)]


class Strict(BaseModel):
    """A model that refuses unknown fields, NaN and infinite numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Question(Strict):
    """A campaign's own question, asked with the verdict."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    text: Line
    kind: Literal["choice", "sides", "scale"] = "choice"  # sides: which of the two; scale: 1 to 5
    choices: list[Line] = Field(default_factory=list, max_length=12)
    required: bool = False

    def allows(self, answer: str) -> bool:
        """Whether `answer` is one of this question's answers."""
        options = {"choice": self.choices, "sides": ["a", "equal", "b"], "scale": ["1", "2", "3", "4", "5"]}
        return answer in options[self.kind]


class Gates(Strict):
    """What an export demands; None demands nothing."""

    min_ratings: int = Field(default=1, ge=1, le=100)  # of an item; items with fewer are left out
    min_raters: int = Field(default=1, ge=0)  # people whose ratings are exported
    min_agreement: float | None = Field(default=None, ge=-1, le=1)  # Krippendorff's alpha, ordinal
    min_gold: float | None = Field(default=None, ge=0, le=1)  # share of gold items judged right
    max_flags: float | None = Field(default=0.2, ge=0, le=1)  # share of items that somebody flagged


class Settings(Strict):
    """How a campaign is run."""

    title: Line
    instructions: Paragraph = ""
    overlap: int = Field(default=2, ge=1, le=50)  # ratings an item
    strategy: Strategy = "random"  # uncertain: smallest margin of the reward model first
    control: Share = 0.2  # share of items under `uncertain` that come in random order
    gold: Share = 0.1  # of a rater's items, where there are gold items
    repeats: Share = 0.05  # share of a rater's items shown again with the sides exchanged, to measure consistency
    lease: float = Field(default=1800.0, gt=0, le=7 * 86400)  # seconds until an item that was not rated is free again
    seed: int = 0
    rubric: list[Question] = Field(default_factory=list, max_length=12)
    gates: Gates = Gates()

    @field_validator("rubric")
    @classmethod
    def _distinct(cls, questions: list[Question]) -> list[Question]:
        if len({question.id for question in questions}) < len(questions):
            raise ValueError("two questions have the same id")
        for question in questions:
            if (question.kind == "choice") != bool(question.choices):
                raise ValueError(f"question {question.id}: a choice has choices, other kinds have none")
        return questions

    def check_answers(self, answers: dict[str, str]) -> tuple[str, dict[str, str]] | None:
        """What is wrong with the answers to the rubric, as a message's key and values, or None."""
        questions = {question.id: question for question in self.rubric}
        for name, answer in answers.items():
            if name not in questions:
                return "no_such_question", {"name": repr(name)}
            if not questions[name].allows(answer):
                return "no_such_answer", {"answer": repr(answer), "name": repr(name)}
        missing = [question.text for question in self.rubric if question.required and question.id not in answers]
        return ("please_answer", {"question": missing[0]}) if missing else None


class RatingIn(Strict):
    """A rating as the screen sends it; `verdict` is of the sides as they were shown."""

    key: Key
    verdict: Verdict
    answers: dict[str, str] = Field(default_factory=dict, max_length=12)
    reason: Paragraph = ""
    flag: bool = False
    milliseconds: int = Field(default=0, ge=0, le=2**31 - 1)


class SkipIn(Strict):
    """An item that a rater would rather not judge."""

    key: Key
    reason: Literal["unclear", "language", "expertise", "uncomfortable", "broken"]
    flag: bool = False


class UndoIn(Strict):
    """Undo the last rating or skip."""

    key: Key


class Task(BaseModel):
    """One item to rate, rendered, with the sides as this rater sees them."""

    assignment: int
    prompt: str  # safe HTML
    left: str
    right: str
    previous: dict[str, Any] | None = None  # the rating before an undo, with the sides as shown


class Answer(BaseModel):
    """The answer to everything that the rating screen sends."""

    task: Task | None
    done: int  # items this rater has rated in the campaign
    state: Literal["open", "paused", "closed"]
    late: bool = False  # the rating came after its turn had gone to another: kept, not counted


class Problem(BaseModel):
    """Why a request was refused, in a sentence."""

    detail: str

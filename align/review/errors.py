"""What the review app refuses, by HTTP status. Raised within a transaction, a refusal rolls it back."""

from typing import Any

from align.review import messages


class Refused(Exception):
    """A request that is not carried out.

    Args:
        message: a key of `messages.MESSAGES`, or, where only admins can see it, a sentence.
        retry_after: seconds until it is worth trying again.
        values: what the message is filled in with.
    """

    status = 400

    def __init__(self, message: str, *, retry_after: int | None = None, **values: Any):
        self.message = message
        self.retry_after = retry_after
        self.values = values
        super().__init__(self.detail)

    def text(self, language: str) -> str:
        """The sentence in a language."""
        if self.message in messages.MESSAGES:
            return messages.text(self.message, language, **self.values)
        return self.message

    @property
    def detail(self) -> str:
        """The sentence in English."""
        return self.text("en")


class Unauthenticated(Refused):
    """Nobody is signed in."""

    status = 401

    def __init__(self) -> None:
        super().__init__("signed_out")


class Forbidden(Refused):
    """Your account is not allowed to do this, or your browser was on another page."""

    status = 403


class NotFound(Refused):
    """It does not exist, or this person may not know that it does: the two look the same."""

    status = 404

    def __init__(self, message: str = "not_found"):
        super().__init__(message)


class Conflict(Refused):
    """Something else happened first."""

    status = 409


class Unfit(Refused):
    """Well-formed, but not an answer to what was asked."""

    status = 422


class TooMany(Refused):
    """Too many requests in too short a time."""

    status = 429

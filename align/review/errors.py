"""What the review app refuses, as HTTP has it. Raised within a transaction, it undoes it."""


class Refused(Exception):
    """A request that is not done; `detail` is one sentence for whoever asked."""

    status = 400

    def __init__(self, detail: str, *, retry_after: int | None = None):
        """`retry_after`: seconds until it is worth trying again."""
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class Unauthenticated(Refused):
    """Nobody is signed in."""

    status = 401


class Forbidden(Refused):
    """Who is signed in may not do this."""

    status = 403


class NotFound(Refused):
    """There is no such thing, or none that this person may know of: the two look the same."""

    status = 404

    def __init__(self, detail: str = "there is nothing here"):
        super().__init__(detail)


class Conflict(Refused):
    """Something else happened first."""

    status = 409


class Unfit(Refused):
    """Well-formed, but not an answer to what was asked."""

    status = 422


class TooMany(Refused):
    """Too many requests in too short a time."""

    status = 429

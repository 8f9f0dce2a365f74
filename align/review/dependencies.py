"""What the routes share: the parts of the server, who asks and may, and the page that answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from align.review import security
from align.review.database import Database
from align.review.errors import Forbidden, NotFound, Unauthenticated
from align.review.middleware import UPLOAD, Metrics
from align.review.pages import load_templates
from align.review.store import people
from align.review.store.people import Person

T = TypeVar("T")
SESSION_SECONDS = 14 * 86400.0
UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Review:
    """What every route needs.

    Attributes:
        origin: how browsers reach the server, such as https://review.example.org.
        artifacts: the artifact store's root, None for the default one.
        clock: seconds since the epoch.
    """

    database: Database
    secret: bytes
    origin: str
    artifacts: str | None = None
    clock: Callable[[], float] = time.time
    limiter: security.Limiter = field(default_factory=security.Limiter)
    metrics: Metrics = field(default_factory=Metrics)
    templates: Environment = field(default_factory=load_templates)

    @property
    def secure(self) -> bool:
        return self.origin.startswith("https://")

    @property
    def session_cookie(self) -> str:
        return "__Host-align_session" if self.secure else "align_session"

    @property
    def visitor_cookie(self) -> str:
        """Holds the token of somebody who has not signed in yet, for the forms on the way."""
        return "__Host-align_visitor" if self.secure else "align_visitor"

    def set_cookie(self, answer: Response, name: str, token: str, seconds: float) -> None:
        answer.set_cookie(
            name, token, max_age=int(seconds), httponly=True, samesite="lax", secure=self.secure, path="/"
        )


def get_review(request: Request) -> Review:
    """What the routes share."""
    return request.app.state.review


async def check_origin(request: Request) -> None:
    """Whatever changes something must come from a page of ours: its Origin, and the token only such a page knows.

    Raises:
        Forbidden: it does not.
        Unauthenticated, NotFound: a file that is not from an admin.
    """
    if request.method not in UNSAFE:
        return
    review = get_review(request)
    origin = request.headers.get("origin")
    own = {review.origin, f"http://{request.headers.get('host')}"} if not review.secure else {review.origin}
    if origin not in own:
        raise Forbidden("this request did not come from a page of this server")
    token = request.headers.get("x-csrf-token")
    if token is None and "form" in request.headers.get("content-type", ""):
        if request.url.path.endswith(UPLOAD):
            await act(request, lambda tx, me: None, admin=True, reads=True)  # before its many bytes are read
        token = (await request.form()).get("csrf")
    cookie = request.cookies.get(review.session_cookie) or request.cookies.get(review.visitor_cookie)
    expected = security.csrf_token(review.secret, cookie) if cookie else None
    if expected is None or not isinstance(token, str) or not security.same(token, expected):
        raise Forbidden("this page is too old; load it again")


async def act(
    request: Request,
    work: Callable[[sa.Connection, Person], T],
    *,
    admin: bool = False,
    limit: str | None = "page",
    reads: bool = False,
) -> T:
    """Do `work` for whoever is signed in, in one transaction with the look at who that is.

    Args:
        admin: only for admins; to a rater there is nothing here.
        limit: which rate limit counts this.
        reads: nothing is written.

    Raises:
        Unauthenticated, NotFound, TooMany.
    """
    review = get_review(request)
    token = request.cookies.get(review.session_cookie)
    if not token:
        raise Unauthenticated("please sign in")
    known = security.digest(token)
    if limit:
        await review.limiter.hit(limit, known)

    def signed_in(tx: sa.Connection) -> tuple[Person, T]:
        person = people.session_person(tx, known, review.clock())
        if person is None:
            raise Unauthenticated("please sign in")
        request.state.person = person.handle
        if admin and not person.is_admin:
            raise NotFound()
        return person, work(tx, person)

    person, result = await (review.database.read if reads else review.database.run)(signed_in)
    request.state.signed_in = person
    return result


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, with what every page shows; a visitor without a session gets a token for the forms on it."""
    review = get_review(request)
    cookie = request.cookies.get(review.session_cookie) or request.cookies.get(review.visitor_cookie)
    fresh = None if cookie else security.new_token()
    html = review.templates.get_template(template).render(
        csrf=security.csrf_token(review.secret, cookie or fresh),
        me=getattr(request.state, "signed_in", None),
        path=request.url.path,
        **values,
    )
    answer = HTMLResponse(html, status)
    if fresh:
        review.set_cookie(answer, review.visitor_cookie, fresh, 86400)
    return answer


def see_other(path: str) -> RedirectResponse:
    """Go on at a path of ours."""
    return RedirectResponse(path, 303)

"""What the routes share: the parts of the server, the transaction of a request, and the page that answers it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from align.review import messages, security
from align.review.database import Database
from align.review.errors import Unauthenticated
from align.review.middleware import Metrics
from align.review.pages import load_templates
from align.review.rate_limits import Limiter
from align.review.store import people
from align.review.store.people import Person

T = TypeVar("T")
SESSION_SECONDS = 14 * 86400.0
LANGUAGE_COOKIE = "align_language"


@dataclass
class Review:
    """What every route needs.

    Attributes:
        origin: how browsers reach the server, such as https://review.example.org.
        artifacts: the artifact store's root, None for the default one.
        clock: seconds since the epoch.
        loading: held while a file is read into a campaign, so that several cannot fill the memory.
    """

    database: Database
    secret: bytes
    origin: str
    artifacts: str | None = None
    clock: Callable[[], float] = time.time
    limiter: Limiter = field(default_factory=Limiter)
    metrics: Metrics = field(default_factory=Metrics)
    templates: Environment = field(default_factory=load_templates)
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)

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


def get_language(request: Request) -> str:
    """The language of the pages: the one that was chosen in this browser, else the browser's own."""
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    return chosen if chosen in messages.LANGUAGES else messages.negotiate(request.headers.get("accept-language", ""))


def session_person(tx: sa.Connection, request: Request) -> Person:
    """The person whose session the request's cookie names. Raises Unauthenticated."""
    review = get_review(request)
    token = request.cookies.get(review.session_cookie)
    person = people.session_person(tx, security.digest(token), review.clock()) if token else None
    if person is None:
        raise Unauthenticated()
    request.state.person = person.handle  # for the log
    return person


async def transact(request: Request, work: Callable[[sa.Connection, Person], T], *, reads: bool = False) -> T:
    """Do `work` for the person who is signed in, in one transaction with a second look at the session.

    The route's role was checked before (`access`); the second look is for who was signed out in between.

    Args:
        work: takes the connection and the person.
        reads: it writes nothing.

    Raises:
        Unauthenticated: the session has ended.
    """
    database = get_review(request).database

    def signed_in(tx: sa.Connection) -> T:
        return work(tx, session_person(tx, request))

    return await (database.read if reads else database.run)(signed_in)


async def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, rendered in a thread: the texts on it may take a while, in which others are served.

    Pages for admins are in English. A visitor without a session gets a token for the forms on the page.
    """
    review = get_review(request)
    cookie = request.cookies.get(review.session_cookie) or request.cookies.get(review.visitor_cookie)
    fresh = None if cookie else security.new_token()
    language = "en" if template.startswith("admin/") else get_language(request)
    shared = {
        "csrf": security.csrf_token(review.secret, cookie or fresh),
        "me": getattr(request.state, "signed_in", None),
        "path": request.url.path,
        "language": language,
        "t": partial(messages.text, language=language),
        "is_translated": not template.startswith("admin/"),
    }
    html = await run_in_threadpool(review.templates.get_template(template).render, shared | values)
    answer = HTMLResponse(html, status)
    if fresh:
        review.set_cookie(answer, review.visitor_cookie, fresh, 86400)
    return answer


def see_other(path: str) -> RedirectResponse:
    """Go on at a path of ours."""
    return RedirectResponse(path, 303)

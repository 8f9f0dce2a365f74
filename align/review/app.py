"""The application: what its routes share, and how it is put together. No torch, and up in about a second."""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import sqlalchemy as sa
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.exceptions import HTTPException

from align.errors import UserError
from align.review import plots, security
from align.review.database import Database, migrate
from align.review.refusals import Forbidden, Refused, Unauthenticated
from align.review.rendering import as_code, turns
from align.review.service import UPLOAD, Gate, Metrics
from align.review.store import people
from align.review.store.people import Person

T = TypeVar("T")
HERE = Path(__file__).parent
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
    templates: Environment = field(default_factory=lambda: _templates())

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


def create_app(review: Review, *, quiet: bool = False) -> Gate:
    """The whole application around `review`; `quiet` writes no log."""
    from align.review.routes import accounts, admin, health, rating, settings

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await review.database.run(migrate)
        yield
        await review.database.close()

    # The pages that FastAPI makes for its API load scripts from a CDN.
    app = FastAPI(
        title="align review", docs_url=None, redoc_url=None, lifespan=life, dependencies=[Depends(check_origin)]
    )
    app.state.review = review
    for routes in (accounts, rating, settings, admin, health):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UserError, _mistaken)
    host = urlsplit(review.origin).hostname or ""
    hosts = frozenset({f"[{host}]" if ":" in host else host, "127.0.0.1", "localhost", "[::1]"})
    return Gate(app, hosts=hosts, metrics=review.metrics, quiet=quiet)


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
    from align.review.refusals import NotFound

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


def _templates() -> Environment:
    loader = FileSystemLoader(HERE / "templates")
    made = Environment(
        loader=loader,
        autoescape=select_autoescape(default=True),
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(turns=turns, as_code=as_code, plots=plots)
    made.filters["share"] = lambda value: "–" if value is None else f"{value:.0%}"
    made.filters["number"] = lambda value, digits=2: "–" if value is None else f"{value:.{digits}f}"
    made.filters["plain"] = lambda value: "" if value is None else f"{value:g}"
    made.filters["when"] = lambda at: time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))
    made.filters["left_range"] = lambda one: (one.rater, one.left, one.left_low, one.left_high)
    made.filters["seconds_of"] = lambda one: (one.rater, round(one.seconds, 1))
    made.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    return made


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def _tell(request: Request, status: int, detail: str) -> Response:
    if status == 401 and _wants_page(request):
        return see_other("/login")
    if _wants_page(request):
        return page(request, "problem.html", status, detail=detail)
    return JSONResponse({"detail": detail}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _tell(request, error.status, error.detail)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = _tell(request, error.status_code, str(error.detail))
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return _tell(request, 422, f"{where}: {first['msg']}" if where else str(first["msg"]))


async def _mistaken(request: Request, error: Exception) -> Response:
    return _tell(request, 422, str(error))

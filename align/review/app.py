"""The application, assembled from its routes, and its answers to requests that it refuses."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from align.errors import UserError
from align.review import messages
from align.review.database import DatabaseUnavailable, migrate
from align.review.dependencies import Review, get_language, page, see_other
from align.review.errors import Refused
from align.review.middleware import Gate
from align.review.routes import accounts, admin, health, rating, settings

ROUTERS = (accounts.public, accounts.router, rating.pages, rating.router, settings.router, admin.router, health.router)
RETRY_SECONDS = 5
MESSAGES_OF_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
}
LABELS = {"name": "name", "password": "password", "old": "old_password", "new": "new_password"}  # of a form's fields
STATIC = Path(__file__).parent / "static"


def create_app(review: Review, *, quiet: bool = False) -> Gate:
    """The whole application around `review`; `quiet` writes no log."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await review.database.run(migrate)
        yield
        await review.database.close()

    # FastAPI's own routes have no role, and its pages load scripts from a CDN.
    app = FastAPI(title="align review", openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    app.state.review = review
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UserError, _mistaken)
    app.add_exception_handler(DatabaseUnavailable, _unavailable)
    host = urlsplit(review.origin).hostname or ""
    hosts = frozenset({f"[{host}]" if ":" in host else host, "127.0.0.1", "localhost", "[::1]"})
    return Gate(app, hosts=hosts, metrics=review.metrics, quiet=quiet)


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


async def _tell(request: Request, status: int, detail: str) -> Response:
    if status == 401 and _wants_page(request):
        return see_other("/login")
    if _wants_page(request):
        return await page(request, "problem.html", status, detail=detail)
    return JSONResponse({"detail": detail}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    answer = await _tell(request, error.status, error.text(get_language(request)))
    if error.retry_after is not None:
        answer.headers["retry-after"] = str(error.retry_after)
    return answer


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    key = MESSAGES_OF_STATUS.get(error.status_code)
    detail = messages.text(key, get_language(request)) if key else str(error.detail)
    answer = await _tell(request, error.status_code, detail)
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _tell(request, 422, _invalid_field(error.errors()[0], get_language(request)))


def _invalid_field(problem: dict[str, Any], language: str) -> str:
    """A sentence about a field that is missing, too short or too long; of anything else, what pydantic says."""
    path = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    label = LABELS.get(path[-1]) if path else None
    kind = {"missing": "field_missing", "string_too_short": "field_short", "string_too_long": "field_long"}
    if label and problem["type"] in kind:
        values = problem.get("ctx") or {}
        limit = values.get("min_length", values.get("max_length"))
        return messages.text(kind[problem["type"]], language, field=messages.text(label, language), limit=limit)
    where = ".".join(path)
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


async def _unavailable(request: Request, error: Exception) -> Response:
    """The reason, which names the database, is for the log; a browser keeps the rating and sends it again."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    answer = await _tell(request, 503, messages.text("unavailable", get_language(request)))
    answer.headers["retry-after"] = str(RETRY_SECONDS)
    return answer


async def _mistaken(request: Request, error: Exception) -> Response:
    return await _tell(request, 422, str(error))

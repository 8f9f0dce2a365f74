"""Who may use a route, decided before anything of the request's body is read.

FastAPI reads a route's body before it resolves dependencies, so a dependency would come too late: the check wraps the
route's handler instead. Every router names its route class, and with it the role that all its routes require.
"""

from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, ClassVar

import sqlalchemy as sa
from fastapi import Request, Response
from fastapi.routing import APIRoute

from align.review import security
from align.review.dependencies import get_review, session_person
from align.review.errors import Forbidden, NotFound, Unauthenticated
from align.review.store import people
from align.review.store.campaigns import entered

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # they change nothing (RFC 9110, 9.2.1)


class Role(StrEnum):
    """What a route requires of the person who uses it."""

    PUBLIC = "public"  # nothing: signing in, invitations, health checks
    PERSON = "person"  # to be signed in
    MEMBER = "member"  # to rate in the campaign that the path names
    ADMIN = "admin"  # to be an admin


class GuardedRoute(APIRoute):
    """A route that checks origin, role and CSRF token, in this order, before its handler runs.

    Attributes:
        role: what it requires.
        limit: the rate limit that counts its requests, per person; None counts nothing.
    """

    role: ClassVar[Role]
    limit: ClassVar[str | None] = "page"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        role, limit = self.role, self.limit

        async def guarded(request: Request) -> Response:
            await authorize(request, role, limit)
            return await handler(request)

        return guarded


class PublicRoute(GuardedRoute):
    """For anybody."""

    role = Role.PUBLIC
    limit = None


class PersonRoute(GuardedRoute):
    """For everybody who is signed in."""

    role = Role.PERSON


class MemberRoute(GuardedRoute):
    """For the members of the campaign in the path parameter `campaign`; for others it does not exist."""

    role = Role.MEMBER


class RatingRoute(MemberRoute):
    """What the rating screen calls, more often than pages are opened."""

    limit = "rating"


class AdminRoute(GuardedRoute):
    """For admins; for others it does not exist."""

    role = Role.ADMIN


async def authorize(request: Request, role: Role, limit: str | None = None) -> None:
    """Check where a request comes from and whose it is, without reading its body unless it is a permitted form.

    Raises:
        Forbidden: a request that changes something comes from another site, or without the page's CSRF token.
        Unauthenticated: nobody is signed in.
        NotFound: the person does not have the role.
        TooMany: the person's rate limit is used up.
    """
    changes = request.method not in SAFE_METHODS
    if changes:
        _check_origin(request)
    if role is not Role.PUBLIC:
        await _identify(request, role)
        if limit is not None:
            await get_review(request).limiter.hit((limit, str(request.state.signed_in.id)))
    if changes:
        await _check_token(request)


async def _identify(request: Request, role: Role) -> None:
    """Put the person who sends the request into its state, if they have the role."""

    review = get_review(request)
    if not request.cookies.get(review.session_cookie):
        raise Unauthenticated()

    def look_up(tx: sa.Connection) -> people.Person:
        person = session_person(tx, request)
        if role is Role.ADMIN and not person.is_admin:
            raise NotFound()
        if role is Role.MEMBER:
            entered(tx, request.path_params["campaign"], person.id)
        return person

    request.state.signed_in = await review.database.read(look_up)


def _check_origin(request: Request) -> None:
    """Browsers send `Origin` with every request that may change something."""
    review = get_review(request)
    allowed = {review.origin}
    if not review.secure:
        allowed.add(f"http://{request.headers.get('host')}")  # which the middleware has checked
    if request.headers.get("origin") not in allowed:
        raise Forbidden("foreign_origin")


async def _check_token(request: Request) -> None:
    """Compare the CSRF token, from the header or the form, with the one that belongs to the request's cookie."""
    review = get_review(request)
    token = request.headers.get("x-csrf-token")
    if token is None and "form" in request.headers.get("content-type", ""):
        token = (await request.form()).get("csrf")
    cookie = request.cookies.get(review.session_cookie) or request.cookies.get(review.visitor_cookie)
    expected = security.csrf_token(review.secret, cookie) if cookie else None
    if expected is None or not isinstance(token, str) or not security.same(token, expected):
        raise Forbidden("stale_page")

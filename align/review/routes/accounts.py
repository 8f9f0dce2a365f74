"""Accounts: invitations, signing in and out, passwords, the language, and a rater's campaigns."""

import re
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Form, Request
from fastapi.responses import Response
from pydantic import StringConstraints

from align.review import messages, rate_limits, security
from align.review.access import PersonRoute, PublicRoute
from align.review.dependencies import LANGUAGE_COOKIE, SESSION_SECONDS, get_review, page, see_other, transact
from align.review.errors import NotFound
from align.review.schemas import Storable
from align.review.store import assignment, campaigns, people
from align.review.store.campaigns import Campaign, note
from align.review.store.people import Person

LANGUAGE_SECONDS = 365 * 86400.0
_OWN_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~/-]*")

public = APIRouter(route_class=PublicRoute, include_in_schema=False)
router = APIRouter(route_class=PersonRoute, include_in_schema=False)

SignInName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64), Storable, Form()]
Password = Annotated[str, StringConstraints(max_length=security.LONGEST_PASSWORD), Storable, Form()]
NewPassword = Annotated[
    str,
    StringConstraints(min_length=security.SHORTEST_PASSWORD, max_length=security.LONGEST_PASSWORD),
    Storable,
    Form(),
]


@router.get("/")
async def home(request: Request) -> Response:
    """The campaigns of a person; a rater with only one is sent to its rating screen."""

    def work(tx: sa.Connection, me: Person) -> tuple[Person, list[tuple[Campaign, int]]]:
        joined = campaigns.campaigns_of(tx, me.id)
        return me, [(campaign, assignment.count_done(tx, campaign, me)) for campaign in joined]

    me, joined = await transact(request, work, reads=True)
    if me.is_admin and not joined:
        return see_other("/admin")
    if len(joined) == 1 and not me.is_admin:
        return see_other(f"/rate/{joined[0][0].name}")
    return await page(request, "home.html", campaigns=joined)


@public.get("/login")
async def login_page(request: Request) -> Response:
    return await page(request, "login.html")


@public.post("/login")
async def login(request: Request, name: SignInName, password: Password) -> Response:
    """Sign in. An unknown name and a wrong password get the same answer after the same time."""
    review, address, account = get_review(request), _network(request), name.casefold()
    uses = (
        ("login-address", address),
        ("login-address-account", f"{address} {account}"),
        ("login-account", account),
    )
    await review.limiter.hit(*uses)
    credentials = await review.database.read(people.credentials, name)
    right = await security.in_turn(security.is_password, password, credentials[1] if credentials else None)
    if credentials is None or not right:
        return await page(request, "login.html", 401, name=name, problem="wrong_credentials")
    review.limiter.refund(*uses)
    return await _begin_session(request, credentials[0])


@public.post("/logout")
async def logout(request: Request) -> Response:
    review = get_review(request)
    token = request.cookies.get(review.session_cookie)
    if token:
        await review.database.run(people.end_session, security.digest(token))
    answer = see_other("/login")
    answer.delete_cookie(review.session_cookie, path="/", secure=review.secure)
    return answer


@public.post("/language")
async def choose_language(
    request: Request,
    language: Annotated[str, Form(max_length=8)],
    path: Annotated[str, Form(max_length=300)] = "/",
) -> Response:
    """Remember a language in this browser, and show the page it was chosen on again."""
    answer = see_other(path if _OWN_PATH.fullmatch(path) else "/")
    if language in messages.LANGUAGES:
        get_review(request).set_cookie(answer, LANGUAGE_COOKIE, language, LANGUAGE_SECONDS)
    return answer


@public.get("/invite/{token}")
async def invitation(request: Request, token: str) -> Response:
    return await page(request, "invite.html", invitation=await _find_invitation(request, token))


@public.post("/invite/{token}")
async def accept(request: Request, token: str, name: SignInName, password: NewPassword) -> Response:
    """Choose a name and a password; the invitation is used up."""
    review = get_review(request)
    await _find_invitation(request, token)  # before a hash is computed for a visitor without an invitation
    hashed = await security.in_turn(security.hash_password, password)

    def work(tx: sa.Connection) -> Person:
        person = people.accept_invite(tx, security.digest(token), name=name, password=hashed, now=review.clock())
        note(tx, person.id, "join", person.handle, {"role": person.role}, now=review.clock())
        return person

    return await _begin_session(request, await review.database.run(work))


@router.get("/account")
async def account(request: Request) -> Response:
    await transact(request, lambda tx, me: None, reads=True)
    return await page(request, "account.html")


@router.post("/account/password")
async def change_password(request: Request, old: Password, new: NewPassword) -> Response:
    """Set a new password. Every session ends, and this browser gets a new one."""
    review = get_review(request)

    def current(tx: sa.Connection, me: Person) -> tuple[Person, str | None]:
        credentials = people.credentials(tx, me.name or "")
        return me, credentials[1] if credentials else None

    me, encoded = await transact(request, current, reads=True)
    use = ("password", str(me.id))
    await review.limiter.hit(use)
    if not await security.in_turn(security.is_password, old, encoded):
        return await page(request, "account.html", 403, problem="wrong_old_password", path="/account")
    review.limiter.refund(use)
    hashed = await security.in_turn(security.hash_password, new)

    def work(tx: sa.Connection, me: Person) -> None:
        people.set_password(tx, me.id, hashed)
        note(tx, me.id, "password", me.handle, {}, now=review.clock())

    await transact(request, work)
    return await _begin_session(request, me)


def _network(request: Request) -> str:
    """What an address is counted by."""
    return rate_limits.network(request.client.host if request.client else "")


async def _find_invitation(request: Request, token: str) -> sa.Row:
    """The invitation that a link names; only links that are not known count against an address.

    Raises:
        NotFound: it does not exist, was used or is too old.
        TooMany: the address has tried too many unknown links.
    """
    review = get_review(request)
    use = ("invite", _network(request))
    await review.limiter.hit(use)
    invitation = await review.database.read(people.find_invite, security.digest(token), review.clock())
    if invitation is None:
        raise NotFound("invitation_used")
    review.limiter.refund(use)
    return invitation


async def _begin_session(request: Request, person: Person) -> Response:
    """Start a session with a new token, whatever cookie the browser sent, and end the old session."""
    review = get_review(request)
    token, now = security.new_token(), review.clock()
    before = request.cookies.get(review.session_cookie)

    def work(tx: sa.Connection) -> None:
        if before:
            people.end_session(tx, security.digest(before))
        people.add_session(tx, security.digest(token), person.id, now=now, expires=now + SESSION_SECONDS)

    await review.database.run(work)
    answer = see_other("/")
    review.set_cookie(answer, review.session_cookie, token, SESSION_SECONDS)
    return answer

"""Who gets into every route, wherever the CSRF token is, and that no other visitor's body is read."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter
from starlette.testclient import TestClient

from align.review import routes, security
from align.review.access import SAFE_METHODS, GuardedRoute, Role
from align.review.app import ROUTERS, create_app
from align.review.store import people

from .conftest import ORIGIN, SECRET, World
from .test_assignment import take

PROJECT = Path(__file__).parents[2]
NO_SESSION = {"anonymous", "expired", "disabled", "signed out", "made up"}
ALLOWED = {
    Role.PUBLIC: NO_SESSION | {"other", "member", "admin", "rating admin"},
    Role.PERSON: {"other", "member", "admin", "rating admin"},
    Role.MEMBER: {"member", "rating admin"},
    Role.ADMIN: {"admin", "rating admin"},
}
VISITORS = sorted(ALLOWED[Role.PUBLIC])
PLACES = ("form", "header", "both", "none", "wrong form", "wrong header")


def all_routers() -> list[APIRouter]:
    """Every router in every module of align.review.routes."""
    names = [f"{routes.__name__}.{module.name}" for module in pkgutil.iter_modules(routes.__path__)]
    found = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return [value for value in found if isinstance(value, APIRouter)]


def all_routes() -> list[GuardedRoute]:
    return [route for router in all_routers() for route in router.routes]


class Visits:
    """One app, and a session cookie for each kind of visitor of the campaign spring."""

    def __init__(self, world: World):
        self.world = world
        self.spring, self.autumn = world.campaign(), world.campaign("autumn")
        member = world.person("rater", self.spring)
        visitors = {
            "other": world.person("rater", self.autumn),
            "member": member,
            "admin": world.person("admin"),
            "rating admin": world.person("admin", self.spring),
            "expired": world.person("admin", self.spring),
            "disabled": world.person("admin", self.spring),
            "signed out": world.person("admin", self.spring),
        }
        self.tokens = {name: security.new_token() for name in (*visitors, "made up", "anonymous")}
        for name, person in visitors.items():
            expires = world.clock() + (-1 if name == "expired" else 1e6)
            digest = security.digest(self.tokens[name])
            world.do(people.add_session, digest, person.id, now=0.0, expires=expires)
        # A session that is left behind does not count: people.set_disabled would have ended it.
        disabled = people.person.update().where(people.person.c.id == visitors["disabled"].id).values(disabled=True)
        world.do(lambda tx: tx.execute(disabled))
        world.do(people.end_sessions, visitors["signed out"].id)
        held = take(world, self.spring, member)
        invitation = security.new_token()
        expires = world.clock() + 100
        world.do(people.add_invite, security.digest(invitation), role="rater", campaign_id=None, expires=expires)
        self.parameters = {
            "campaign": "spring",
            "name": "spring",
            "number": str(held.id),
            "handle": member.handle,
            "kind": "csv",
            "token": invitation,
        }
        self.client = TestClient(create_app(world.review, quiet=True), base_url=ORIGIN, follow_redirects=False)

    def send(self, route: GuardedRoute, visitor: str, place: str, origin: str = ORIGIN) -> tuple[int, bool]:
        """(status, whether any of the body was read) of one request."""
        path = route.path
        for name, value in self.parameters.items():
            path = path.replace(f"{{{name}}}", value)
        assert "{" not in path, f"fill in the parameters of {route.path}"
        review, token = self.world.review, self.tokens[visitor]
        cookie = review.visitor_cookie if visitor == "anonymous" else review.session_cookie
        headers = {"origin": origin, "cookie": f"{cookie}={token}", "accept": "application/json"}
        right, wrong = security.csrf_token(SECRET, token), "0" * 64
        if "header" in place or place == "both":
            headers["x-csrf-token"] = wrong if "wrong" in place else right
        form = b"unknown=1"
        if "form" in place or place == "both":
            form = f"csrf={wrong if 'wrong' in place else right}".encode()
        headers["content-type"] = "application/x-www-form-urlencoded"
        read = []

        def body() -> Iterator[bytes]:
            read.append(True)
            yield form

        [method] = route.methods
        if method in SAFE_METHODS:
            return self.client.request(method, path, headers=headers).status_code, False
        return self.client.request(method, path, headers=headers, content=body()).status_code, bool(read)


@pytest.fixture
def visits(small_world: World, monkeypatch: pytest.MonkeyPatch) -> Visits:
    return Visits(small_world)


def test_every_route_declares_a_role(small_world):
    for route in all_routes():
        assert isinstance(route, GuardedRoute) and isinstance(route.role, Role), f"{route.path} declares no role"
    assert {id(router) for router in all_routers()} == {id(router) for router in ROUTERS}
    app = create_app(small_world.review, quiet=True).app
    ours = {id(router) for router in ROUTERS}
    others = [
        route
        for route in app.routes
        if not isinstance(route, GuardedRoute) and id(getattr(route, "original_router", None)) not in ours
    ]
    assert [route.path for route in others] == ["/static"]  # files that are the same for everybody


def test_the_administration_is_for_admins():
    assert len(all_routes()) > 30
    for route in all_routes():
        assert (route.role is Role.ADMIN) == route.path.startswith("/admin"), route.path
        assert (route.role is Role.MEMBER) == ("{campaign}" in route.path), route.path


def test_every_route_lets_in_its_role_alone_wherever_the_token_is(visits):
    """Who may not use a route is refused before its body is read, and learns nothing but that."""
    # Last what changes the visitors: admins join the campaign, and signing out ends their sessions.
    for route in sorted(all_routes(), key=lambda route: (route.path == "/logout", route.role is Role.ADMIN)):
        safe = route.methods <= set(SAFE_METHODS)
        for visitor in VISITORS:
            for place in ("none",) if safe else PLACES:
                status, read = visits.send(route, visitor, place)
                case = (sorted(route.methods), route.path, visitor, place, status)
                if visitor not in ALLOWED[route.role]:
                    assert status == (401 if visitor in NO_SESSION else 404), case
                    assert not read, case
                elif safe or place in ("form", "header", "both"):
                    assert status not in (401, 403, 404, 500), case
                else:
                    assert status == 403, case


def test_no_route_reads_what_comes_from_another_site(visits):
    for route in all_routes():
        if not route.methods <= set(SAFE_METHODS):
            for visitor in ("anonymous", "rating admin"):
                assert visits.send(route, visitor, "both", "https://evil.example") == (403, False), route.path


def test_nothing_of_the_store_is_told_to_a_visitor(visits):
    """An anonymous POST with the token of the sign-in page once answered with the names of artifacts."""
    headers = {"origin": ORIGIN, "cookie": f"align_visitor={visits.tokens['anonymous']}"}
    headers["x-csrf-token"] = security.csrf_token(SECRET, visits.tokens["anonymous"])
    answer = visits.client.post("/admin/campaigns/x/load", data={"ref": "nowhere:v1"}, headers=headers)
    assert answer.status_code == 401 and answer.json() == {"detail": "Please sign in."}


def test_security_md_names_what_a_visitor_reaches():
    told = re.search(r"A visitor without an account.*?nothing else", (PROJECT / "SECURITY.md").read_text(), re.DOTALL)[
        0
    ]
    public = {f"/{route.path.split('/')[1]}" for route in all_routes() if route.role is Role.PUBLIC}
    assert set(re.findall(r"`(/[\w.]+)`", told)) == public | {"/static"}

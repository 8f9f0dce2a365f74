"""Requests from other sites, and things that belong to somebody else. test_roles.py has roles and routes."""

import re

import pytest

from align.review import security
from align.review.store import ratings

from .conftest import SECRET
from .test_assignment import send, take
from .test_roles import all_routes

POLICY = {
    "default-src 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    *(f"{kind} 'self'" for kind in ("script-src", "style-src", "img-src", "connect-src", "form-action")),
}
ISOLATION = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", ""])
def test_requests_from_elsewhere_are_refused(rater, origin):
    world, browser, _ = rater
    assert browser.api("/spring/next", origin=origin).status_code == 403
    assert browser.post("/logout", origin=origin).status_code == 403
    assert browser.api("/spring/next").status_code == 200


@pytest.mark.parametrize("token", ["none", "made up", "another session's", "another secret's"])
def test_requests_without_the_pages_token_are_refused(rater, token):
    world, browser, _ = rater
    session = browser.client.cookies[world.review.session_cookie]
    given = {
        "none": "",
        "made up": "0" * 64,
        "another session's": security.csrf_token(SECRET, security.new_token()),
        "another secret's": security.csrf_token(b"another secret" * 3, session),
    }[token]
    assert browser.api("/spring/next", **{"x-csrf-token": given}).status_code == 403
    assert browser.post("/account/password", {"old": "a", "new": "b" * 12}, csrf=given).status_code == 403
    assert browser.api("/spring/next", **{"x-csrf-token": security.csrf_token(SECRET, session)}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8765", "localhost:1", "LOCALHOST", "[::1]:80", "[::1]"])
def test_the_names_of_this_server_are_answered(rater, host):
    _, browser, _ = rater
    assert browser.client.get("/login", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1:8765.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:123456",
        "127.0.0.1:80:80",
        "[::1",
        "[::1].evil.example",
        "me@127.0.0.1",
        "127.0.0.1/x",
        " ",
        "",
    ],
)
def test_any_other_host_is_refused(rater, host):
    _, browser, _ = rater
    assert browser.client.get("/login", headers={"host": host}).status_code == 421


def test_a_request_with_two_hosts_is_refused(rater):
    _, browser, _ = rater
    headers = [("host", "127.0.0.1"), ("host", "evil.example")]
    for order in (headers, headers[::-1]):
        assert browser.client.get("/login", headers=order).status_code == 421


@pytest.mark.parametrize("role", ["rater", "admin"])
def test_nothing_of_a_campaign_is_open_to_who_is_not_in_it(small_world, role):
    into = small_world.campaign()
    member = small_world.person("rater", into)
    given = take(small_world, into, member)
    outsider = small_world.browser(small_world.person(role))
    rating = {"key": "k" * 10, "verdict": "a"}
    assert outsider.get("/rate/spring").status_code == 404
    for path, body in (
        ("/spring/next", None),
        (f"/spring/assignments/{given.id}/rating", rating),
        (f"/spring/assignments/{given.id}/skip", {"key": "k" * 10, "reason": "unclear"}),
        ("/spring/undo", {"key": "k" * 10}),
        ("/nowhere/next", None),
    ):
        assert outsider.api(path, body).status_code == 404
    assert small_world.do(ratings.current, into.id) == []


def test_an_assignment_is_its_raters_alone_in_its_campaign_alone(small_world):
    spring, autumn = small_world.campaign(), small_world.campaign("autumn")
    mine, other = (small_world.person("rater", spring, autumn) for _ in range(2))
    given = take(small_world, spring, mine)
    rating = {"key": "k" * 10, "verdict": "a"}
    assert small_world.browser(other).api(f"/spring/assignments/{given.id}/rating", rating).status_code == 404
    assert small_world.browser(mine).api(f"/autumn/assignments/{given.id}/rating", rating).status_code == 404
    assert small_world.browser(mine).api(f"/spring/assignments/{given.id}/rating", rating).status_code == 200


def test_undo_and_adjudication_stay_in_their_campaign(small_world):
    spring, autumn = small_world.campaign(), small_world.campaign("autumn")
    rater, admin = small_world.person("rater", spring, autumn), small_world.person("admin")
    given = take(small_world, spring, rater)
    send(small_world, spring, rater, given)
    assert small_world.browser(rater).api("/autumn/undo", {"key": "k" * 10}).status_code == 409
    decided = {"verdict": "b", "key": "k" * 12}
    path = f"/admin/campaigns/autumn/items/{given.item_id}/verdict"
    assert small_world.browser(admin).post(path, decided).status_code == 422
    assert small_world.do(ratings.adjudicated, autumn.id) == {}
    assert len(small_world.do(ratings.current, spring.id)) == 1


def test_no_page_takes_a_field_to_filter_or_sort_by():
    """What a query names never reaches SQL, because no route reads a query."""
    assert [route.path for route in all_routes() if route.dependant.query_params] == []


def test_the_screen_is_blind(rater):
    world, browser, _ = rater
    text = browser.api("/spring/next").text + browser.get("/rate/spring").text
    assert "dpo:v1" not in text and "sft:v1" not in text and "flipped" not in text


def test_pages_cannot_be_framed_and_load_nothing_from_elsewhere(rater):
    _, browser, _ = rater
    for path in ("/login", "/rate/spring", "/static/rate.js", "/nowhere", "/healthz"):
        headers = browser.get(path).headers
        assert set(headers["content-security-policy"].split("; ")) == POLICY
        assert {name: headers[name] for name in ISOLATION} == ISOLATION
    assert browser.get("/rate/spring").headers["cache-control"] == "no-store"
    page = browser.get("/rate/spring").text
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<style" not in page and " style=" not in page
    assert not re.search(r"<script(?![^>]*src=)", page) and not re.search(r"\son\w+=", page)

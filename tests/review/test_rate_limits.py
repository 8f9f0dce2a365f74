"""Guessing is slowed down, nobody is locked out, and behind a proxy each visitor is counted alone."""

import asyncio
from pathlib import Path

import httpx
import pytest

from align.errors import UserError
from align.review import rate_limits, security
from align.review.database import SERVER_PATIENCE
from align.review.errors import TooMany
from align.review.loading import DEEPEST, MOST_ANSWERS, MOST_PAIRS, MOST_RATINGS
from align.review.middleware import LARGEST_BODY, LARGEST_UPLOAD, SLOWEST_BODY
from align.review.rate_limits import RATES, Limiter, Rate, network
from align.review.rendering import LONGEST, STEPS
from align.review.server import HEAD_BYTES, HEAD_FIELDS, HEAD_SECONDS, check_proxies, make_config

from .conftest import Browser, Clock, World
from .test_signing_in import PASSWORD, invited, join

ELSEWHERE = "198.51.100.7"


def sign_in(browser: Browser, name: str, password: str) -> int:
    if browser.csrf is None:
        browser.get("/login")
    return browser.post("/login", {"name": name, "password": password}).status_code


def test_guessing_a_password_is_slowed_down_and_the_right_one_still_works(small_world):
    join(small_world)
    browser = small_world.browser(address=ELSEWHERE)
    rate = RATES["login-address-account"]
    for at in range(rate.burst):
        assert sign_in(browser, "ada", f"guess number {at}") == 401
    assert small_world.waits == []
    for at in range(20):
        assert sign_in(browser, "ADA", f"guess number {at}") == 401  # a name is counted however it is written
    assert len(small_world.waits) == 20 and sum(small_world.waits) == pytest.approx(20 * rate.interval)
    assert sign_in(browser, "ada", PASSWORD) == 303


def test_nobody_locks_out_a_name_they_know(small_world):
    """From one address or from many: whoever has the password signs in from their own, within seconds."""
    join(small_world)

    async def sleep(seconds: float) -> None:
        small_world.waits.append(seconds)  # and no time passes: all attackers try at once

    small_world.review.limiter.sleep = sleep
    for number in range(7):
        attacker = small_world.browser(address=f"203.0.113.{number}")
        for at in range(9):
            assert sign_in(attacker, "ada", f"guess number {at}") in (401, 429)
    small_world.waits.clear()
    assert sign_in(small_world.browser(address=ELSEWHERE), "ada", PASSWORD) == 303
    assert 0 < sum(small_world.waits) <= RATES["login-account"].patience


def test_a_flood_is_refused_and_lengthens_no_wait(small_world):
    clock = Clock()
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)  # and no time passes: all come at once

    limiter = Limiter(clock, sleep, {"login": Rate(burst=3, interval=5.0, patience=10.0)})

    async def flood() -> list[int | None]:
        refused = []
        for _ in range(500):
            try:
                await limiter.hit(("login", "x"))
            except TooMany as error:
                refused.append(error.retry_after)
        return refused

    refused = asyncio.run(flood())
    assert len(refused) == 500 - 3 - 2 and set(refused) == {15}
    assert waits == [5.0, 10.0]


def test_a_refusal_says_when_to_come_again(small_world, monkeypatch):
    monkeypatch.setitem(RATES, "login-address", Rate(burst=1, interval=60.0))
    browser = small_world.browser()
    assert sign_in(browser, "ada", "guess") == 401
    answer = browser.post("/login", {"name": "ada", "password": "guess"})
    assert answer.status_code == 429 and answer.headers["retry-after"] == "60"


def test_an_office_signs_in_without_a_wait(small_world):
    """Right passwords are not counted, from however many people at one address."""
    browser = join(small_world)
    for _ in range(RATES["login-address"].burst + 2):
        browser.get("/login")
        assert sign_in(browser, "ada", PASSWORD) == 303
    assert small_world.waits == []


def test_guessing_names_from_one_address_is_slowed_down(small_world):
    browser = small_world.browser()
    rate = RATES["login-address"]
    for at in range(rate.burst + 5):
        assert sign_in(browser, f"name {at}", "guess") == 401
    assert len(small_world.waits) == 5
    assert sign_in(small_world.browser(address=ELSEWHERE), "name", "guess") == 401
    assert len(small_world.waits) == 5


def test_invitations_are_counted_apart_and_only_those_that_are_not_known(small_world):
    browser = small_world.browser()
    for at in range(RATES["invite"].burst + 2):
        assert browser.get(f"/invite/{at}").status_code == 404
    assert len(small_world.waits) == 2
    small_world.waits.clear()
    small_world.clock.now += 100
    for number in range(12):
        join(small_world, f"name {number}")  # each opens and accepts a link that works
    assert sign_in(browser, "nobody", "guess") == 401
    assert small_world.waits == []


def test_a_hash_is_only_computed_for_an_invitation_that_works(small_world, monkeypatch):
    hashed = []
    monkeypatch.setattr(security, "hash_password", lambda password: hashed.append(password) or "hash")
    browser = small_world.browser()
    browser.get(f"/invite/{invited(small_world)}")
    assert browser.post("/invite/unknown", {"name": "eve", "password": PASSWORD}).status_code == 404
    assert hashed == []


def test_guessing_the_old_password_is_slowed_down(small_world):
    browser = join(small_world)
    browser.get("/account")
    for at in range(RATES["password"].burst + 2):
        sent = {"old": f"guess {at}", "new": "another password"}
        assert browser.post("/account/password", sent).status_code == 403
    assert len(small_world.waits) == 2
    assert browser.post("/account/password", {"old": PASSWORD, "new": "another password"}).status_code == 303


def test_pages_and_ratings_are_limited_per_person(small_world):
    rates = RATES | {"page": Rate(3, 1.0), "rating": Rate(2, 1.0)}
    small_world.review.limiter = Limiter(small_world.clock, small_world.sleep, rates)
    into = small_world.campaign()
    browser, other = (small_world.browser(small_world.person("rater", into)) for _ in range(2))
    assert [browser.get("/account").status_code for _ in range(4)] == [200] * 3 + [429]
    assert [browser.api("/spring/next").status_code for _ in range(3)] == [200] * 2 + [429]
    assert other.get("/account").status_code == 200
    small_world.clock.now += 1
    assert browser.get("/account").status_code == 200


def test_the_limiter_keeps_a_bounded_number_of_keys(monkeypatch):
    monkeypatch.setattr(rate_limits, "MOST_KEYS", 100)
    clock = Clock()
    limiter = Limiter(clock, rates={"login": Rate(burst=2, interval=10.0)})

    async def fill() -> None:
        for number in range(1000):
            await limiter.hit(("login", f"key {number}"))
            clock.now += 0.01

    asyncio.run(fill())
    assert len(limiter._due) <= 101
    clock.now += 1000
    asyncio.run(fill())
    assert len(limiter._due) <= 101


def test_an_address_is_counted_by_its_network():
    assert network("192.0.2.1") == network("::ffff:192.0.2.1") == "192.0.2.1"
    assert network("2001:db8::1") == network("2001:db8::ffff:2") != network("2001:db8:0:1::1")
    assert len(network("x" * 1000)) == 64


def test_the_guide_tells_the_limits_that_there_are():
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "review.md").read_text("utf-8")
    account, address, everybody = (RATES[f"login-{name}"] for name in ("address-account", "address", "account"))
    page, rating, invite = RATES["page"], RATES["rating"], RATES["invite"]
    for sentence in (
        f"one address | {account.burst} at once, then one per {account.interval:g} s |",
        f"from one address | {address.burst} at once, then one per {address.interval:g} s |",
        f"from {everybody.burst} on each attempt waits up to {everybody.patience:g} s |",
        f"from one address | {invite.burst} at once, then one per {invite.interval:g} s |",
        f"per person | {60 / page.interval:.0f} and {60 / rating.interval:,.0f} per minute |",
        f"| {HEAD_BYTES // 1024} kB, {HEAD_FIELDS} headers, {HEAD_SECONDS:g} s |",
        f"| {LARGEST_BODY // 1024} kB; {LARGEST_UPLOAD // 1024**2} MB from admins; {SLOWEST_BODY:g} s |",
        f"| {LONGEST:,} characters; beyond {STEPS:,} parser steps",
        f"out of reach for {SERVER_PATIENCE:g} s",
        f"more than {MOST_ANSWERS} answers ({MOST_ANSWERS * (MOST_ANSWERS - 1) // 2} pairs)",
        f"more than {MOST_RATINGS} ratings",
        f"more than {DEEPEST} lists",
        f"more than {MOST_PAIRS:,} pairs",
    ):
        assert sentence in " ".join(guide.split()), sentence


# -- behind a proxy --------------------------------------------------------------------------------------------------


def visit(world: World, proxies: list[str], address: str, forwarded: str | None) -> str:
    """The address that a visitor through `address` is counted by."""
    config = make_config(world.review, proxies)
    config.load()
    counted = []

    async def hit(*uses: tuple[str, str]) -> None:
        counted.append(dict(uses)["invite"])

    world.review.limiter.hit = hit

    async def ask() -> None:
        transport = httpx.ASGITransport(config.loaded_app, client=(address, 1), raise_app_exceptions=True)
        headers = {"x-forwarded-for": forwarded} if forwarded else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await client.get("/invite/x", headers=headers)

    asyncio.run(ask())
    return counted[0]


@pytest.mark.parametrize(
    ("proxies", "address", "forwarded", "counted"),
    [
        ([], "127.0.0.1", "198.51.100.7", "127.0.0.1"),  # nobody is believed unless named
        (["127.0.0.1"], "127.0.0.1", "198.51.100.7", "198.51.100.7"),
        (["127.0.0.1"], "127.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),  # what the visitor made up
        (["127.0.0.1"], "203.0.113.5", "198.51.100.7", "203.0.113.5"),  # a visitor, not the proxy
        (["127.0.0.1", "10.0.0.0/8"], "127.0.0.1", "198.51.100.7, 10.1.2.3", "198.51.100.7"),
        (["127.0.0.1"], "127.0.0.1", None, "127.0.0.1"),
    ],
)
def test_a_trusted_proxy_names_the_visitor(small_world, proxies, address, forwarded, counted):
    small_world.campaign()
    assert visit(small_world, proxies, address, forwarded) == counted


@pytest.mark.parametrize("address", ["*", "localhost", "10.0.0.1/8", "proxy.example", ""])
def test_a_proxy_is_an_address_or_a_network(address):
    with pytest.raises(UserError, match="--trusted-proxy .* is not an address or a network"):
        check_proxies([address])

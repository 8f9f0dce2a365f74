"""Coming in and being let out: invitations, passwords, sessions, and the secret behind them."""

import os
import re
import stat
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from align.errors import UserError
from align.review import security
from align.review.server import first_link
from align.review.store import people
from align.review.tables import metadata, session

from .conftest import Browser, World

PASSWORD = "correct horse battery"


def invited(world: World, role: str = "rater", into=None) -> str:
    token = security.new_token()
    number = into.id if into else None
    world.do(people.add_invite, security.digest(token), role=role, campaign_id=number, expires=world.clock() + 100)
    return token


def join(world: World, name: str = "ada", **invitation) -> Browser:
    browser = world.browser()
    token = invited(world, **invitation)
    assert browser.get(f"/invite/{token}").status_code == 200
    answer = browser.post(f"/invite/{token}", {"name": name, "password": PASSWORD})
    assert answer.status_code == 303, answer.text
    return browser


def sign_in(world: World, name: str, password: str) -> tuple[Browser, int]:
    browser = world.browser()
    browser.get("/login")
    return browser, browser.post("/login", {"name": name, "password": password}).status_code


def test_an_invitation_works_once_and_for_a_while(world):
    token = invited(world)
    first, second = world.browser(), world.browser()
    for browser in (first, second):
        browser.get(f"/invite/{token}")
    assert first.post(f"/invite/{token}", {"name": "ada", "password": PASSWORD}).status_code == 303
    assert second.post(f"/invite/{token}", {"name": "eve", "password": PASSWORD}).status_code == 404
    old = invited(world)
    world.clock.now += 101
    assert second.get(f"/invite/{old}").status_code == 404
    assert second.post(f"/invite/{old}", {"name": "eve", "password": PASSWORD}).status_code == 404
    assert [one.name for one in world.do(people.everybody)] == ["ada"]


def test_the_first_start_gives_a_link_for_one_admin(small_world):
    old, new = (urlsplit(first_link(small_world.review)).path for _ in range(2))
    browser = small_world.browser()
    assert browser.get(old).status_code == 404  # a start that came after it made another
    assert browser.get(new).status_code == 200
    assert browser.post(new, {"name": "ada", "password": PASSWORD}).status_code == 303
    assert [(one.name, one.role) for one in small_world.do(people.everybody)] == [("ada", "admin")]
    assert first_link(small_world.review) is None


def test_there_is_no_other_way_in(small_world):
    browser = small_world.browser()
    assert browser.get("/invite/" + "x" * 43).status_code == 404
    for path in ("/", "/rate/spring", "/admin", "/account"):
        answer = browser.get(path)
        assert answer.status_code == 303 and answer.headers["location"] == "/login"
    for path in ("/register", "/signup", "/docs", "/redoc"):
        assert browser.get(path).status_code == 404


def test_a_session_begins_anew_at_every_sign_in_and_ends_at_sign_out(small_world):
    browser = join(small_world)
    cookie = small_world.review.session_cookie
    first = browser.client.cookies[cookie]
    # Whoever planted a token gains nothing: signing in makes another.
    planted = security.new_token()
    victim = small_world.browser()
    victim.client.cookies.set(cookie, planted, domain="127.0.0.1", path="/")
    victim.csrf = security.csrf_token(small_world.review.secret, planted)
    assert victim.post("/login", {"name": "ada", "password": PASSWORD}).status_code == 303
    fresh = [one.value for one in victim.client.cookies.jar if one.name == cookie]
    assert planted not in fresh[-1:] and first not in fresh
    # Signing in again ends the session that was.
    browser.get("/login")
    assert browser.post("/login", {"name": "ada", "password": PASSWORD}).status_code == 303
    second = browser.client.cookies[cookie]
    thief = small_world.browser()
    thief.client.cookies.set(cookie, first, domain="127.0.0.1", path="/")
    assert second != first and thief.get("/account").status_code == 303
    browser.get("/account")
    assert browser.post("/logout").status_code == 303
    thief = small_world.browser()
    thief.client.cookies.set(cookie, second, domain="127.0.0.1", path="/")
    assert thief.get("/account").status_code == 303


def test_a_new_password_ends_every_other_session(small_world):
    one = join(small_world)
    two, status = sign_in(small_world, "ada", PASSWORD)
    assert status == 303
    one.get("/account")
    assert one.post("/account/password", {"old": "wrong", "new": "x" * 12}).status_code == 403
    assert one.post("/account/password", {"old": PASSWORD, "new": "another password"}).status_code == 303
    assert two.get("/account").headers.get("location") == "/login"
    assert one.get("/account").status_code == 200
    assert sign_in(small_world, "ada", PASSWORD)[1] == 401
    assert sign_in(small_world, "ada", "another password")[1] == 303


def test_cookies_are_for_the_browser_alone(small_world):
    browser = small_world.browser()
    cookie = browser.get("/login").headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    small_world.review.origin = "https://review.example.org"
    app = small_world.browser()
    cookie = app.client.get("/login", headers={"host": "review.example.org"}).headers["set-cookie"]
    assert cookie.startswith("__Host-") and "Secure" in cookie


def test_not_every_name_and_password_will_do(small_world):
    token = invited(small_world)
    browser = small_world.browser()
    browser.get(f"/invite/{token}")
    for password in ("123456789", "x" * 257):
        assert browser.post(f"/invite/{token}", {"name": "ada", "password": password}).status_code == 422
    assert browser.post("/login", {"name": "ada", "password": "x" * 257}).status_code == 422
    # import:alice is somebody who rated elsewhere
    assert browser.post(f"/invite/{token}", {"name": "import:alice", "password": PASSWORD}).status_code == 409
    assert small_world.do(people.everybody) == []


def test_what_is_kept_opens_nothing(small_world):
    """Who reads the database finds no password, no session and no invitation to use."""
    browser = join(small_world)
    held = browser.client.cookies[small_world.review.session_cookie]
    link = invited(small_world)

    def everything(tx: sa.Connection) -> str:
        return str([tx.execute(sa.select(table)).all() for table in metadata.sorted_tables])

    kept = small_world.do(everything)
    assert "$argon2id$" in kept and "ada" in kept
    for secret in (PASSWORD, held, link):
        assert secret not in kept


def test_nobody_learns_who_has_an_account(small_world, monkeypatch):
    join(small_world)
    verified = []
    monkeypatch.setattr(security, "is_password", lambda password, encoded: verified.append(encoded) or False)
    texts = []
    for name in ("ada", "nobody"):
        browser = small_world.browser()
        browser.get("/login")
        answer = browser.post("/login", {"name": name, "password": "wrong password"})
        texts.append((answer.status_code, re.sub(r'value="[^"]*"|content="[^"]*"', "", answer.text)))
    assert texts[0] == texts[1]
    assert len(verified) == 2  # a hash is computed for either


def test_a_password_is_compared_even_with_nobody(monkeypatch):
    compared = []
    monkeypatch.setattr(security._HASHER.__class__, "verify", lambda self, encoded, word: compared.append(encoded))
    security._nobody.cache_clear()
    assert not security.is_password("word", None)
    assert len(compared) == 1 and compared[0].startswith("$argon2id$")


def test_who_is_shut_out_is_out_at_once(small_world):
    browser = join(small_world)
    [ada] = small_world.do(people.everybody)
    small_world.do(people.set_disabled, ada.id, True)
    assert browser.get("/account").status_code == 303
    assert sign_in(small_world, "ada", PASSWORD)[1] == 401
    assert small_world.do(lambda tx: tx.execute(sa.select(session)).all()) == []
    # Nor does a session count that is there all the same.
    assert small_world.browser(ada).get("/account").status_code == 303
    small_world.do(people.set_disabled, ada.id, False)
    assert browser.get("/account").status_code == 303
    assert small_world.browser(ada).get("/account").status_code == 200


def test_a_session_ends_after_two_weeks(small_world):
    browser = join(small_world)
    small_world.clock.now += 14 * 86400 - 1
    assert browser.get("/account").status_code == 200
    small_world.clock.now += 2
    assert browser.get("/account").status_code == 303


def test_nothing_is_redirected_elsewhere(small_world):
    join(small_world)
    for target in ("//evil.example", "https://evil.example", "/\\evil.example"):
        browser = small_world.browser()
        browser.get("/login", params={"next": target})
        answer = browser.post(f"/login?next={target}", {"name": "ada", "password": PASSWORD, "next": target})
        assert answer.headers["location"] == "/"
    assert not browser.get("//evil.example/..").headers.get("location", "/").startswith(("//", "http"))


# -- the secret ------------------------------------------------------------------------------------------------------


def test_the_first_start_makes_a_secret_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv(security.SECRET_VARIABLE, raising=False)
    one, two = security.load_secret(tmp_path / "a"), security.load_secret(tmp_path / "b")
    assert one != two and len(one) == 64
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == 0o600
    assert security.load_secret(tmp_path / "a") == one


@pytest.mark.parametrize("secret", ["", "short", "changeme" * 8, "a" * 64, "secret" + "0123456789abcdef" * 4])
def test_a_weak_secret_is_refused(tmp_path, monkeypatch, secret):
    monkeypatch.setenv(security.SECRET_VARIABLE, secret)
    with pytest.raises(UserError, match="empty, short or well known"):
        security.load_secret(tmp_path / "a")
    monkeypatch.delenv(security.SECRET_VARIABLE)
    (tmp_path / "a").write_text(secret)
    (tmp_path / "a").chmod(0o600)
    with pytest.raises(UserError, match="empty, short or well known"):
        security.load_secret(tmp_path / "a")


def test_a_secret_that_others_can_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(security.SECRET_VARIABLE, raising=False)
    security.load_secret(tmp_path / "a")
    (tmp_path / "a").chmod(0o644)
    with pytest.raises(UserError, match="can be read by others"):
        security.load_secret(tmp_path / "a")

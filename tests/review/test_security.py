"""Attacks, each of which works if its defence is taken out."""

import asyncio
import csv
import importlib
import io
import json
import os
import pkgutil
import re
import stat

import pytest

from align.errors import UserError
from align.records import Comparison
from align.review import downloads, loading, rendering, routes, security, service
from align.review.rendering import LONGEST, to_html
from align.review.service import LARGEST_BODY
from align.review.store import campaigns, people, ratings
from align.review.store.ratings import Rating

from .conftest import ORIGIN, Browser, World, pairs
from .test_assignment import send, take

PASSWORD = "correct horse battery"

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "![x](https://evil.example/track.png)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "```\n<script>alert(1)</script>\n```",
    '```html"onmouseover=alert(1)\n<b>\n```',
    "$<img src=x onerror=alert(1)>$",
    "$\\text{<script>alert(1)</script>}$",
    "$\\href{javascript:alert(1)}{x}$",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<style>*{display:none}</style>",
    '<form action="https://evil.example"><input name=password></form>',
    '<iframe src="https://evil.example"></iframe>',
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example>",
    '"><script>alert(1)</script>',
    "{{ 7 * 7 }}{% raw %}",
    "<div class=bar style=position:fixed>x</div>",
    "| a |\n|---|\n| <img src=x onerror=alert(1)> |",
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_what_is_written_stays_text(payload):
    html = str(to_html(payload))
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z0-9-]+)", html))
    assert not tags & {"script", "img", "svg", "style", "iframe", "form", "input", "meta", "base", "mglyph", "object"}
    assert not re.search(r"<[^>]*\s(on\w+|style|class|id|src)\s*=", html)
    assert not re.search(r"<[^>]*(javascript|data|vbscript):", html, re.I)


def test_good_text_survives():
    html = str(
        to_html(
            "# Title\n\n- one\n- **two** `x < y`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n$x^2$ and [l](https://e.org)"
        )
    )
    for part in (
        "<h1>",
        "<li>",
        "<strong>two</strong>",
        "x &lt; y",
        "<td>1</td>",
        "<msup>",
        'href="https://e.org"',
        "noopener",
    ):
        assert part in html
    assert "more characters are not shown" in str(to_html("a" * (LONGEST + 5)))


def test_html_is_shown_as_it_was_written():
    """Taken out by the sanitizer it would be gone, and the rater would judge something else."""
    assert "&lt;b&gt;bold&lt;/b&gt;" in str(to_html("<b>bold</b>"))


def test_the_sanitizer_comes_last(monkeypatch):
    """Whatever Markdown or mathematics might make of a text, what is unknown goes and links stay harmless."""
    monkeypatch.setattr(rendering._MARKDOWN, "render", lambda text: text)
    for payload in (
        "<script>1</script>",
        '<a href="javascript:1">x</a>',
        "<p onclick=1 style=x class=y>z</p>",
        "<img src=x>",
    ):
        html = str(to_html(f"{payload} unseen before"))
        assert not re.search("script|onclick|style|class|img", html), html


def test_deep_nesting_is_rendered_in_time():
    for text in ("> " * 20_000 + "x", "[" * 20_000, "*" * 20_000 + "x", "$" + "{" * 1_900 + "$", "- " * 5_000):
        assert len(str(to_html(text))) < 2_000_000


@pytest.fixture
def rater(small_world) -> tuple[World, Browser, object]:
    into = small_world.campaign()
    person = small_world.person("rater", into)
    return small_world, small_world.browser(person), person


# -- cross-site requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", ""])
def test_requests_from_elsewhere_are_refused(rater, origin):
    world, browser, _ = rater
    assert browser.api("/spring/next", origin=origin).status_code == 403
    assert browser.post("/logout", origin=origin).status_code == 403
    assert browser.api("/spring/next").status_code == 200


@pytest.mark.parametrize("token", ["", "0" * 64, None])
def test_requests_without_the_pages_token_are_refused(rater, token):
    world, browser, _ = rater
    other = security.csrf_token(b"another secret" * 3, "x")
    for given in (other if token is None else token,):
        assert browser.api("/spring/next", **{"x-csrf-token": given}).status_code == 403
        assert browser.post("/account/password", {"old": "a", "new": "b" * 12}, csrf=given).status_code == 403


def all_routes() -> list:
    """Every route of every module in align.review.routes."""
    modules = [
        importlib.import_module(f"{routes.__name__}.{one.name}") for one in pkgutil.iter_modules(routes.__path__)
    ]
    return [route for module in modules for route in module.router.routes]


def test_every_route_that_changes_something_looks_at_the_origin(small_world):
    unsafe = [route for route in all_routes() if route.methods & {"POST", "PUT", "PATCH", "DELETE"}]
    assert len(unsafe) > 12
    browser = small_world.browser(small_world.person("admin"))
    for route in unsafe:
        path = re.sub(r"\{number\}", "1", route.path)
        path = re.sub(r"\{\w+\}", "x", path)
        assert browser.post(path, origin="https://evil.example").status_code == 403, path


def test_another_host_name_is_refused(rater):
    _, browser, _ = rater
    assert browser.client.get("/login", headers={"host": "evil.example"}).status_code == 421
    assert browser.client.get("/login", headers={"host": "localhost:8000"}).status_code == 200


# -- signing in ------------------------------------------------------------------------------------------------------


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
    assert second.post(f"/invite/{token}", {"name": "eve", "password": PASSWORD}).status_code == 409
    old = invited(world)
    world.clock.now += 101
    assert second.get(f"/invite/{old}").status_code == 404
    assert second.post(f"/invite/{old}", {"name": "eve", "password": PASSWORD}).status_code == 409
    assert [one.name for one in world.do(people.everybody)] == ["ada"]


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


def test_guessing_a_password_is_slowed_down(small_world):
    join(small_world)
    codes = [sign_in(small_world, "ada", f"guess number {at}")[1] for at in range(9)]
    assert codes == [401] * 8 + [429]
    assert sign_in(small_world, "ADA", PASSWORD)[1] == 429


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


# -- who may do what -------------------------------------------------------------------------------------------------


def test_to_a_rater_there_is_no_administration(rater):
    world, browser, _ = rater
    admin = [route for route in all_routes() if route.path.startswith("/admin")]
    assert len(admin) > 12
    bodies = {
        "name": "spring",
        "title": "x",
        "state": "closed",
        "role": "admin",
        "ref": "x:v1",
        "disabled": "true",
        "verdict": "a",
        "key": "k" * 8,
    }
    for route in admin:
        path = (
            route.path.replace("{name}", "spring")
            .replace("{number}", "1")
            .replace("{handle}", "r1")
            .replace("{kind}", "csv")
        )
        if "GET" in route.methods:
            assert browser.get(path).status_code == 404, path
        else:
            assert browser.post(
                path, bodies, files={"file": ("a.jsonl", b"")} if "upload" in path else None
            ).status_code in (404, 422), path
    assert world.do(campaigns.get_campaign, "spring").state == "open"


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


def test_the_screen_is_blind(rater):
    world, browser, _ = rater
    text = browser.api("/spring/next").text + browser.get("/rate/spring").text
    assert "dpo:v1" not in text and "sft:v1" not in text and "flipped" not in text


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_large_and_deep_bodies_are_refused(rater):
    _, browser, _ = rater
    path = "/spring/undo"
    assert browser.api(path, {"key": "k" * (LARGEST_BODY + 1)}).status_code == 413
    sent = {"origin": ORIGIN, "x-csrf-token": browser.csrf, "content-type": "application/json"}

    def unsized():
        for _ in range(40):
            yield b" " * 8192

    assert browser.client.post("/api/campaigns/spring/undo", content=unsized(), headers=sent).status_code == 413
    deep = "[" * 100_000 + "]" * 100_000
    assert browser.client.post("/api/campaigns/spring/undo", content=deep, headers=sent).status_code in (400, 422)
    assert browser.api(path, {"key": "k" * 10, "reason": "x", "person_id": 3}).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        '{"key": "kkkkkkkkkk", "verdict": NaN}',
        '{"key": "kkkkkkkkkk", "verdict": "a", "milliseconds": 1e999}',
        '{"key": "k\\u0000kkkkkkkk", "verdict": "a"}',
        "null",
        "[]",
        '"x"',
    ],
)
def test_what_is_no_rating_is_refused(rater, body):
    _, browser, _ = rater
    number = browser.api("/spring/next").json()["task"]["assignment"]
    sent = {"origin": ORIGIN, "x-csrf-token": browser.csrf, "content-type": "application/json"}
    answer = browser.client.post(f"/api/campaigns/spring/assignments/{number}/rating", content=body, headers=sent)
    assert answer.status_code == 422


def test_a_body_that_trickles_in_is_cut_off(small_world, monkeypatch):
    monkeypatch.setattr(service, "SLOWEST_BODY", 0.05)

    async def never() -> dict:
        await asyncio.Event().wait()
        return {}

    body = service._Body(never, 100)
    with pytest.raises(service.HTTPException) as cut:
        asyncio.run(body())
    assert cut.value.status_code == 408


@pytest.mark.parametrize(
    "word",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "x:v1/../..",
        "hf:org/model",
        "http://127.0.0.1/x",
        "..",
        "a\\b",
        "file:///etc/passwd",
    ],
)
def test_only_names_of_artifacts_are_opened(small_world, word, monkeypatch):
    opened = []
    monkeypatch.setattr(loading, "resolve_input", lambda *given, **options: opened.append(given))
    small_world.campaign()
    browser = small_world.browser(small_world.person("admin"))
    assert browser.post("/admin/campaigns/spring/load", {"ref": word}).status_code == 422
    assert opened == []


def test_an_uploads_name_is_only_a_name(small_world):
    into = small_world.campaign(count=0)
    browser = small_world.browser(small_world.person("admin"))
    line = json.dumps(pairs(1)[0][1]).encode()
    file = {"file": ("../../../../tmp/evil<script>.jsonl", line)}
    assert browser.post("/admin/campaigns/spring/upload", files=file).status_code == 303
    assert small_world.do(campaigns.count_items, into.id) == 1
    page = browser.get("/admin/audit").text
    assert "<script>" not in page.replace('<script src="', "")


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "|calc"])
def test_no_cell_of_a_csv_is_a_formula(start):
    one = Rating(1, 1, start, start, "main", "a", {}, start, False, False, None, 0.0)
    rows = list(csv.reader(io.StringIO(downloads.to_file([one], "csv").decode(), newline="")))
    assert all(
        not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "|")) for row in rows[1:] for cell in row
    )


def test_pages_cannot_be_framed_and_load_nothing_from_elsewhere(rater):
    _, browser, _ = rater
    for path in ("/login", "/rate/spring", "/static/rate.js", "/nowhere", "/healthz"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
    page = browser.get("/rate/spring").text
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<style" not in page and " style=" not in page
    assert not re.search(r"<script(?![^>]*src=)", page) and not re.search(r"\son\w+=", page)


def test_nothing_is_redirected_elsewhere(small_world):
    join(small_world)
    for target in ("//evil.example", "https://evil.example", "/\\evil.example"):
        browser = small_world.browser()
        browser.get("/login", params={"next": target})
        answer = browser.post(f"/login?next={target}", {"name": "ada", "password": PASSWORD, "next": target})
        assert answer.headers["location"] == "/"
    assert not browser.get("//evil.example/..").headers.get("location", "/").startswith(("//", "http"))


def test_stored_names_are_text_on_every_page(small_world):
    nasty = '"><script>alert(1)</script>'
    rubric = [{"id": "q1", "text": nasty, "kind": "choice", "choices": [nasty]}]
    into = small_world.campaign(title=nasty, instructions=nasty, rubric=rubric, rows=[nasty_pair(nasty)], overlap=2)
    admin = small_world.person("admin", into, name=nasty)
    raters = [small_world.person("rater", into, name=f"{nasty}{at}") for at in range(2)]
    for person, verdict in zip(raters, ("a", "b"), strict=True):
        given = take(small_world, into, person)
        send(
            small_world,
            into,
            person,
            given,
            ("b" if verdict == "a" else "a") if given.flipped else verdict,
            reason=nasty,
        )
    browser = small_world.browser(admin)
    for path in (
        "/",
        "/rate/spring",
        "/admin",
        "/admin/campaigns/spring",
        "/admin/campaigns/spring/disputes",
        "/admin/people",
        "/admin/audit",
    ):
        page = browser.get(path)
        assert page.status_code == 200
        assert "<script>" not in page.text, path
    assert "&lt;script&gt;" in browser.get("/admin/campaigns/spring/disputes").text


def nasty_pair(text: str) -> tuple[Comparison, dict]:
    answers = [{"completion": text, "model": text}, {"completion": text + "2", "model": "m"}]
    row = {"prompt": text, "answers": answers}
    return Comparison.from_row(row), row


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

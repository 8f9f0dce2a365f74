"""What is sent: bodies too large, too deep or too slow, paths, file names, formulas, and markup in every text."""

import asyncio
import csv
import io
import json
from types import SimpleNamespace

import pytest

from align.records import Comparison
from align.review import downloads, loading, middleware
from align.review.middleware import LARGEST_BODY
from align.review.store import campaigns, ratings
from align.review.store.ratings import Rating

from .conftest import ORIGIN, pairs
from .test_assignment import send, take


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


def test_zero_bytes_in_texts_are_left_out(world):
    """PostgreSQL refuses them, and a rating must not be lost to one."""
    rows = pairs(1, ratings=[{"rater": "al\0ice", "verdict": "a", "reason": "be\0tter", "at": float("nan")}])
    into = world.campaign(count=1, overlap=3)
    world.load(into, rows, now=5.0)
    rater = world.person("rater", into)
    browser = world.browser(rater)
    number = browser.api("/spring/next").json()["task"]["assignment"]
    sent = {"key": "k" * 10, "verdict": "a", "reason": "so\0 it is"}
    assert browser.api(f"/spring/assignments/{number}/rating", sent).status_code == 200
    assert [(one.reason, one.at) for one in world.do(ratings.current, into.id)] == [
        ("better", 5.0),
        ("so it is", world.clock()),
    ]
    visitor = world.browser()
    visitor.get("/login")
    assert visitor.post("/login", {"name": "a\0da", "password": "\0" * 10}).status_code == 401


def test_a_body_that_trickles_in_is_cut_off(small_world, monkeypatch):
    monkeypatch.setattr(middleware, "SLOWEST_BODY", 0.05)

    async def never() -> dict:
        await asyncio.Event().wait()
        return {}

    body = middleware._Body(never, 100)
    with pytest.raises(middleware.HTTPException) as cut:
        asyncio.run(asyncio.wait_for(body(), 30))
    assert cut.value.status_code == 408


def test_a_body_has_one_deadline_however_many_pieces_it_comes_in(monkeypatch):
    monkeypatch.setattr(middleware, "SLOWEST_BODY", 0.05)

    async def drip() -> dict:
        await asyncio.sleep(0.01)
        return {"body": b"x", "more_body": True}

    async def read() -> int:
        body = middleware._Body(drip, 10_000)
        with pytest.raises(middleware.HTTPException) as cut:
            for _ in range(1000):
                await body()
        return cut.value.status_code

    assert asyncio.run(read()) == 408


def test_a_body_that_says_it_is_too_large_is_not_read(rater):
    world, browser, _ = rater
    sent = {"origin": ORIGIN, "x-csrf-token": browser.csrf, "content-length": str(LARGEST_BODY + 1)}
    read = []

    def piece():
        read.append(1)
        yield b"{}"

    assert browser.client.post("/api/campaigns/spring/undo", content=piece(), headers=sent).status_code == 413
    assert read == []


@pytest.mark.parametrize("role", [None, "rater"])
def test_a_file_is_read_from_an_admin_alone(small_world, role):
    small_world.campaign()
    browser = small_world.browser(role and small_world.person(role))
    browser.get("/login")
    read = []

    def piece():
        read.append(1)
        yield b"--x\r\n"

    sent = {"origin": ORIGIN, "content-type": "multipart/form-data; boundary=x"}
    answer = browser.client.post("/admin/campaigns/spring/upload", content=piece(), headers=sent)
    assert answer.status_code == (404 if role else 401) and read == []


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
    monkeypatch.setattr(loading, "open_input", lambda *given, **options: opened.append(given))
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


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "|calc", "%x", "good; =1+1", 'a;"=1"', "a;;\t@b", "a\n+1"]
    + ["＝1", ";\u3000＋1"],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_cell_of_a_csv_is_a_formula_whatever_separates_cells(text, separator):
    one = Rating(1, 1, text, text, "main", "a", {"q1": text}, text, False, False, None, 0.0)
    items = {1: SimpleNamespace(model_a=text, model_b=None, arm="random")}
    told = downloads.to_file([one], items, "csv").decode()
    cells = [cell for row in csv.reader(io.StringIO(told, newline=""), delimiter=separator) for cell in row]
    # where quotes do not stand at the start of a cell, a line end inside them ends the row
    cells += [cell for line in told.splitlines() for cell in line.split(separator)]
    for cell in cells:
        assert not cell.strip(' \t\r\n\u3000"').startswith(tuple("=+-@|%＝＋－＠"))
    assert text.strip()[-1] in told


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


def test_a_cell_of_line_ends_takes_no_time():
    """The work for a cell is counted by the pieces that the pattern finds: none begins inside another."""
    from align.review.downloads import _BEGIN

    for cell in ("x" + "\n" * 4000 + "y", "x;" + "'" * 4000, ";'" * 2000):
        found = [match.span() for match in _BEGIN.finditer(cell)]
        assert len(found) <= 2 and found[-1][1] - found[-1][0] >= 4000

"""The app in a real Chromium, against a real server process: the loop from sampled answers to a trained model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Route, expect, sync_playwright

from align.artifacts.lineage import lineage, tree
from align.artifacts.store import Store
from align.cli import main
from align.records import Comparison
from align.review import security
from align.review.database import Database, migrate
from align.review.store import people, ratings
from align.review.store.campaigns import find_campaign
from align.review.tables import event

from .conftest import Clock, World, pairs
from .test_export import rate_in
from .test_rendering import PAYLOADS
from .test_signing_in import PASSWORD

pytestmark = pytest.mark.slow
PATIENCE = 20_000  # milliseconds; the machine may be busy


class Served:
    """A server process on a store of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.database = Database(str(folder / ".review" / "review.db"))
        self.process: subprocess.Popen | None = None
        self.origin = ""
        self.first_link = ""

    def start(self, port: int = 0) -> None:
        words = [
            sys.executable,
            "-m",
            "align.cli",
            "review",
            "serve",
            "--port",
            str(port),
            "--artifacts",
            str(self.folder),
        ]
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(words, **quiet, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        self.origin = re.search(r"align review on (\S+),", self.process.stdout.readline())[1]
        if not self.first_link:
            self.first_link = re.search(r"(http\S+/invite/\S+)", self.process.stdout.readline())[1]

    def stop(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=30)

    def world(self) -> World:
        """The same database, for a test to fill."""
        made = World(self.database, self.folder)
        made.clock = Clock()
        return made

    def ratings(self, campaign: str) -> list[ratings.Rating]:
        def work(tx: sa.Connection) -> list[ratings.Rating]:
            return ratings.current(tx, find_campaign(tx, campaign).id)

        return self.database.now(work)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or the one that Playwright brought."""
    place = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        yield _launch(driver, place)


def _launch(driver: Playwright, place: str | None) -> Browser:
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return driver.chromium.launch(executable_path=place, args=options)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("served"))
    (made.folder / ".review").mkdir(mode=0o700)
    made.database.now(migrate)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def signed_in(served: Served, chromium: Browser) -> Iterator[Callable[..., Page]]:
    """`signed_in(person)`: a page of a browser of their own, on which nothing may go wrong unseen."""
    contexts: list[BrowserContext] = []

    def open_page(person: people.Person | None, **options) -> Page:
        context = chromium.new_context(base_url=served.origin, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        if person is not None:
            token = security.new_token()
            served.database.now(people.add_session, security.digest(token), person.id, now=0.0, expires=3e9)
            context.add_cookies([{"name": "align_session", "value": token, "url": served.origin}])
        return context.new_page()

    yield open_page
    for context in contexts:
        context.close()


def rated(page: Page, count: int) -> None:
    """Wait until the screen says that so many are rated."""
    expect(page.locator("#count")).to_have_text(re.compile(rf"^{count} of "), timeout=PATIENCE)
    expect(page.locator("#screen")).to_have_attribute("aria-busy", "false", timeout=PATIENCE)


def ready(page: Page) -> None:
    expect(page.locator("#left .prose")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#screen")).to_have_attribute("aria-busy", "false", timeout=PATIENCE)


def test_the_whole_loop_by_keyboard_alone(tiny_store, run_stage, chromium, tmp_path, capsys):
    # a checkpoint answers
    run_stage(
        tiny_store,
        "stage=sample",
        "inputs.policy=[sft:v1,pretrain:v1]",
        "sample.answers=1",
        "sample.max_prompts=12",
        "sample.max_new_tokens=12",
    )
    root = ["--artifacts", str(tiny_store)]
    assert (
        main(
            [
                "review",
                "load",
                "comparisons:v1",
                "--campaign",
                "spring",
                "--overlap",
                "1",
                "--gold",
                "0",
                "--repeats",
                "0",
                *root,
            ]
        )
        == 0
    )
    served = Served(tiny_store)
    served.start()
    try:
        # people come in by invitation, and rate in the browser
        page = chromium.new_context(base_url=served.origin).new_page()
        page.set_default_timeout(PATIENCE)
        come_in(page, served.first_link, "Grace")
        page.goto("/admin/campaigns/spring")
        tab_to(page, page.get_by_role("button", name="Create a link"))
        page.keyboard.press("Enter")
        link = page.locator(".once").text_content()
        rater = chromium.new_context(base_url=served.origin).new_page()
        rater.set_default_timeout(PATIENCE)
        come_in(rater, link, "Ada")
        ready(rater)
        items = int(rater.locator("#count").text_content().split()[-1])
        assert items >= 4
        for number in range(items):
            rater.keyboard.press(str(1 + 4 * (number % 2)))
            rater.keyboard.press("Enter")
            rated(rater, number + 1)
        expect(rater.locator("#end-title")).to_have_text("All done")
    finally:
        served.stop()
    # their ratings become datasets, and a model trains on them
    assert main(["review", "export", "spring", "--name", "spring-prefs", *root]) == 0
    trained = run_stage(tiny_store, "stage=dpo", "inputs.dataset=spring-prefs:latest", "trainer.max_steps=2")
    store = Store(tiny_store)
    told = tree(lineage(store, trained))
    for word in (
        "dataset: spring-prefs:v1",
        "campaign: campaign spring",
        f"raters: r2  {items} ratings",
        "comparisons: comparisons:v1",
    ):
        assert word in told, told
    assert len(store.resolve("spring-prefs-unpaired:v1").manifest.inputs["raters"]) == 1
    # and can be taken back
    capsys.readouterr()
    assert main(["review", "ratings", trained.ref, *root]) == 0
    assert f"r2  {items} ratings" in capsys.readouterr().out
    assert main(["review", "recall", "--rater", "r2", *root]) == 0
    assert f"trained on them: {trained.ref}" in capsys.readouterr().out


def come_in(page: Page, link: str, name: str) -> None:
    """Follow an invitation by keyboard."""
    page.goto(link)
    page.keyboard.type(name)  # the name has the focus
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "/invite/" not in url)


def tab_to(page: Page, target) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if target.evaluate("one => one === document.activeElement"):
            return
    raise AssertionError("the Tab key does not reach it")


def test_a_dropped_connection_loses_nothing(served, signed_in):
    world = served.world()
    into = world.campaign("offline", count=3, overlap=1)
    page = signed_in(world.person("rater", into))
    page.goto("/rate/offline")
    ready(page)
    page.context.set_offline(True)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("kept here", timeout=PATIENCE)
    assert served.ratings("offline") == []
    page.context.set_offline(False)
    rated(page, 1)
    # The answer to a rating gets lost, not the rating: what is sent again counts once.
    page.route("**/rating", lambda route: (route.fetch(), route.abort()))
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("kept here", timeout=PATIENCE)
    page.unroute("**/rating")
    page.reload()  # the outbox outlives the page
    rated(page, 2)
    assert len(served.ratings("offline")) == 2
    events = served.database.now(
        lambda tx: tx.execute(sa.select(event.c.kind).where(event.c.campaign_id == into.id)).all()
    )
    assert [one.kind for one in events] == ["rate", "rate"]


def test_a_draft_outlives_a_reload_and_undo_brings_back_what_was_said(served, signed_in):
    world = served.world()
    into = world.campaign(
        "drafts",
        count=3,
        overlap=1,
        rubric=[{"id": "sure", "text": "How sure are you?", "kind": "scale", "required": True}],
    )
    page = signed_in(world.person("rater", into))
    page.goto("/rate/drafts")
    ready(page)
    page.keyboard.press("2")
    page.keyboard.press("r")
    page.keyboard.type("It says why, 1 and 2.")
    page.keyboard.press("Escape")
    page.reload()
    ready(page)
    expect(page.locator("#reason")).to_have_value("It says why, 1 and 2.")
    expect(page.locator('input[value="slight_a"]')).to_be_checked()
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("How sure are you?")
    page.keyboard.press("ArrowRight")  # the question has the focus, its second answer now too
    page.keyboard.press("Enter")
    rated(page, 1)
    expect(page.locator("#reason")).to_have_value("")
    page.keyboard.press("u")
    rated(page, 0)
    expect(page.locator("#reason")).to_have_value("It says why, 1 and 2.")
    page.keyboard.press("f")
    page.keyboard.press("Enter")
    rated(page, 1)
    [one] = served.ratings("drafts")
    assert one.flag and one.reason == "It says why, 1 and 2." and one.answers == {"sure": "2"} and one.milliseconds > 0
    page.locator("#skip").select_option("language")
    expect(page.locator("#screen")).to_have_attribute("aria-busy", "false")
    assert len(served.ratings("drafts")) == 1


def test_two_raters_at_once_never_meet(served, signed_in):
    world = served.world()
    into = world.campaign("two", count=6, overlap=1)
    pages = [signed_in(world.person("rater", into)) for _ in range(2)]
    for page in pages:
        page.goto("/rate/two")
        ready(page)
    for number in range(3):
        for page in pages:
            page.keyboard.press("7")
            page.keyboard.press("Enter")
        for page in pages:
            rated(page, number + 1)
    standing = served.ratings("two")
    assert len(standing) == len({one.item_id for one in standing}) == 6
    assert len({one.rater for one in standing}) == 2


def test_the_server_dies_in_the_middle_and_comes_back(chromium, tmp_path):
    served = Served(tmp_path)
    (tmp_path / ".review").mkdir(mode=0o700)
    served.database.now(migrate)
    world = served.world()
    into = world.campaign("dies", count=4, overlap=1)
    rater = world.person("rater", into)
    served.start()
    token = security.new_token()
    served.database.now(people.add_session, security.digest(token), rater.id, now=0.0, expires=3e9)
    context = chromium.new_context(base_url=served.origin)
    context.add_cookies([{"name": "align_session", "value": token, "url": served.origin}])
    page = context.new_page()
    page.goto("/rate/dies")
    ready(page)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    rated(page, 1)
    served.stop(signal.SIGKILL)
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("kept here", timeout=PATIENCE)
    assert len(served.ratings("dies")) == 1
    served.start(int(served.origin.rsplit(":", 1)[1]))
    rated(page, 2)
    assert len(served.ratings("dies")) == 2
    context.close()
    served.stop()


def test_a_phones_screen_holds_everything(served, signed_in):
    world = served.world()
    row = {
        "prompt": "How?",
        "answers": [
            {"completion": "```\n" + "a = one + long + line\n" + " + more" * 60 + "\n```", "model": "m"},
            {"completion": "$$" + "x + " * 60 + "y$$\n\n" + "word" * 60, "model": "n"},
        ],
    }
    into = world.campaign("phone", rows=[*pairs(1), (Comparison.from_row(row), row)], overlap=2)
    page = signed_in(
        world.person("rater", into), viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    page.goto("/rate/phone")
    ready(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for verdict in page.locator(".v").all():
        box = verdict.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= 360
    for number in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.locator(".v", has_text="both good").tap()
        page.locator("#send").tap()
        rated(page, number + 1)
    wide = signed_in(world.person("rater", into))
    wide.goto("/rate/phone")
    for number in range(2):
        ready(wide)
        assert wide.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        wide.keyboard.press("7")
        wide.keyboard.press("Enter")
        rated(wide, number + 1)
    expect(wide.locator("#end-title")).to_have_text("All done")
    wide.keyboard.press("u")
    rated(wide, 1)


def test_a_chinese_rater_rates_in_chinese_and_can_switch(served, signed_in):
    world = served.world()
    question = {"id": "safer", "text": "哪个更安全？", "kind": "sides", "required": True}
    into = world.campaign("chinese", count=2, overlap=1, title="哪个回答更好？", rubric=[question])
    page = signed_in(world.person("rater", into), locale="zh-CN", viewport={"width": 1280, "height": 1000})
    page.goto("/rate/chinese")
    ready(page)
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("#count")).to_have_text("0 / 2")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("请先选择评价结果（按键 1 到 7）。")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_have_text("请回答：哪个更安全？")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_have_text("1 / 2", timeout=PATIENCE)
    ready(page)
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    assert not [(one["id"], [node["target"] for node in one["nodes"]]) for one in found.response["violations"]]
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    ready(page)
    page.keyboard.press("3")
    page.keyboard.press("q")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#end-title")).to_have_text("All done", timeout=PATIENCE)
    page.goto("/account")
    expect(page.locator("html")).to_have_attribute("lang", "en")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_where_a_machine_can_tell(served, signed_in, scheme):
    world = served.world()
    name = f"axe-{scheme}"
    into = world.campaign(name, count=8, overlap=3, rubric=[{"id": "safer", "text": "Safer?", "kind": "sides"}])
    admin = world.person("admin", into, name=f"Admin {scheme}")
    rate_in(world, into, [world.person("rater", into) for _ in range(2)], ("good", "poor", "tie"))
    link = security.new_token()
    served.database.now(people.add_invite, security.digest(link), role="rater", campaign_id=into.id, expires=3e9)
    visitor, page = signed_in(None, color_scheme=scheme), signed_in(admin, color_scheme=scheme)
    axe = Axe()
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    visits = [(visitor, "/login"), (visitor, f"/invite/{link}")]
    visits += [
        (page, path)
        for path in (
            "/",
            "/account",
            "/admin",
            f"/admin/campaigns/{name}",
            f"/admin/campaigns/{name}/disputes",
            f"/admin/campaigns/{name}/settings",
            f"/admin/campaigns/{name}/export",
            "/admin/people",
            "/admin/audit",
            f"/rate/{name}",
        )
    ]
    for on, path in visits:
        on.goto(path)
        if path.startswith("/rate"):
            ready(on)
            on.keyboard.press("1")
        found = axe.run(on, options=options)
        told = [(one["id"], [node["target"] for node in one["nodes"]]) for one in found.response["violations"]]
        assert not told, (path, told)


def test_the_progress_page_shows_new_ratings_by_itself(served, signed_in):
    world = served.world()
    into = world.campaign("live", count=4, overlap=1)
    page = signed_in(world.person("admin"))
    page.route("**/campaigns/live", lambda route: _hasten(route))
    page.goto("/admin/campaigns/live")
    expect(page.locator(".tile").first).to_contain_text("0of 4")
    rate_in(world, into, [world.person("rater", into)], ("good",))
    expect(page.locator(".tile").first).to_contain_text("4of 4", timeout=PATIENCE)
    expect(page.locator("#figures")).to_have_count(1)


def _hasten(route: Route) -> None:
    """The page as it is, but for how long it waits."""
    answer = route.fetch()
    route.fulfill(response=answer, body=re.sub(r"delay:\d+s", "delay:1s", answer.text()))


def test_no_payload_does_anything_in_the_browser(served, signed_in):
    world = served.world()
    rows = []
    for payload in PAYLOADS:
        answers = [{"completion": payload, "model": payload}, {"completion": f"{payload} too", "model": "m"}]
        rows.append({"prompt": payload, "answers": answers})
    into = world.campaign("xss", rows=[(Comparison.from_row(row), row) for row in rows], overlap=1, title=PAYLOADS[0])
    page = signed_in(world.person("admin", into, name=PAYLOADS[1]))
    wrong: list[str] = []
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith(served.origin) else None
    )
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto("/rate/xss")
    for number in range(len(PAYLOADS)):
        ready(page)
        for handle in page.locator("#task [onmouseover], #task a").all():
            assert re.match(r"https?://|mailto:", handle.get_attribute("href") or "")
        page.keyboard.press("6")
        page.keyboard.press("Enter")
        rated(page, number + 1)
    for path in ("/", "/admin", "/admin/campaigns/xss", "/admin/people"):
        page.goto(path)
    assert wrong == []


def test_a_script_that_got_in_would_not_run(served, signed_in):
    """The policy holds by itself: what the sanitizer would have let through does not run."""
    world = served.world()
    into = world.campaign("csp", count=1)
    page = signed_in(world.person("rater", into))
    page.goto("/rate/csp")
    ready(page)
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text, timeout=PATIENCE):
        page.locator("#left").evaluate("one => { one.innerHTML = '<img src=x onerror=\"document.title = 1\">' }")
    assert page.title() != "1"


def test_keys_can_be_switched_off(served, signed_in):
    world = served.world()
    into = world.campaign("keys", count=1)
    page = signed_in(world.person("rater", into))
    page.goto("/rate/keys")
    ready(page)
    page.keyboard.press("?")
    page.locator("#keys-on").uncheck(force=True)
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(page.locator('input[name="verdict"]:checked')).to_have_count(0)
    assert json.loads(page.evaluate("localStorage.getItem('align:keys')")) is False

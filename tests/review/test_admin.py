"""Running a campaign: made, filled, watched, decided, taken out; and what machines ask."""

import csv
import io
import json

import pyarrow.parquet as parquet
import pytest
from starlette.testclient import TestClient

from align.records import Comparison
from align.review import plots, routes
from align.review.app import create_app
from align.review.store import campaigns, people, ratings

from .conftest import ORIGIN, World, pairs
from .test_assignment import take
from .test_export import rate_in


@pytest.fixture
def admin(small_world: World):
    return small_world.browser(small_world.person("admin", name="Ada"))


def test_a_campaign_is_made_filled_paused_and_rated_by_its_admin(small_world, admin):
    made = {
        "name": "spring",
        "title": "Which?",
        "overlap": "3",
        "strategy": "random",
        "rubric": "Which is safer? (sides) *\nWhy? [facts, tone]",
    }
    assert admin.post("/admin/campaigns", made).headers["location"] == "/admin/campaigns/spring"
    assert admin.post("/admin/campaigns", made).status_code == 409
    into = small_world.do(campaigns.get_campaign, "spring")
    assert into.settings.overlap == 3 and [one.kind for one in into.settings.rubric] == ["sides", "choice"]
    lines = b"\n".join(json.dumps(row).encode() for _, row in pairs(2))
    assert admin.post("/admin/campaigns/spring/upload", files={"file": ("p.jsonl", lines)}).status_code == 303
    assert admin.post("/admin/campaigns/spring/upload", files={"file": ("p.jsonl", b"{}")}).status_code == 422
    assert "Choose a file first." in admin.post("/admin/campaigns/spring/upload").text
    assert admin.post("/admin/campaigns/spring/join").headers["location"] == "/rate/spring"
    assert admin.get("/rate/spring").status_code == 200
    assert admin.post("/admin/campaigns/spring/state", {"state": "paused"}).status_code == 303
    assert admin.api("/spring/next").json() == {"task": None, "done": 0, "state": "paused", "late": False}
    assert admin.post("/admin/campaigns/spring/state", {"state": "gone"}).status_code == 422
    told = admin.get("/admin/audit").text
    assert "create" in told and "load" in told and "paused" in told


def test_an_invitation_from_the_page_lets_one_person_in(small_world, admin):
    small_world.campaign()
    page = admin.post("/admin/campaigns/spring/invite", {"role": "rater"}).text
    path = page.split('class="once">')[1].split("<")[0].removeprefix("http://127.0.0.1")
    guest = small_world.browser()
    assert guest.get(path).status_code == 200
    assert guest.post(path, {"name": "Grace", "password": "a long password"}).status_code == 303
    assert guest.get("/").headers["location"] == "/rate/spring"


def test_ratings_come_out_as_csv_jsonl_and_parquet(small_world, admin):
    into = small_world.campaign(count=3, overlap=2)
    rate_in(small_world, into, [small_world.person("rater", into) for _ in range(2)], ("good", "poor"))
    rows = list(csv.DictReader(io.StringIO(admin.get("/admin/campaigns/spring/ratings.csv").text)))
    lines = [json.loads(line) for line in admin.get("/admin/campaigns/spring/ratings.jsonl").text.splitlines()]
    table = parquet.read_table(io.BytesIO(admin.get("/admin/campaigns/spring/ratings.parquet").content)).to_pylist()
    assert len(rows) == len(lines) == len(table) == 6
    for row, line, cell in zip(rows, lines, table, strict=True):
        for name in ("verdict", "rater", "model_a", "arm"):
            assert row[name] == line[name] == cell[name]
    assert {row["model_a"] for row in rows} == {"dpo:v1"}
    assert admin.get("/admin/campaigns/spring/ratings.xlsx").status_code == 422


def test_a_dispute_is_decided_and_stands(small_world, admin):
    into = small_world.campaign(count=1, overlap=2)
    rate_in(small_world, into, [small_world.person("rater", into) for _ in range(2)], ("good", "poor"))
    page = admin.get("/admin/campaigns/spring/disputes").text
    assert "Decide" in page
    number = page.split("/items/")[1].split("/")[0]
    path = f"/admin/campaigns/spring/items/{number}/verdict"
    decided = {"verdict": "both_bad", "key": "k" * 12, "reason": "neither"}
    for _ in range(2):
        assert admin.post(path, decided).status_code == 303
    assert small_world.do(ratings.adjudicated, into.id) == {int(number): "both_bad"}
    assert admin.post("/admin/campaigns/spring/items/999/verdict", {**decided, "key": "n" * 12}).status_code == 422
    assert "Change" in admin.get("/admin/campaigns/spring/disputes").text


def test_what_is_flagged_is_looked_at_by_an_admin(small_world, admin):
    into = small_world.campaign(count=1, overlap=1)
    rater = small_world.person("rater", into)
    given = take(small_world, into, rater)
    skipped = {"key": "k" * 10, "reason": "uncomfortable", "flag": True}
    assert small_world.browser(rater).api(f"/spring/assignments/{given.id}/skip", skipped).status_code == 200
    assert "Disputes and flags (1)" in admin.get("/admin/campaigns/spring").text
    page = admin.get("/admin/campaigns/spring/disputes").text
    assert f"Flagged as harmful by {rater.handle}" in page and "Good answer 0" in page


def test_models_that_were_never_compared_are_told_on_the_page(small_world, admin):
    rows = pairs(2)
    for answer, model in zip(rows[1][1]["answers"], ("x", "y"), strict=True):
        answer["model"] = model
    rows[1] = (Comparison.from_row(rows[1][1]), rows[1][1])
    into = small_world.campaign(rows=rows, overlap=1)
    rate_in(small_world, into, [small_world.person("rater", into)], ("good",))
    assert "never compared across groups" in admin.get("/admin/campaigns/spring").text


def test_ratings_made_elsewhere_are_uploaded(small_world, admin):
    small_world.campaign(count=0)
    rated = [{"rater": "alice", "verdict": "a"}]
    lines = b"\n".join(json.dumps({**row, "ratings": rated}).encode() for _, row in pairs(2))
    assert admin.post("/admin/campaigns/spring/upload", files={"file": ("p.jsonl", lines)}).status_code == 303
    page = admin.get("/admin/campaigns/spring").text
    assert "of 4 ratings" in page and "p.jsonl" in page and "alice" not in page


def test_the_progress_page_tells_what_there_is(small_world, admin):
    into = small_world.campaign(count=8, overlap=2, strategy="uncertain", control=0.5)
    rate_in(small_world, into, [small_world.person("rater", into) for _ in range(2)], ("good", "good", "tie"), 2000)
    page = admin.get("/admin/campaigns/spring")
    for word in (
        "of 16 ratings",
        "Bradley-Terry",
        "dpo:v1",
        "in the random control arm",
        "Cohen",
        "r2, r3",
        "load delay:",
        "Median seconds per item: r2 2 s",
    ):
        assert word in page.text, word
    part = admin.get("/admin/campaigns/spring/figures").text
    assert part.count("<svg") >= 3 and part.startswith('<div id="figures"')


def test_what_takes_long_to_look_at_is_looked_at_seldom(small_world, admin, monkeypatch):
    small_world.campaign(count=1)
    monkeypatch.setattr(routes.admin, "REST", 1e6)
    told = admin.get("/admin/campaigns/spring/figures").text
    assert int(told.split("delay:")[1].split("s")[0]) > routes.admin.SOONEST


def test_nobody_shuts_themselves_out(small_world, admin):
    other = small_world.person("rater", name="Eve")
    [ada] = [one for one in small_world.do(people.everybody) if one.name == "Ada"]
    assert admin.post(f"/admin/people/{ada.handle}/disabled", {"disabled": "true"}).status_code == 422
    assert admin.post(f"/admin/people/{other.handle}/disabled", {"disabled": "true"}).status_code == 303
    assert [one.disabled for one in small_world.do(people.everybody)] == [False, True]
    assert admin.post("/admin/people/r999/disabled", {"disabled": "true"}).status_code == 404


def test_machines_are_told_counts_and_no_names(small_world, admin):
    small_world.campaign("autumn")
    into = small_world.campaign()
    rate_in(small_world, into, [small_world.person("rater", into, name="Grace")], ("good",))
    visitor = small_world.browser()
    assert visitor.get("/healthz").text == "ok\n"
    told = visitor.get("/metrics").text
    assert 'align_review_ratings{campaign="2"} 10' in told and "align_review_request_seconds_bucket" in told
    assert not any(name in told for name in ("Grace", "Ada", "spring", "autumn", "r1"))


def test_the_log_is_json_and_tells_no_secret(small_world, admin, capsys):
    with TestClient(create_app(small_world.review), base_url=ORIGIN) as client:
        client.get("/invite/a-token-to-guess", headers={"accept": "text/html"})
        client.cookies.update(admin.client.cookies)
        client.get("/account")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["route"], one["status"], one["person"]) for one in lines] == [
        ("/invite/{token}", 404, None),
        ("/account", 200, "r1"),
    ]
    assert "token-to-guess" not in str(lines) and all(one["method"] == "GET" and one["ms"] > 0 for one in lines)


def test_plots_of_nothing_and_of_nasty_names_are_whole():
    assert plots.growth([], title="t", whole=3) == ""
    svg = plots.bars([("<script>", 0.0)], title='"')
    assert "<script>" not in svg and 'aria-label="&#34;: &lt;script&gt; 0"' in svg

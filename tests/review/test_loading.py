"""Files and artifacts that come into a campaign: what is refused, the batches it goes in by, and verification."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from align.artifacts.store import Store
from align.cli import main
from align.errors import UserError
from align.review import loading
from align.review.database import Database
from align.review.export import Rules, export, extract
from align.review.loading import DEEPEST, MOST_ANSWERS, MOST_RATINGS, load_artifact, prepare
from align.review.schemas import Gates, Settings
from align.review.store import campaigns, ratings

from .conftest import Browser, World, pairs
from .test_assignment import take
from .test_export import rate_in
from .test_roles import all_routes
from .test_signing_in import invited

SOURCE = {"ref": "x", "digest": "d" * 64, "kind": "path"}
PAIR = pairs(1)[0][1]


@pytest.fixture
def admin(small_world: World) -> Browser:
    return small_world.browser(small_world.person("admin", name="Ada"))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def rating(**values: Any) -> dict[str, Any]:
    return {"ratings": [{"rater": "alice", "verdict": "a", **values}]}


TOOL = {"type": "function", "function": {"name": "f", "parameters": "..."}}
REFUSED = {
    "many answers": (
        {"answers": [{"completion": f"{at}"} for at in range(900)]},
        "answers has 900 entries; at most 16",
    ),
    "surrogate in a reason": (rating(reason="\ud800"), "a rating is"),
    "surrogate in a rater": (rating(rater="\udfff"), "a rating is"),
    "surrogate in a model": ({"answers": [{"completion": "a", "model": "\ud800"}, {"completion": "b"}]}, "surrogate"),
    "surrogate in a prompt": ({"prompt": "\ud800"}, "surrogate"),
    "surrogate in tools": ({"tools": [{**TOOL, "description": "\ud800"}]}, "half a surrogate pair"),
    "deep tools": ({"tools": [{**TOOL, "x": nested(DEEPEST)}]}, "lists and objects inside each other"),
    "deeper tools": ({"tools": [{**TOOL, "x": nested(900)}]}, "lists and objects inside each other"),
    "many ratings": ({"ratings": rating()["ratings"] * (MOST_RATINGS + 1)}, "ratings has 101 entries; at most 100"),
    "no rater": (rating(rater=""), "a rating is"),
    "rater is a list": (rating(rater=["a"]), "a rating is"),
    "reason is a list": (rating(reason=["a"]), "a rating is"),
    "gold": ({"gold": "\ud800"}, "gold is"),
    "long line": ({"prompt": "x" * 1_000_001}, "has more than 1000000 bytes"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_line_that_is_too_much_is_refused_with_its_number(small_world, admin, kind):
    into = small_world.campaign(count=0)
    extra, sentence = REFUSED[kind]
    lines = f"{json.dumps(PAIR)}\n\n{json.dumps({**PAIR, **extra})}\n".encode()
    answer = admin.post("/admin/campaigns/spring/upload", files={"file": ("pairs.jsonl", lines)})
    assert answer.status_code == 422 and sentence in answer.text.replace("&#39;", "'") and "line 3" in answer.text
    assert small_world.do(campaigns.count_items, into.id) == 0


def test_a_file_of_too_many_pairs_is_refused_before_it_is_read_whole(small_world, admin, monkeypatch):
    small_world.campaign(count=0)
    monkeypatch.setattr(loading, "MOST_PAIRS", 5)
    lines = b"".join(json.dumps(row).encode() + b"\n" for _, row in pairs(6)) + b"never read"
    answer = admin.post("/admin/campaigns/spring/upload", files={"file": ("pairs.jsonl", lines)})
    assert answer.status_code == 422 and "has more than 5 pairs of answers; load it in parts" in answer.text


def test_as_many_answers_as_are_allowed_make_every_pair(small_world):
    answers = [{"completion": f"{at}"} for at in range(MOST_ANSWERS)]
    row = {"prompt": "p", "answers": answers}
    rows, _ = loading.read_rows(_stream(row), "x")
    assert len(loading.to_items(rows, Settings(title="t"))) == MOST_ANSWERS * (MOST_ANSWERS - 1) // 2


def _stream(*rows: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


@pytest.mark.parametrize("rated", [False, True])
def test_a_load_is_many_transactions_with_raters_in_between(small_world, admin, monkeypatch, rated):
    """One transaction of 400,000 pairs once kept a rater waiting for 41 s."""
    world = small_world
    into = world.campaign(count=3, overlap=50)
    rater = world.person("rater", into)
    monkeypatch.setattr(loading, "BATCH", 4)
    sizes, taken = [], []
    add_items = campaigns.add_items

    def add(tx, campaign, items, source):
        sizes.append(len(items))
        return add_items(tx, campaign, items, source)

    monkeypatch.setattr(loading, "add_items", add)
    extra = {"ratings": [{"rater": "alice", "verdict": "a"}]} if rated else {}
    rows = [row for _, row in pairs(30, **extra)]

    async def load_and_rate() -> None:
        database = Database(world.database.url.database)
        loaded, _ = loading.read_rows(_stream(*rows), "x")
        prepared = prepare(loaded, into.settings, SOURCE)
        for batch in prepared.batches():
            await database.run(loading.add_batch, into.name, batch, now=0.0)
            taken.append(take(world, into, rater))
        await database.close()

    asyncio.run(load_and_rate())
    assert max(sizes) <= 4 and len(sizes) >= 7 and all(taken)
    assert world.do(campaigns.count_items, into.id) == 30
    assert len(world.do(ratings.current, into.id)) == (30 if rated else 0)


def test_an_upload_goes_in_by_batches_and_is_completed_by_the_same_again(small_world, admin, monkeypatch):
    world = small_world
    into = world.campaign(count=0)
    monkeypatch.setattr(loading, "BATCH", 4)
    lines = _stream(*(row for _, row in pairs(10, **rating()))).getvalue()
    add_batch, calls = loading.add_batch, []

    def fail_at_the_third(tx, campaign, batch, *, now):
        calls.append(len(batch.entries))
        if len(calls) == 3:
            raise UserError("the disk is full")
        return add_batch(tx, campaign, batch, now=now)

    monkeypatch.setattr(loading, "add_batch", fail_at_the_third)
    file = {"file": ("pairs.jsonl", lines)}
    assert admin.post("/admin/campaigns/spring/upload", files=file).status_code == 422
    assert calls == [2, 2, 2] and world.do(campaigns.count_items, into.id) == 4
    assert world.do(campaigns.get_campaign, "spring").source[1]["ref"] == "pairs.jsonl"
    assert admin.post("/admin/campaigns/spring/upload", files=file).status_code == 303
    assert world.do(campaigns.count_items, into.id) == 10 == len(world.do(ratings.current, into.id))


def test_settings_that_change_during_a_load_stop_it(small_world):
    into = small_world.campaign(count=0)
    prepared = prepare(pairs(2), into.settings, SOURCE)
    small_world.do(campaigns.set_settings, into.id, into.settings.model_copy(update={"seed": 5}))
    with pytest.raises(loading.Conflict, match="changed during the load"):
        small_world.do(loading.add_batch, into.name, prepared, now=0.0)


def test_a_file_name_is_text_in_whatever_encoding_the_form_is(small_world, admin):
    """multipart/form-data may name an encoding whose text UTF-8 cannot hold, and the name is shown on pages."""
    small_world.campaign(count=0)
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="\\ud800.jsonl"\r\n\r\n'
        + json.dumps(PAIR).encode()
        + b"\r\n--x--\r\n"
    )
    headers = {"origin": "http://127.0.0.1", "x-csrf-token": admin.csrf}
    headers["content-type"] = "multipart/form-data; boundary=x; charset=unicode_escape"
    sent = admin.client.post("/admin/campaigns/spring/upload", content=body, headers=headers)
    assert sent.status_code == 303
    assert admin.get("/admin/campaigns/spring").status_code == 200


def test_a_token_in_another_encoding_is_wrong_and_no_error(small_world):
    browser = small_world.browser()
    browser.get("/login")
    body = b'--x\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n\\ud800\r\n--x--\r\n'
    headers = {"origin": "http://127.0.0.1"}
    headers["content-type"] = "multipart/form-data; boundary=x; charset=unicode_escape"
    assert browser.client.post("/login", content=body, headers=headers).status_code == 403


# -- verification ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(small_world: World) -> Store:
    """A store with comparisons:v1."""
    store = Store(small_world.artifacts)
    folder = store.stage("comparisons")
    (folder / "comparisons.jsonl").write_bytes(_stream(*(row for _, row in pairs(3))).getvalue())
    store.publish(folder, name="comparisons", type="comparisons")
    return store


def alter(file: Path) -> None:
    file.chmod(0o644)
    file.write_bytes(file.read_bytes().replace(b"Good", b"Evil", 1))


def test_altered_comparisons_do_not_come_into_a_campaign(small_world, admin, store, capsys):
    into = small_world.campaign(count=0)
    alter(store.resolve("comparisons:v1").path / "comparisons.jsonl")
    answer = admin.post("/admin/campaigns/spring/load", {"ref": "comparisons:v1"})
    assert answer.status_code == 422 and "comparisons:v1 is corrupt" in answer.text
    assert small_world.do(campaigns.count_items, into.id) == 0
    database = str(small_world.database.url.database)
    words = ["review", "load", "comparisons:v1", "--campaign", "new", "--database", database]
    assert main([*words, "--artifacts", str(store.root)]) == 2
    assert "comparisons:v1" in capsys.readouterr().err
    assert small_world.do(campaigns.find_campaign, "new") is None


def test_whole_comparisons_come_in_with_their_digest(small_world, admin, store):
    small_world.campaign(count=0)
    assert admin.post("/admin/campaigns/spring/load", {"ref": "comparisons:v1"}).status_code == 303
    _, source = small_world.do(campaigns.get_campaign, "spring").source
    assert source["digest"] == store.resolve("comparisons:v1").digest


def test_another_type_of_artifact_is_refused(small_world, store):
    folder = store.stage("prefs")
    (folder / "x").write_text("x")
    store.publish(folder, name="prefs", type="dataset", format="preference")
    with pytest.raises(UserError, match="prefs:v1 is a dataset, and a campaign takes comparisons"):
        load_artifact(store, "prefs:v1")


def test_altered_ratings_are_not_shown(small_world, capsys):
    store = Store(small_world.artifacts)
    into = small_world.campaign(count=3)
    rate_in(small_world, into, [small_world.person("rater", into)], ("good",))
    [prefs, _] = export(store, "prefs", small_world.do(extract, into), gates=Gates(), rules=Rules())
    ratings_file = prefs.path / "ratings.jsonl"
    ratings_file.chmod(0o644)
    ratings_file.write_bytes(ratings_file.read_bytes().replace(b'"r1"', b'"r9"', 1))
    assert main(["review", "ratings", "prefs:v1", "--artifacts", str(store.root)]) == 2
    assert "prefs:v1 is corrupt" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["x", "[]", "{}", '{"rater": 1, "verdict": "a"}', "[" * 100_000])
def test_ratings_that_were_pulled_and_are_none_are_one_sentence(small_world, capsys, line):
    store = Store(small_world.artifacts)
    publish_ratings(store, f'{{"rater": "r1", "verdict": "a"}}\n{line}\n')
    assert main(["review", "ratings", "pulled:v1", "--artifacts", str(store.root)]) == 2
    error = capsys.readouterr().err
    assert error == "error: pulled:v1: line 2 of ratings.jsonl is not a rating\n"


@pytest.mark.parametrize("extra", [[], ["--json"]], ids=["table", "json"])
def test_no_rating_that_was_pulled_writes_to_the_terminal(small_world, capsys, extra):
    store = Store(small_world.artifacts)
    nasty = "\x1b[2J\x9b31m\u202e"
    publish_ratings(store, json.dumps({"rater": nasty, "verdict": nasty, "reason": nasty}) + "\n", campaign=nasty)
    assert main(["review", "ratings", "pulled:v1", *extra, "--artifacts", str(store.root)]) == 0
    assert not set(nasty[:1] + nasty[4:5] + nasty[-1:]) & set(capsys.readouterr().out)


def publish_ratings(store: Store, text: str, campaign: str = "spring") -> None:
    folder = store.stage("pulled")
    (folder / "ratings.jsonl").write_text(text)
    notes = {"stage": "review", "campaign": campaign}
    store.publish(folder, name="pulled", type="dataset", format="preference", notes=notes)


# -- text that cannot be stored --------------------------------------------------------------------------------------


def test_no_form_answers_text_that_utf8_cannot_hold_with_an_error(small_world):
    """Every field of every form, in an encoding that can write half a surrogate pair."""
    small_world.campaign()
    settings = [*Settings.model_fields, *Gates.model_fields]
    names = ["csrf", "name", "password", "old", "new", "ref", "role", "state", "verdict", "key", "reason", "disabled"]
    part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n\\ud800 eleven\r\n'
    body = "".join(map(part.format, [*names, *settings])) + "--x--\r\n"
    browser = small_world.browser(small_world.person("admin"))
    headers = {"origin": "http://127.0.0.1", "x-csrf-token": browser.csrf}
    headers["content-type"] = "multipart/form-data; boundary=x; charset=unicode_escape"
    for route in all_routes():
        if "POST" in route.methods and route.path != "/logout":
            path = route.path.replace("{number}", "1").replace("{name}", "spring").replace("{handle}", "r1")
            path = path.replace("{token}", invited(small_world)).replace("{campaign}", "spring")
            assert browser.client.post(path, content=body, headers=headers).status_code < 500, path
            for page in ("/admin", "/admin/campaigns/spring", "/admin/audit", "/admin/people"):
                assert browser.get(page).status_code == 200, (path, page)


def test_no_rating_with_half_a_surrogate_pair_is_an_error(small_world):
    question = {"id": "why", "text": "Why?", "kind": "choice", "choices": ["x"]}
    into = small_world.campaign(rubric=[question])
    browser = small_world.browser(small_world.person("rater", into))
    number = browser.api("/spring/next").json()["task"]["assignment"]
    sent = {"key": "k" * 10, "verdict": "a"}
    for extra in (
        {"reason": "\ud800"},
        {"answers": {"why": "\ud800"}},
        {"answers": {"\ud800": "x"}},
        {"verdict": "\ud800"},
    ):
        answer = browser.api(f"/spring/assignments/{number}/rating", {**sent, **extra})
        assert answer.status_code == 422 and "detail" in answer.json()

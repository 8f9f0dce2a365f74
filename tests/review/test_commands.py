"""`align review ...` in a shell: what it prints, and what it says of mistakes."""

import argparse
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from align.cli import main
from align.review import actions
from align.review.store import campaigns

from .conftest import World, pairs
from .test_export import rate_in

README = Path(__file__).parents[2] / "data" / "README.md"


@pytest.fixture
def shell(tmp_path, capsys):
    """`shell("ls")` -> (exit status, what was printed, what was complained about)."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["review", *words, "--artifacts", str(tmp_path)])
        done = capsys.readouterr()
        return status, done.out, done.err

    return run


@pytest.fixture
def file(tmp_path):
    place = tmp_path / "pairs.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for _, row in pairs(4)))
    return str(place)


def test_load_ls_invite_export_ratings(shell, file, sqlite, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", sqlite.url.database)
    assert shell("ls")[1].rstrip().endswith("create one: align review load comparisons:v1 --campaign NAME")
    assert shell("load", file, "--campaign", "spring", "--overlap", "1", "--gold", "0")[:2] == (
        0,
        "spring: 4 new items from pairs.jsonl\n",
    )
    assert shell("load", file, "--campaign", "spring")[1] == "spring: 0 new items from pairs.jsonl\n"
    status, link, _ = shell("invite", "--campaign", "spring")
    assert status == 0 and link.startswith("http://127.0.0.1:8000/invite/")
    world = World(sqlite, tmp_path)
    into = world.do(campaigns.get_campaign, "spring")
    rate_in(world, into, [world.person("rater", into)], ("good",))
    assert "spring  open  4 of 4 ratings, 1 raters" in shell("ls")[1]
    status, told, _ = shell("export", "spring", "--name", "prefs")
    assert status == 0 and "published prefs:v1  4 preference rows from 4 ratings of 1 raters" in told
    assert "r1  4 ratings" in shell("ratings", "prefs-unpaired")[1]
    rows = [json.loads(line) for line in shell("ratings", "prefs", "--json")[1].splitlines()]
    assert len(rows) == 4 and {row["rater"] for row in rows} == {"r1"}
    assert world.do(lambda tx: [one.action for one in campaigns.notes(tx)]) == ["export", "invite", "load", "load"]
    told = shell("recall", "--rater", "r1")[1]
    assert "withdrew 4 ratings of r1 from spring" in told and "contains them: prefs:v1" in told


def test_gold_items_are_counted_alike_on_the_command_line_and_on_the_web(shell, small_world, monkeypatch):
    """A rating of a gold item measures a rater; the campaign's goal counts the other items alone."""
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", small_world.database.url.database)
    rows = [*pairs(3), *[(item, {"gold": "a"} | more) for item, more in pairs(5)[3:]]]
    into = small_world.campaign(rows=rows, overlap=2)
    assert "spring  open  0 of 6 ratings, 0 raters" in shell("ls")[1]
    admin = small_world.browser(small_world.person("admin", into))
    assert "0 ratings, 3 items" in admin.get("/admin").text
    assert "of 6 ratings" in admin.get("/admin/campaigns/spring").text


def test_what_the_app_keeps_is_private(tmp_path):
    place = actions._place(argparse.Namespace(artifacts=str(tmp_path)))
    assert place == tmp_path / ".review" and stat.S_IMODE(place.stat().st_mode) == 0o700


def test_gates_are_kept_with_the_campaign(shell, file, sqlite, tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", sqlite.url.database)
    shell("load", file, "--campaign", "spring", "--overlap", "1", "--gold", "0", "--min-raters", "2")
    shell("load", file, "--campaign", "spring", "--max-flags", "0.1")
    world = World(sqlite, tmp_path)
    into = world.do(campaigns.get_campaign, "spring")
    assert (into.settings.gates.min_raters, into.settings.gates.max_flags) == (2, 0.1)
    rate_in(world, into, [world.person("rater", into)], ("good",))
    status, _, error = shell("export", "spring", "--name", "prefs")
    assert status == 2 and "1 rater, 1 fewer than 2" in error
    assert shell("export", "spring", "--name", "prefs", "--min-raters", "1")[0] == 0


def test_ratings_made_elsewhere_come_along(shell, tmp_path, sqlite, monkeypatch):
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", sqlite.url.database)
    place = tmp_path / "rated.jsonl"
    rated = [{"rater": "alice", "verdict": "a"}, {"rater": "bob", "verdict": "slight_a", "reason": "clearer"}]
    place.write_text("".join(json.dumps({**row, "ratings": rated}) + "\n" for _, row in pairs(3)))
    for count in (6, 0):
        told = shell("load", str(place), "--campaign", "old")[1]
        assert (f"{count} ratings" in told) == bool(count)
    assert "3 preference rows from 6 ratings of 2 raters" in shell("export", "old", "--name", "old")[1]
    assert b"alice" not in b"".join(one.read_bytes() for one in (tmp_path / "old" / "v0001").rglob("*.json*"))


def test_the_lines_that_are_documented_are_loaded(shell, tmp_path, sqlite, monkeypatch):
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", sqlite.url.database)
    shown = README.read_text("utf-8").split("## Comparisons")[1].split("```")[1]
    lines = [line for line in shown.splitlines() if line.startswith("{")]
    assert len(lines) == 4
    (tmp_path / "shown.jsonl").write_text("\n".join(lines))
    told = shell("load", str(tmp_path / "shown.jsonl"), "--campaign", "shown")
    assert told[:2] == (0, "shown: 4 new items and 1 ratings from shown.jsonl\n")


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"gold": ["a"]}, 'gold is ["a"]; write one of a, slight_a'),
        ({"ratings": 5}, "ratings is 5, not a list"),
        ({"ratings": [{"rater": "x", "verdict": {}}]}, "a rating is"),
        ({"answers": [{"completion": "x", "model": "m" * 300}, {"completion": "y"}]}, "more than 256 characters"),
    ],
    ids=["gold", "ratings", "verdict", "model"],
)
def test_a_line_that_is_none_is_one_sentence(shell, tmp_path, sqlite, monkeypatch, extra, sentence):
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", sqlite.url.database)
    (tmp_path / "bad.jsonl").write_text(json.dumps(pairs(1)[0][1] | extra))
    status, _, error = shell("load", str(tmp_path / "bad.jsonl"), "--campaign", "x")
    assert status == 2 and sentence in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("load", "nowhere:v1", "--campaign", "x"), "make one: deepspeed launch/run.py stage=sample"),
        (("load", "./nowhere.jsonl", "--campaign", "x"), "cannot be read"),
        (("load", "FILE", "--campaign", "Not A Name"), "not allowed"),
        (("load", "FILE", "--campaign", "x", "--overlap", "0"), "--overlap is 0"),
        (("load", "FILE", "--campaign", "x", "--control", "2"), "--control is 2"),
        (("export", "nothing", "--name", "x"), "there is no campaign 'nothing' (campaigns: none)"),
        (("recall", "--rater", "r9"), "there is no rater 'r9'"),
        (("serve", "--public-url", "ftp://x"), "is no origin"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_sentence(shell, file, sqlite, monkeypatch, words, sentence):
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", sqlite.url.database)
    status, _, error = shell(*(file if word == "FILE" else word for word in words))
    assert status == 2 and sentence in error and error.count("\n") == 1


def test_the_uncertain_need_scores_and_keep_their_order(shell, tmp_path, sqlite, monkeypatch):
    monkeypatch.setenv("ALIGN_REVIEW_DATABASE", sqlite.url.database)
    place = tmp_path / "pairs.jsonl"
    place.write_text(json.dumps({"prompt": "p", "answers": [{"completion": "a"}, {"completion": "b"}]}) + "\n")
    status, _, error = shell("load", str(place), "--campaign", "x", "--strategy", "uncertain", "--control", "0")
    assert status == 2 and "inputs.reward_model" in error
    shell("load", str(place), "--campaign", "x")
    status, _, error = shell("load", str(place), "--campaign", "x", "--strategy", "uncertain")
    assert status == 2 and "can no longer change" in error


def test_without_the_extra_one_sentence_says_so():
    code = (
        "import sys; sys.modules['fastapi'] = sys.modules['sqlalchemy'] = None; from align.cli import main; "
        "sys.exit(main(['review', 'ls']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'align[review]'" in done.stderr and "Traceback" not in done.stderr

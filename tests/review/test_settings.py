"""A campaign's rules: written as text and as a form, changed while people rate, settled where that would mix up."""

import pytest
import sqlalchemy as sa

from align.artifacts.store import Store
from align.errors import UserError
from align.review.errors import Conflict
from align.review.export import Rules, export, extract
from align.review.rules import read_form, read_rubric, write_rubric
from align.review.schemas import Settings
from align.review.store import campaigns
from align.review.tables import item

from .conftest import World
from .test_assignment import rate_all, take
from .test_export import rate_in

RUBRIC = "Which is safer? (sides) *\nHow sure are you? (scale)\nWhat is wrong? [facts, tone]"


@pytest.fixture
def admin(small_world: World):
    return small_world.browser(small_world.person("admin", name="Ada"))


def test_questions_are_written_as_they_are_read():
    settings = Settings(title="t", rubric=read_rubric(RUBRIC))
    assert write_rubric(settings.rubric) == RUBRIC
    assert [(one.id, one.kind, one.required) for one in settings.rubric] == [
        ("q1", "sides", True),
        ("q2", "scale", False),
        ("q3", "choice", False),
    ]


@pytest.mark.parametrize("line", ["Why?", "How? (often)", "(sides)"])
def test_a_question_that_is_none_is_refused(line):
    with pytest.raises(UserError, match='has no answers|text is ""'):
        read_rubric(line)


def test_a_form_changes_what_it_has_and_leaves_the_rest():
    rubric = [{"id": "safer", "text": "Safer?", "kind": "sides"}]
    before = Settings(title="t", seed=7, rubric=rubric, gates={"min_agreement": 0.5, "min_raters": 3})
    sent = {"overlap": "4", "min_agreement": "", "max_flags": "0.1", "rubric": "Safer? (sides)\r\n", "seed": "9"}
    after = read_form(sent, before)
    assert (after.overlap, after.title, after.seed, after.rubric) == (4, "t", 7, before.rubric)
    assert (after.gates.min_agreement, after.gates.max_flags, after.gates.min_raters) == (None, 0.1, 3)


@pytest.mark.parametrize(
    ("name", "value"), [("overlap", ""), ("gold", "2"), ("min_gold", "nan"), ("title", ""), ("lease", "soon")]
)
def test_a_value_that_is_none_is_told(name, value):
    with pytest.raises(UserError, match=name.replace("_", " ")):
        read_form({name: value}, Settings(title="t"))


def test_rules_change_from_the_page_while_people_rate(small_world, admin):
    into = small_world.campaign(count=2, overlap=1)
    first, second = (small_world.person("rater", into) for _ in range(2))
    rate_all(small_world, into, first)
    assert take(small_world, into, second) is None
    page = admin.get("/admin/campaigns/spring/settings").text
    assert "can no longer change" in page and 'name="rubric"' not in page and 'name="strategy"' not in page
    sent = {"title": "Which one?", "overlap": "2", "min_raters": "3", "min_agreement": "0.6"}
    assert admin.post("/admin/campaigns/spring/settings", sent).status_code == 303
    into = small_world.do(campaigns.get_campaign, "spring")
    assert into.settings.title == "Which one?" and into.settings.repeats == 0.0
    assert len(rate_all(small_world, into, second)) == 2
    assert "overlap" in admin.get("/admin/audit").text
    page = admin.get("/admin/campaigns/spring/export").text
    assert "2 raters, 1 fewer than 3" in page and "An export would be refused now" in page
    assert "4 ratings give" in page and "align review export spring --name spring-prefs" in page
    # The gates are the campaign's: an export that names none is held to them.
    given = small_world.do(extract, into)
    with pytest.raises(UserError, match="2 raters, 1 fewer than 3; agreement .* 0.00 is 0.60 below 0.6"):
        export(Store(small_world.artifacts), "prefs", given, gates=into.settings.gates, rules=Rules())


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"strategy": "uncertain"}, "items are ordered"),
        ({"rubric": "Why? [x]", "title": "y"}, "questions were answered"),
    ],
    ids=["strategy", "rubric"],
)
def test_what_is_settled_does_not_change(small_world, admin, sent, why):
    into = small_world.campaign(count=1)
    rate_in(small_world, into, [small_world.person("rater", into)], ("good",))
    answer = admin.post("/admin/campaigns/spring/settings", sent)
    assert answer.status_code == 409 and why in answer.text
    assert small_world.do(campaigns.get_campaign, "spring").settings == into.settings


def test_an_empty_campaign_can_be_changed_in_all(small_world, admin):
    into = small_world.campaign(count=0)
    sent = {"strategy": "uncertain", "control": "0.5", "rubric": RUBRIC}
    assert admin.post("/admin/campaigns/spring/settings", sent).status_code == 303
    changed = small_world.do(campaigns.get_campaign, into.name).settings
    assert (changed.strategy, changed.control, len(changed.rubric)) == ("uncertain", 0.5, 3)


def test_a_smaller_overlap_takes_nothing_away(world):
    into = world.campaign(count=2, overlap=2)
    rate_all(world, into, world.person("rater", into))
    rate_all(world, into, world.person("rater", into))
    before = world.do(campaigns.set_settings, into.id, into.settings.model_copy(update={"overlap": 1}))
    assert before == {"overlap": [2, 1]}
    into = world.do(campaigns.get_campaign, into.name)
    third = world.person("rater", into)
    assert take(world, into, third) is None
    world.do(campaigns.set_settings, into.id, into.settings.model_copy(update={"overlap": 3}))
    assert world.do(lambda tx: list(tx.execute(sa.select(item.c.open)).scalars())) == [1, 1]
    assert len(rate_all(world, into, third)) == 2


def test_a_seed_is_settled_with_the_items(world):
    into = world.campaign(count=1)
    with pytest.raises(Conflict, match="seed of spring can no longer change"):
        world.do(campaigns.set_settings, into.id, into.settings.model_copy(update={"seed": 1}))

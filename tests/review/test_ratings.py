"""Ratings are events: idempotent, undone, withdrawn; the current view is derived from them."""

from functools import partial

import pytest
import sqlalchemy as sa

from align.review.errors import Conflict, NotFound, Unfit
from align.review.schemas import TURNED, RatingIn, SkipIn
from align.review.store import ratings
from align.review.tables import event, item

from .test_assignment import rate_all, send, take


def kinds(world) -> list[str]:
    return world.do(lambda tx: list(tx.execute(sa.select(event.c.kind).order_by(event.c.id)).scalars()))


def test_the_same_key_is_the_same_rating(world):
    into = world.campaign()
    rater = world.person("rater", into)
    given = take(world, into, rater)
    for _ in range(3):
        assert send(world, into, rater, given, "a", key="one-key-only")
    assert kinds(world) == ["rate"]


def test_the_key_of_another_request_is_refused_and_nothing_is_lost(world):
    """Answered with 200, a rating that was never stored would be gone."""
    into = world.campaign()
    autumn = world.campaign("autumn")
    rater = world.person("rater", into, autumn)
    first = take(world, into, rater)
    send(world, into, rater, first, "a", key="one-key-only", reason="why")
    second, elsewhere = take(world, into, rater), take(world, autumn, rater)
    now = world.clock()
    skipped = SkipIn(key="one-key-only", reason="unclear")
    others = [
        lambda: send(world, into, rater, second, "a", key="one-key-only", reason="why"),
        lambda: send(world, into, rater, first, "b", key="one-key-only", reason="why"),
        lambda: send(world, into, rater, first, "a", key="one-key-only", reason="another"),
        lambda: send(world, into, rater, first, "a", key="one-key-only", reason="why", flag=True),
        lambda: send(world, autumn, rater, elsewhere, "a", key="one-key-only", reason="why"),
        lambda: world.do(ratings.skip, into, rater, first.id, skipped, now=now),
        lambda: world.do(ratings.skip, into, rater, second.id, skipped, now=now),
        lambda: world.do(ratings.undo, into, rater, "one-key-only", now=now),
    ]
    for other in others:
        with pytest.raises(Conflict, match="key of another"):
            other()
    assert kinds(world) == ["rate"]
    world.do(ratings.skip, into, rater, second.id, SkipIn(key="skip-key", reason="unclear"), now=now)
    with pytest.raises(Conflict, match="key of another"):
        world.do(ratings.skip, into, rater, second.id, SkipIn(key="skip-key", reason="broken"), now=now)
    world.do(ratings.undo, into, rater, "undo-key", now=now)
    with pytest.raises(Conflict, match="key of another"):
        world.do(ratings.undo, autumn, rater, "undo-key", now=now)


def test_over_http_a_reused_key_is_a_conflict(rater):
    _, browser, _ = rater
    sent = {"key": "k" * 10, "verdict": "a"}
    first = browser.api("/spring/next").json()["task"]["assignment"]
    second = browser.api(f"/spring/assignments/{first}/rating", sent).json()["task"]["assignment"]
    assert browser.api(f"/spring/assignments/{first}/rating", sent).status_code == 200
    assert browser.api(f"/spring/assignments/{second}/rating", sent).status_code == 409


def test_a_decision_with_the_key_of_another_is_refused(small_world):
    world = small_world
    into = world.campaign()
    admin = world.person("admin")
    numbers = world.do(lambda tx: list(tx.execute(sa.select(item.c.id).order_by(item.c.id).limit(2)).scalars()))
    decide = partial(world.do, ratings.adjudicate, into, admin)
    decide(numbers[0], "a", "", "decide-0001", now=0.0)
    decide(numbers[0], "a", "", "decide-0001", now=0.0)
    for number, verdict in ((numbers[1], "a"), (numbers[0], "b")):
        with pytest.raises(Conflict, match="key of another"):
            decide(number, verdict, "", "decide-0001", now=0.0)
    assert world.do(ratings.adjudicated, into.id) == {numbers[0]: "a"}


def test_no_key_of_a_rater_keeps_their_ratings_from_being_withdrawn(small_world):
    world = small_world
    into = world.campaign(count=2)
    rater = world.person("rater", into)
    send(world, into, rater, take(world, into, rater), key="withdraw-1")
    send(world, into, rater, take(world, into, rater), key="withdraw-2")
    assert world.do(ratings.withdraw, into, rater, now=0.0) == 2


def test_a_second_rating_of_an_item_is_refused(world):
    into = world.campaign()
    rater = world.person("rater", into)
    given = take(world, into, rater)
    send(world, into, rater, given)
    with pytest.raises(Conflict):
        send(world, into, rater, given, key="another-key")


def test_verdicts_are_kept_as_the_item_has_its_sides(small_world):
    world = small_world
    question = {"id": "safer", "text": "Safer?", "kind": "sides"}
    into = world.campaign(count=20, rubric=[question])
    rater = world.person("rater", into)
    flipped = {}
    while given := take(world, into, rater):
        flipped[given.item_id] = given.flipped
        send(world, into, rater, given, "slight_a", answers={"safer": "b"})
    assert set(flipped.values()) == {True, False}
    for one in world.do(ratings.current, into.id):
        turned = flipped[one.item_id]
        assert one.verdict == ("slight_b" if turned else "slight_a")
        assert one.answers == {"safer": "a" if turned else "b"}
        assert one.flipped == turned
    assert all(TURNED[TURNED[verdict]] == verdict for verdict in TURNED)


def test_undo_gives_the_item_back_with_what_was_said(world):
    into = world.campaign()
    rater = world.person("rater", into)
    first = take(world, into, rater)
    send(world, into, rater, first, "b", reason="wrong")
    waiting = take(world, into, rater)
    world.do(ratings.undo, into, rater, "undo-0001", now=world.clock())
    again = take(world, into, rater)
    assert again.id == first.id
    assert world.do(ratings.previous, again.id).reason == "wrong"
    assert world.do(ratings.current, into.id) == []
    send(world, into, rater, again, "a", key="second-thought")
    assert take(world, into, rater).id == waiting.id
    assert len(world.do(ratings.current, into.id)) == 1
    assert kinds(world) == ["rate", "undo", "rate"]


def test_undo_goes_back_step_by_step(small_world):
    world = small_world
    into = world.campaign(count=3)
    rater = world.person("rater", into)
    done = rate_all(world, into, rater)
    for number, given in enumerate(reversed(done)):
        world.do(ratings.undo, into, rater, f"undo-{number:04}", now=world.clock())
        assert len(world.do(ratings.current, into.id)) == len(done) - number - 1
        assert given.id
    with pytest.raises(Conflict):
        world.do(ratings.undo, into, rater, "undo-9999", now=world.clock())


def test_others_assignments_cannot_be_rated(world):
    into = world.campaign()
    mine, other = world.person("rater", into), world.person("rater", into)
    given = take(world, into, mine)
    with pytest.raises(NotFound):
        send(world, into, other, given)


def test_the_rubric_is_kept_to(small_world):
    world = small_world
    rubric = [{"id": "sure", "text": "How sure?", "kind": "scale", "required": True}]
    into = world.campaign(rubric=rubric)
    rater = world.person("rater", into)
    given = take(world, into, rater)
    for answers in ({}, {"sure": "6"}, {"sure": "3", "other": "1"}):
        with pytest.raises(Unfit):
            send(world, into, rater, given, answers=answers)
    assert send(world, into, rater, given, answers={"sure": "3"})


def test_withdrawing_takes_every_rating_back_and_frees_the_items(world):
    into = world.campaign(count=4, overlap=1)
    rater, other = world.person("rater", into), world.person("rater", into)
    rate_all(world, into, rater)
    assert world.do(ratings.withdraw, into, rater, now=world.clock()) == 4
    assert world.do(ratings.withdraw, into, rater, now=world.clock()) == 0
    assert world.do(ratings.current, into.id) == []
    assert len(rate_all(world, into, other)) == 4
    with pytest.raises(Conflict):
        world.do(ratings.undo, into, rater, "undo-0001", now=world.clock())


def test_an_event_is_never_changed(world):
    into = world.campaign(count=2)
    rater = world.person("rater", into)
    rate_all(world, into, rater)

    def rows(tx):
        return [tuple(row) for row in tx.execute(sa.select(event).order_by(event.c.id))]

    before = world.do(rows)
    world.do(ratings.undo, into, rater, "undo-0001", now=world.clock())
    world.do(ratings.withdraw, into, rater, now=world.clock())
    assert world.do(rows)[: len(before)] == before


def test_adjudication_is_the_newest_of_an_admin(world):
    into = world.campaign()
    admin = world.person("admin")
    rater = world.person("rater", into)
    given = take(world, into, rater)
    for number, verdict in enumerate(("a", "both_bad")):
        world.do(ratings.adjudicate, into, admin, given.item_id, verdict, "", f"decide-{number:04}", now=world.clock())
    assert world.do(ratings.adjudicated, into.id) == {given.item_id: "both_bad"}
    assert world.do(ratings.current, into.id) == []


def test_a_rating_says_nothing_that_is_not_asked():
    with pytest.raises(ValueError, match="extra"):
        RatingIn.model_validate({"key": "k" * 8, "verdict": "a", "person": 1})

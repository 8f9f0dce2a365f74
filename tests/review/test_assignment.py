"""Who rates what: overlap, leases, nobody twice, gold, repeats, arms."""

from collections import Counter

import pytest

from align.records import Comparison
from align.review.errors import NotFound
from align.review.loading import to_items
from align.review.schemas import RatingIn, SkipIn
from align.review.store import assignment, campaigns, people, ratings
from align.review.store.assignment import Assignment
from align.review.tables import item

from .conftest import World, pairs


def take(world: World, into, rater) -> Assignment | None:
    return world.do(assignment.take_next, into, rater, now=world.clock())


def send(world: World, into, rater, given: Assignment, verdict: str = "a", key: str | None = None, **more) -> bool:
    sent = RatingIn(key=key or f"rating-{rater.id}-{given.id}", verdict=verdict, **more)
    return world.do(ratings.rate, into, rater, given.id, sent, now=world.clock())


def rate_all(world: World, into, rater, verdict: str = "a") -> list[Assignment]:
    """Everything there is for a rater."""
    done = []
    while given := take(world, into, rater):
        send(world, into, rater, given, verdict)
        done.append(given)
    return done


def test_every_item_gets_its_overlap_and_nobody_sees_one_twice(world):
    into = world.campaign(count=6, overlap=2)
    raters = [world.person("rater", into) for _ in range(3)]
    seen = {rater.handle: [given.item_id for given in rate_all(world, into, rater)] for rater in raters}
    counts = Counter(number for numbers in seen.values() for number in numbers)
    assert set(counts.values()) == {2} and len(counts) == 6
    assert all(len(numbers) == len(set(numbers)) for numbers in seen.values())
    assert len(seen[raters[0].handle]) == 6 and not seen[raters[2].handle]


def test_asking_again_gives_the_same_item(world):
    into = world.campaign()
    rater = world.person("rater", into)
    assert take(world, into, rater) == take(world, into, rater)


def test_leases_hold_items_and_run_out(world):
    into = world.campaign(count=1, overlap=1, lease=60)
    slow, other = world.person("rater", into), world.person("rater", into)
    held = take(world, into, slow)
    assert take(world, into, other) is None
    world.clock.now += 61
    freed = take(world, into, other)
    assert freed.item_id == held.item_id
    # The slow rater's work is kept, but it is not a second rating of an item that shall have one.
    assert not send(world, into, slow, held, "b")
    assert send(world, into, other, freed, "a")
    assert [(one.rater, one.verdict) for one in world.do(ratings.current, into.id)] == [(other.handle, "a")]


def test_a_late_rating_counts_while_its_item_is_free(world):
    into = world.campaign(count=1, overlap=1, lease=60)
    slow = world.person("rater", into)
    held = take(world, into, slow)
    world.clock.now += 61
    world.do(assignment.free_expired, into.id, world.clock())
    assert send(world, into, slow, held)
    assert take(world, into, world.person("rater", into)) is None


def test_nobody_rates_what_they_wrote(small_world):
    world = small_world
    into = world.campaign(count=0)
    writer, other = world.person("rater", into), world.person("rater", into)
    rows = pairs(1)
    rows[0][1]["answers"][0]["author"] = writer.handle
    rows = [(Comparison.from_row(rows[0][1]), rows[0][1])]
    world.load(into, rows)
    assert take(world, into, writer) is None
    assert take(world, into, other) is not None


def test_ratings_made_elsewhere_count_towards_the_overlap(world):
    into = world.campaign(count=0, overlap=3)
    rows = pairs(1, ratings=[{"rater": "alice", "verdict": "a"}, {"rater": "bob", "verdict": "tie"}])
    assert world.load(into, rows) == (1, 2)
    raters = [world.person("rater", into) for _ in range(3)]
    assert len(rate_all(world, into, raters[0])) == 1 and take(world, into, raters[1]) is None
    alice = world.do(people.person_by_name, "import:alice")
    assert world.do(ratings.withdraw, into, alice, now=0.0) == 1
    assert len(rate_all(world, into, raters[1])) == 1 and take(world, into, raters[2]) is None


def test_gold_items_come_once_and_repeats_come_turned(small_world):
    world = small_world
    into = world.campaign(rows=pairs(30), overlap=5, gold=0.5, repeats=0.5)
    golden = [(compared, {**row, "gold": "a", "prompt": row["prompt"]}) for compared, row in pairs(33)[30:]]
    world.do(lambda tx: campaigns.add_items(tx, into, to_items(golden, into.settings), None))
    rater = world.person("rater", into)
    done = rate_all(world, into, rater)
    kinds = Counter(given.kind for given in done)
    assert kinds["gold"] == 3 and kinds["main"] == 30 and kinds["repeat"] > 3
    first = {given.item_id: given.flipped for given in done if given.kind == "main"}
    again = [given for given in done if given.kind == "repeat"]
    assert all(given.flipped != first[given.item_id] for given in again)
    assert len({given.item_id for given in again}) == len(again)


def test_the_uncertain_come_first_beside_a_random_control_arm(small_world):
    world = small_world
    into = world.campaign(count=120, overlap=1, strategy="uncertain", control=0.25, seed=3)
    rows = world.do(lambda tx: tx.execute(item.select()).all())
    arms = {row.id: row.arm for row in rows}
    margins = {row.id: row.margin for row in rows}
    assert 0.15 < Counter(arms.values())["random"] / 120 < 0.35
    rater = world.person("rater", into)
    order = [given.item_id for given in rate_all(world, into, rater)]
    unsure = [abs(margins[number]) for number in order if arms[number] == "uncertain"]
    assert unsure == sorted(unsure)
    early = Counter(arms[number] for number in order[:60])
    assert 0.1 < early["random"] / 60 < 0.45
    control = [abs(margins[number]) for number in order if arms[number] == "random"]
    assert control != sorted(control)


def test_the_same_campaign_again_gives_the_same_order(small_world):
    orders = []
    for name in ("one", "two"):
        into = small_world.campaign(name=name, count=20, seed=7)
        mine = item.select().where(item.c.campaign_id == into.id).order_by(item.c.rank)
        orders.append(small_world.do(lambda tx, mine=mine: [row.key for row in tx.execute(mine)]))
    assert orders[0] == orders[1] != sorted(orders[0])


def test_sides_are_shuffled(small_world):
    into = small_world.campaign(count=60)
    done = rate_all(small_world, into, small_world.person("rater", into))
    assert 15 < sum(given.flipped for given in done) < 45


def test_who_does_not_belong_gets_nothing(world):
    into = world.campaign()
    with pytest.raises(NotFound):
        take(world, into, world.person("rater"))


def test_a_paused_campaign_gives_nothing_new_and_takes_what_is_held(world):
    into = world.campaign()
    rater = world.person("rater", into)
    held = take(world, into, rater)
    world.do(campaigns.set_state, into.id, "paused")
    into = world.do(campaigns.get_campaign, "spring")
    assert take(world, into, rater) == held
    assert send(world, into, rater, held)
    assert take(world, into, rater) is None


def test_skipping_frees_the_item_for_others_alone(world):
    into = world.campaign(count=1, overlap=1)
    first, second = world.person("rater", into), world.person("rater", into)
    held = take(world, into, first)
    world.do(ratings.skip, into, first, held.id, SkipIn(key="skip-0001", reason="unclear"), now=world.clock())
    assert take(world, into, first) is None
    assert take(world, into, second).item_id == held.item_id

"""Verdicts to rows, gates, provenance, recall; and that a stage takes what comes out."""

import itertools

import pytest

from align.artifacts.lineage import lineage, tree
from align.artifacts.store import Store
from align.config.compose import compose
from align.data.loading.load import load_artifact
from align.errors import UserError
from align.review.aggregate import Item, compile_rows, decide
from align.review.export import Rules, export, extract
from align.review.loading import to_items
from align.review.recall import recall
from align.review.schemas import VERDICTS, Gates, SkipIn
from align.review.store import campaigns, ratings
from align.review.store.ratings import Rating
from align.run.plan import make_plan

from .conftest import World, pairs
from .test_assignment import send, take


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (["a"], ("pair", 2.0)),
        (["slight_b"], ("pair", -1.0)),
        (["a", "b"], ("tie", 0.0)),
        (["a", "slight_b"], ("pair", 0.5)),
        (["tie"], ("tie", 0.0)),
        (["both_bad", "both_bad", "a"], ("both_bad", 0.0)),
        (["both_bad", "a"], ("pair", 1.0)),
        (["both_good"], ("both_good", 0.0)),
        (["both_good", "both_bad"], ("tie", 0.0)),
    ],
)
def test_a_verdict_of_many(said, outcome):
    assert decide(said) == outcome


def vote(number: int, verdict: str, rater: str = "r1") -> Rating:
    return Rating(1, number, f"key{number}", rater, "main", verdict, {}, "", False, False, None, 0.0)


def items(count: int) -> list[Item]:
    return [Item(number, f"key{number}", f"Q{number}", f"A{number}", f"B{number}") for number in range(count)]


def test_rows_of_every_verdict():
    compiled = compile_rows(items(7), [vote(n, verdict) for n, verdict in enumerate(VERDICTS)], {}, ties="bad")
    margins = {key: (row.chosen[0], row.margin) for key, row in compiled.preferences}
    assert margins == {"key0": ("A", 2.0), "key1": ("A", 1.0), "key3": ("B", 1.0), "key4": ("B", 2.0)}
    labels = {}
    for key, row in compiled.unpaired:
        labels.setdefault(key, []).append(row.label)
    assert labels["key5"] == [False, False] and labels["key6"] == [True, True] and labels["key2"] == [False, False]
    assert labels["key4"] == [True, False]
    assert compiled.outcomes == {"pair": 4, "tie": 1, "both_bad": 1, "both_good": 1}


def test_the_order_of_ratings_changes_nothing():
    votes = [vote(0, "a", "r1"), vote(0, "slight_b", "r2"), vote(1, "tie", "r1"), vote(1, "b", "r3")]
    found = {str(compile_rows(items(2), order, {}).preferences) for order in itertools.permutations(votes)}
    assert len(found) == 1


def test_what_is_left_out_is_counted():
    votes = [vote(0, "a"), vote(1, "tie"), vote(2, "a"), vote(2, "a", "r2"), vote(3, "a")]
    compiled = compile_rows(items(5), votes, {3: "b"}, min_ratings=2, flagged=frozenset({2}))
    assert compiled.left_out == {"fewer than 2 ratings": 2, "flagged": 1, "not rated": 1}
    assert [(key, row.chosen) for key, row in compiled.preferences] == [("key3", "B3")]


def rated(world, count=8, raters=2, verdicts=("good",), **settings):
    """A campaign whose raters prefer, in turn, the good answer or what `verdicts` says."""
    into = world.campaign(count=count, overlap=raters, **settings)
    people = [world.person("rater", into) for _ in range(raters)]
    rate_in(world, into, people, verdicts)
    return into, people


def rate_in(world, into, people, verdicts, milliseconds=0):
    """Let people rate all there is, and prefer, in turn, what `verdicts` says."""
    turn = itertools.cycle(verdicts)
    for rater in people:
        while given := take(world, into, rater):
            said = next(turn)
            better = "b" if given.flipped else "a"  # dpo:v1's answer is the item's a
            worse = "a" if given.flipped else "b"
            send(world, into, rater, given, {"good": better, "poor": worse}.get(said, said), milliseconds=milliseconds)


def published(world, into, name="prefs", gates=Gates(), rules=Rules()):  # noqa: B008 - both are frozen
    return export(Store(world.artifacts), name, world.do(extract, into), gates=gates, rules=rules)


def test_an_export_is_a_dataset_that_says_where_it_came_from(world):
    into, people = rated(world)
    pairs, unpaired = published(world, into)
    assert (pairs.ref, unpaired.ref) == ("prefs:v1", "prefs-unpaired:v1")
    store = Store(world.artifacts)
    rows = load_artifact(pairs.path, "preference", "train").records
    assert rows and all(row.chosen.startswith("Good") and row.margin == 2.0 for row in rows)
    labels = [row.label for row in load_artifact(unpaired.path, "unpaired_preference", "train").records]
    assert labels.count(True) == labels.count(False)
    told = tree(lineage(store, pairs))
    for word in ("comparisons: comparisons:v1", "campaign: campaign spring  16 ratings", "raters: r1  8 ratings"):
        assert word in told
    assert people[0].handle in pairs.manifest.notes["raters"]


def test_tools_come_through_the_loop(world):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    into, _ = rated(world, raters=1, rows=pairs(6, tools=tools))
    pair, single = published(world, into)
    for version, format in ((pair, "preference"), (single, "unpaired_preference")):
        records = load_artifact(version.path, format, "train").records
        assert records and all(one.tools == tools for one in records)
    # The same pair without them is another item.
    assert world.do(lambda tx: campaigns.add_items(tx, into, to_items(pairs(2), into.settings), None)) == 2


def test_the_tools_are_shown_beside_the_prompt(small_world):
    tools = [{"type": "function", "function": {"name": "<weather>"}}]
    into = small_world.campaign(rows=pairs(1, tools=tools))
    task = small_world.browser(small_world.person("rater", into)).api("/spring/next").json()["task"]
    assert "&lt;weather&gt;" in task["prompt"] and "weather" not in task["left"] + task["right"]


def test_the_same_ratings_export_to_the_same_version(small_world):
    into, _ = rated(small_world)
    first = published(small_world, into)
    assert [one.ref for one in published(small_world, into)] == [one.ref for one in first]
    elsewhere = World(small_world.database, small_world.artifacts / "other")
    assert [one.digest for one in published(elsewhere, into)] == [one.digest for one in first]


def test_a_refused_export_says_by_how_much(small_world):
    into, _ = rated(small_world, count=11, verdicts=("good", "poor", "tie"))
    gates = Gates(min_raters=5, min_agreement=0.9, min_gold=0.5)
    with pytest.raises(UserError) as refused:
        published(small_world, into, gates=gates)
    for word in ("2 raters, 3 fewer than 5", "below 0.9", "gold items is unknown (nobody rated a gold item)"):
        assert word in str(refused.value)
    assert not Store(small_world.artifacts).names()


def test_flags_are_a_gate(small_world):
    into = small_world.campaign(count=2, overlap=1)
    rater = small_world.person("rater", into)
    send(small_world, into, rater, take(small_world, into, rater), flag=True)
    send(small_world, into, rater, take(small_world, into, rater))
    with pytest.raises(UserError, match=r"flagged items 0.50 is 0.30 above 0.2"):
        published(small_world, into)
    assert published(small_world, into, gates=Gates(max_flags=1.0))[0].manifest.metrics["train_records"] == 1


def test_a_flag_that_was_taken_back_is_none(world):
    into = world.campaign(count=2, overlap=1)
    rater = world.person("rater", into)
    first = take(world, into, rater)
    send(world, into, rater, first, flag=True)
    assert world.do(ratings.flags, into.id) == {first.item_id: [rater.handle]}
    world.do(ratings.undo, into, rater, "undo-0001", now=world.clock())
    assert world.do(ratings.flags, into.id) == {}
    send(world, into, rater, take(world, into, rater), key="again-0001")
    second = take(world, into, rater)
    skipped = SkipIn(key="skip-0001", reason="uncomfortable", flag=True)
    world.do(ratings.skip, into, rater, second.id, skipped, now=world.clock())
    assert world.do(extract, into).flagged == {second.item_id}
    world.do(ratings.withdraw, into, rater, now=world.clock())
    assert world.do(ratings.flags, into.id) == {second.item_id: [rater.handle]}


def test_nothing_rated_is_told(small_world):
    into = small_world.campaign(count=2)
    with pytest.raises(UserError, match="2 not rated"):
        published(small_world, into, gates=Gates(min_raters=0))


@pytest.mark.slow
def test_a_stage_takes_the_export(tiny_store, small_world):
    small_world.artifacts = tiny_store
    into, _ = rated(small_world, count=20)
    published(small_world, into)
    cfg = compose([f"artifacts.root={tiny_store}", "stage=dpo", "inputs.dataset=prefs:latest"])
    plan = make_plan(cfg, Store(tiny_store), world_size=1)
    assert plan.inputs["dataset"].ref == "prefs:v1"


def test_a_recall_makes_a_version_without_and_names_the_models(world):
    into, people = rated(world, raters=2)
    pairs, _ = published(world, into)
    store = Store(world.artifacts)
    trained = model_of(store, pairs)
    grandchild = model_of(store, trained)
    mixture = dataset_of(store, pairs)
    heir = model_of(store, mixture)
    model_of(store, None)
    done = recall(world.database, store, people[0].handle, now=world.clock())
    assert done.withdrawn == {"spring": 8}
    assert [one.ref for one in done.tainted] == ["prefs:v1", "prefs-unpaired:v1"]
    assert [one.ref for one in done.replaced] == ["prefs:v2", "prefs-unpaired:v2"]
    assert {one.ref for one in done.models} == {trained.ref, grandchild.ref, heir.ref}
    assert [one.ref for one in done.derived] == [mixture.ref]
    assert store.resolve("prefs:latest").manifest.notes["raters"] == [people[1].handle]
    again = recall(world.database, store, people[0].handle, now=world.clock())
    assert not again.withdrawn and [one.ref for one in again.replaced] == ["prefs:v2", "prefs-unpaired:v2"]


def test_recalling_the_only_rater_leaves_nothing_and_says_so(small_world):
    into, people = rated(small_world, raters=1)
    published(small_world, into)
    done = recall(small_world.database, Store(small_world.artifacts), people[0].handle, now=0.0)
    assert not done.replaced and "gives no row" in done.empty[0]
    with pytest.raises(UserError, match="no rater 'r99'"):
        recall(small_world.database, Store(small_world.artifacts), "r99", now=0.0)


def test_a_recall_looks_past_what_cannot_be_read_and_says_so(small_world):
    into, people = rated(small_world)
    published(small_world, into)
    store = Store(small_world.artifacts)
    (store.root / "foreign" / "v0001" / "manifest.json").mkdir(parents=True)
    done = recall(small_world.database, store, people[0].handle, now=0.0)
    assert done.withdrawn and [one.ref for one in done.replaced] == ["prefs:v2", "prefs-unpaired:v2"]
    assert len(done.unread) == 1 and "foreign" in done.unread[0]


@pytest.mark.parametrize(
    "notes", [{"raters": 5}, {"raters": ["r1"]}, {"raters": ["r1"], "campaign": "spring", "gates": 1, "rules": []}]
)
def test_a_recall_believes_no_manifest_that_was_pulled(small_world, notes):
    _, people = rated(small_world)
    store = Store(small_world.artifacts)
    folder = store.stage("pulled")
    (folder / "ratings.jsonl").write_text("{}\n")
    store.publish(folder, name="pulled", type="dataset", format="preference", notes={"stage": "review", **notes})
    done = recall(small_world.database, store, people[0].handle, now=0.0)
    assert done.withdrawn == {"spring": 8} and done.replaced == []
    assert not done.empty or "does not say how it was exported" in done.empty[0]


def model_of(store: Store, parent):
    """A model that was trained on `parent`."""
    folder = store.stage("dpo")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(str(len(store.numbers("dpo"))))
    record = {"ref": parent.ref, "digest": parent.digest, "kind": "artifact"} if parent else None
    return store.publish(folder, name="dpo", type="model", inputs={"dataset": record} if record else {})


def dataset_of(store: Store, parent):
    """Data that was made from `parent`."""
    folder = store.stage("mix")
    (folder / "records").mkdir()
    (folder / "records" / "train.jsonl").write_text("{}")
    record = {"ref": parent.ref, "digest": parent.digest, "kind": "artifact"}
    return store.publish(folder, name="mix", type="dataset", inputs={"data": [record]}, format="preference")

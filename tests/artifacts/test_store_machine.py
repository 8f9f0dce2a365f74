"""Writers in processes of their own, told by hypothesis what to do at the same time, against a model of the store."""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from align.artifacts.store import Store
from align.artifacts.verification import verify_many

WRITERS = 2
WRITER = """
import json, os, sys
from align.artifacts.gc import collect, plan_collection
from align.artifacts.remote import Remote
from align.artifacts.store import Store
from align.artifacts.transfer import pull, push
from align.errors import UserError
os.fsync = lambda descriptor: None  # no power is cut here
store = Store(sys.argv[1])
remote = Remote("file://" + sys.argv[2])
for line in sys.stdin:
    verb, *given = json.loads(line)
    try:
        if verb == "publish":
            name, text = given
            folder = store.stage(name)
            (folder / "a.json").write_text(json.dumps(text))
            done = store.publish(folder, name=name, type="report").ref
        elif verb == "alias":
            ref, alias, expect = given
            store.point(store.resolve(ref), alias, expect=expect)
            done = ref
        elif verb == "pin":
            done = store.resolve(given[0])
            store.pin(done)
            done = done.ref
        elif verb == "gc":
            done = [version.ref for version in collect(store, plan_collection(store, grace_days=0))]
        elif verb == "push":
            push(store, store.resolve(given[0]), remote, say=lambda line: None)
            done = given[0]
        elif verb == "pull":
            done = pull(store, given[0], remote, say=lambda line: None).ref
    except UserError as error:
        done = {"error": str(error)}
    print(json.dumps(done), flush=True)
"""

names = st.sampled_from(["sft", "dpo"])
aliases = st.sampled_from(["best", "promoted"])


class Writers(RuleBasedStateMachine):
    """Each rule gives every writer something to do at once, then the store is compared with what they said."""

    refs = Bundle("refs")

    @initialize()
    def start(self):
        self.folder = TemporaryDirectory()
        top = Path(self.folder.name)
        self.store = Store(top / "store")
        command = [sys.executable, "-c", WRITER, str(top / "store"), str(top / "remote")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.writers = [subprocess.Popen(command, **pipes) for _ in range(WRITERS)]
        self.texts: dict[str, str] = {}  # ref -> what was published there
        self.gone: set[str] = set()
        self.pinned: set[str] = set()
        self.count = 0

    def tell(self, *orders):
        """One order for each writer; their answers, in order."""
        for writer, order in zip(self.writers, orders, strict=True):
            writer.stdin.write(json.dumps(order) + "\n")
            writer.stdin.flush()
        answers = [json.loads(writer.stdout.readline()) for writer in self.writers]
        for order, answer in zip(orders, answers, strict=True):
            if order[0] == "gc" and isinstance(answer, list):
                self.gone |= set(answer)
            if order[0] == "pin" and isinstance(answer, str):
                self.pinned.add(answer)
            if order[0] == "pull" and isinstance(answer, str):
                self.gone.discard(answer)
            if order[0] == "publish":
                assert answer not in self.texts, f"{answer} was given twice"
                self.texts[answer] = order[2]
        return answers

    def text(self):
        self.count += 1
        return f"text {self.count}"

    @rule(target=refs, one=names, two=names)
    def both_publish(self, one, two):
        return self.tell(["publish", one, self.text()], ["publish", two, self.text()])[0]

    @rule(ref=refs, alias=aliases, name=names)
    def one_points_one_publishes(self, ref, alias, name):
        self.tell(["alias", ref, alias, None], ["publish", name, self.text()])

    @rule(one=refs, two=refs, alias=aliases)
    def both_swap(self, one, two, alias):
        """Of two who expect the same, and want different things, one is told no."""
        name = one.partition(":")[0]
        if one == two or two.partition(":")[0] != name:
            return
        expect = self.store.aliases(name).get(alias, 0)
        wanted = [int(ref.partition(":v")[2]) for ref in (one, two)]
        if expect in wanted or {one, two} & self.gone:
            return
        answers = self.tell(["alias", one, alias, expect], ["alias", two, alias, expect])
        winners = [answer for answer in answers if isinstance(answer, str)]
        assert len(winners) == 1 and self.store.resolve(f"{name}:{alias}").ref == winners[0]

    @rule(ref=refs, alias=aliases)
    def one_points_one_collects(self, ref, alias):
        answer, _ = self.tell(["alias", ref, alias, None], ["gc"])
        assert isinstance(answer, dict) or ref not in self.gone, f"{ref} was collected under its alias"

    @rule(ref=refs)
    def one_pins_one_collects(self, ref):
        self.tell(["pin", ref], ["gc"])

    @rule()
    def both_collect(self):
        self.tell(["gc"], ["gc"])

    @rule(ref=refs)
    def both_push(self, ref):
        self.tell(["push", ref], ["push", ref])

    @rule(ref=refs)
    def both_pull(self, ref):
        self.tell(["pull", ref], ["pull", ref])

    @invariant()
    def what_is_there_is_whole_and_as_published(self):
        if not hasattr(self, "store"):
            return
        there = [(name, number) for name, numbers in self.store.contents() for number in numbers]
        assert all(finding.whole for finding in verify_many(self.store, there))
        found = {f"{name}:v{number}" for name, number in there}
        assert found == self.texts.keys() - self.gone
        assert self.pinned <= found
        for ref in found:
            text = (self.store.resolve(ref).path / "a.json").read_text()
            assert json.loads(text) == self.texts[ref]
        for name, numbers in self.store.contents():
            pointed = self.store.aliases(name)
            assert set(pointed.values()) <= set(numbers) and pointed["latest"] == max(numbers)

    def teardown(self):
        if not hasattr(self, "writers"):
            return
        for writer in self.writers:
            writer.stdin.close()
            writer.wait()
            writer.stdout.close()
        self.folder.cleanup()


@pytest.mark.slow
def test_writers_at_once():
    checks = settings(max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Writers, settings=checks)

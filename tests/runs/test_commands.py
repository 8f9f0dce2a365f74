"""`align runs ...` as a person meets it."""

import json
import os
from dataclasses import replace

import pytest

from align.artifacts.run_lock import Hold, borrow, read_holder
from align.artifacts.store import Store
from align.cli import main
from align.errors import UserError
from align.runs import clean
from align.runs.clean import leftovers, remove
from align.runs.progress import Progress
from align.runs.record import find_run, read_runs
from align.runs.watch import QUIET, Look, Screen, follow
from tests.runs.made import identity_of, make_run, publish_run

ROWS = [{"step": step, "loss": 1 / step, "eval_loss": 2 / step, "rewards/accuracies": 0.5} for step in (1, 2, 3)]


@pytest.fixture
def store(tmp_path) -> Store:
    """A sweep's two dpo runs that published, an sft run that failed, and a kto run that was stopped."""
    store = Store(tmp_path / "store")
    for day, (beta, loss) in enumerate(((0.1, 0.4), (0.3, 0.6)), start=1):
        started = f"2026-01-0{day}T00:00:00Z"
        publish_run(store, "dpo", beta=beta, rows=ROWS, metrics={"eval_loss": loss}, started=started, group="sweep")
    make_run(store, "sft", "failed", stage="sft", error="no luck;\ntry tomorrow", started="2026-01-03T00:00:00Z")
    make_run(store, "kto", "stopped", stage="kto", rows=ROWS, steps=(2,), started="2026-01-04T00:00:00Z")
    return store


@pytest.fixture
def shell(store, capsys):
    """`shell("ls")` -> (exit status, what was printed, what was complained about)."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["runs", *words, "--artifacts", str(store.root)])
        return status, *capsys.readouterr()

    return run


# -- ls ---------------------------------------------------------------------------------------------------------------


def test_ls(shell):
    status, out, err = shell("ls")
    lines = out.splitlines()
    assert status == 0 and not err and lines[0].split()[:5] == ["RUN", "NAME", "STAGE", "STATE", "PROGRESS"]
    kto, sft, second, first = lines[1:]
    assert kto.split()[1:6] == ["kto", "kto", "stopped", "3", "steps"] and kto.endswith("resumes after step 2")
    assert "eval_loss=0.6667" in kto  # what it has logged, for it has published nothing
    assert "failed" in sft and sft.endswith("no luck; try tomorrow")
    assert "eval_loss=0.6" in second and second.endswith("dpo:v2")
    assert "eval_loss=0.4" in first and first.endswith("dpo:v1")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["sft", "k*"], "kto sft"),
        (["--state", "failed", "--state", "stopped"], "kto sft"),
        (["--state", "resumable"], "kto"),
        (["--stage", "dpo"], "dpo dpo"),
        (["--group", "sweep", "-n", "1"], "dpo"),
        (["--where", "eval_loss<0.65"], "dpo dpo"),
        (["--sort", "name", "--reverse"], "sft kto dpo dpo"),
        (["--sort", "size", "-n", "1"], "kto"),
        (["--sort", "rewards/accuracies", "--state", "resumable"], "kto"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_which_runs_are_listed_and_in_which_order(shell, arguments, names):
    rows = json.loads(shell("ls", "--json", *arguments)[1])
    assert [row["name"] for row in rows] == names.split()


def test_the_best_run_comes_first(shell):
    rows = json.loads(shell("ls", "--json", "--sort", "eval_loss", "--stage", "dpo")[1])
    assert [row["published"] for row in rows] == [["dpo:v1"], ["dpo:v2"]]
    assert rows[0]["metrics"] == {"eval_loss": 0.4} and rows[0]["group"] == "sweep"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ls", "--state", "dead"], "there is no state 'dead'; states: running, "),
        (["ls", "--sort", "gold"], "no run listed here has the metric 'gold'; sort by started, name, size"),
        (["ls", "-n", "0"], "-n 0 shows nothing"),
        (["show", "ppo"], "no run 'ppo' in "),
        (
            ["show", "kto", "--metric", "eval_los"],
            "no run named here has the metric 'eval_los'; did you mean eval_loss?",
        ),
        (["show", "kto", "--html", "no/such/folder.html"], "no/such/folder.html cannot be written"),
        (["compare", "kto"], "compare takes two runs or more"),
        (["watch"], "no run in "),
        (["clean", "ppo"], "no run 'ppo' in "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence(shell, arguments, says):
    status, out, err = shell(*arguments)
    assert status == 2 and not out and err.startswith(f"error: {says}") and err.count("\n") == 1


def test_nothing_to_list(tmp_path, capsys, shell):
    assert main(["runs", "ls", "--artifacts", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out.startswith(f"no runs in {tmp_path / 'none' / '.runs'} yet")
    assert shell("ls", "ppo")[1].startswith("none of the 4 runs in ")


# -- show and compare -------------------------------------------------------------------------------------------------


def test_show(shell, store):
    folder = store.run_dir(identity_of("kto0.1"))
    (folder / "errors").mkdir()
    (folder / "errors" / "rank-0.txt").write_text("Traceback\nValueError: of rank 0\n")
    status, out, _ = shell("show", "kto")
    assert status == 0
    for words in ("state       failed", "step 2  1.0 kB", "policy: sft:v1", "rank 0: ValueError: of rank 0"):
        assert words in out, words
    assert "⠤" in out or "⠒" in out or "⢄" in out, "no curve"
    assert str(folder / "errors" / "rank-0.txt") in out and "resumes after step 2" in out


def test_show_json_has_the_curves(shell):
    shown = json.loads(shell("show", "kto", "--json", "--metric", "loss")[1])
    assert shown["curves"] == {"loss": [[1, 1.0], [2, 0.5], [3, 1 / 3]]}
    assert shown["resumable"] and shown["checkpoints"] == [{"step": 2, "size": 1000}]


def test_compare(shell):
    status, out, _ = shell("compare", "dpo:v1", "dpo:v2")
    tables = [block.splitlines() for block in out.split("\n\n")]
    assert status == 0 and [line.split() for line in tables[0]] == [
        ["config", "dpo:v1", "dpo:v2"],
        ["trainer.beta", "0.1", "0.3"],
    ]
    assert [line.split() for line in tables[1]] == [["metrics", "dpo:v1", "dpo:v2"], ["eval_loss", "0.4", "0.6"]]
    assert "a dpo:v1" in out and "b dpo:v2" in out
    told = json.loads(shell("compare", "dpo:v1", "dpo:v2", "kto", "--json", "--metric", "*loss")[1])
    assert told["config"]["stage"] == ["dpo", "dpo", "kto"] and "inputs" not in told["config"]
    assert told["metrics"] == {"eval_loss": [0.4, 0.6, 2 / 3], "loss": [None, None, 1 / 3]}
    assert told["better"] == {"eval_loss": "min", "loss": "min"} and not any(
        "tracking" in key for key in told["config"]
    )


def test_runs_of_one_name_are_told_apart(shell, store):
    first, second = (identity_of(f"dpo{beta}")[:12] for beta in (0.1, 0.3))
    out = shell("compare", identity_of("dpo0.1"), identity_of("dpo0.3"))[1]
    assert out.splitlines()[0].split("  ")[-2:] != ["dpo", "dpo"] and f"dpo {first}" in out and f"dpo {second}" in out


# -- watch ------------------------------------------------------------------------------------------------------------


def test_watch_follows_a_run_until_it_ends(store):
    folder = make_run(store, "live", "failed", rows=ROWS[:1])
    file = folder / "metrics.jsonl"
    looks: list[int] = []

    def sleep(seconds: float) -> None:
        looks.append(len(looks))
        if looks[-1] == 0:
            with file.open("a") as stream:  # one whole line, and one that is still being written
                stream.write(json.dumps(ROWS[1]) + '\n{"step": 3, "lo')
        elif looks[-1] == 1:
            with file.open("a") as stream:
                stream.write('ss": 0.25}\n')
        else:
            hold.note(state="published", published="live:v1")

    with Hold(folder) as hold:
        seen = list(follow(store, find_run(store, "live"), sleep=sleep))
    rows = [row for look in seen for row in look.rows]
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[-1]["loss"] == 0.25
    assert [look.run.state for look in seen] == ["running"] * 3 + ["published"] and seen[-1].is_last


def test_watch_of_a_run_that_goes_back_to_its_checkpoint(store):
    folder = make_run(store, "live", "failed", rows=ROWS)
    file = folder / "metrics.jsonl"
    looks: list[int] = []

    def sleep(seconds: float) -> None:
        looks.append(1)
        if len(looks) == 1:
            file.write_text(json.dumps(ROWS[0]) + "\n")
        else:
            hold.note(state="stopped")

    with Hold(folder) as hold:
        seen = list(follow(store, find_run(store, "live"), sleep=sleep))
    assert [row["step"] for look in seen for row in look.rows] == [1, 2, 3, 1]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_watch_shows_rows_and_in_between_how_far_the_run_is(store, is_terminal):
    now, written = [0.0], []
    run = replace(find_run(store, "kto"), state="running", progress=Progress(2, 10, "steps", rate=0.5))
    screen = Screen(written.append, is_terminal=is_terminal, clock=lambda: now[0])
    screen.show(Look(run, [ROWS[1]]))
    now[0] += QUIET
    screen.show(Look(replace(run, progress=Progress(4, 10, "steps", rate=0.5)), []))
    screen.show(Look(replace(run, state="stopped"), []))
    clear = "\r\x1b[K" if is_terminal else ""
    assert written[0] == f"{clear}kto       step 2/10  eval_loss 1  loss 0.5\n"
    further = "kto       4/10 steps (40%)  about 0:12 left"
    assert (f"{clear}{further}" if is_terminal else f"{further}\n") in written
    assert written[-1] == f"{clear}kto       stopped: resumes after step 2\n"


def test_watch_tells_how_a_run_ended_by_its_exit_code(shell, store):
    assert shell("watch", "dpo")[0] == 0
    status, out, _ = shell("watch", "kto")
    assert status == 75 and out.splitlines()[-1] == "kto       stopped: resumes after step 2"
    assert shell("watch", "sft")[0] == 1
    status, out, _ = shell("watch", "kto", "--json")
    assert json.loads(out.splitlines()[0])["step"] == 1


def test_watch_without_a_name_takes_the_run_at_work(store, shell):
    with Hold(store.run_dir(identity_of("kto0.1"))) as hold:
        with Hold(store.run_dir(identity_of("sft0.1"))):
            status, _, err = shell("watch")
            assert status == 2 and "2 runs are at work (kto " in err and "name one: align runs watch " in err
        hold.note(state="stopped")
    assert shell("watch")[2].startswith("error: no run in ")


# -- clean ------------------------------------------------------------------------------------------------------------


def paths(store: Store) -> set[str]:
    """The names of the runs that have a folder, and of those whose checkpoints are there."""
    runs = read_runs(store)
    return {run.name for run in runs} | {f"{run.name}/checkpoints" for run in runs if run.checkpoints}


def test_clean_lists_and_removes_only_what_nobody_needs(shell, store):
    publish_run(store, "done", steps=(5,))  # died before it was tidy
    (store.run_dir(identity_of("kto0.1")) / "output").mkdir()
    (store.run_dir(identity_of("kto0.1")) / "output" / "model.safetensors").write_bytes(b"x" * 500)
    before = paths(store)
    status, out, _ = shell("clean", "--grace-days", "0")
    assert status == 0 and paths(store) == before
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "checkpoints of a run that has published" in lines[f"would remove done {identity_of('done0.1')[:12]}"]
    assert "has no checkpoint to resume from" in lines[f"would remove sft {identity_of('sft0.1')[:12]}"]
    assert "it can resume" in lines[f"keep kto {identity_of('kto0.1')[:12]}"]
    assert "500 B  unfinished output" in out and out.splitlines()[-1].endswith("; align runs clean --apply does it")
    assert shell("clean", "--grace-days", "0", "--apply")[0] == 0
    assert paths(store) == {"dpo", "done", "kto", "kto/checkpoints"}
    assert not (store.run_dir(identity_of("kto0.1")) / "output").exists()
    assert find_run(store, "done").state == "published" and not list(store.runs_root.glob(".removed-*"))


def test_clean_keeps_what_is_young(shell, store):
    assert "younger than 7 days" in shell("clean")[1]
    assert shell("clean", "--apply")[1].endswith("removed 0 B of 0 leftovers\n")
    assert "sft" in paths(store)


def test_what_can_resume_goes_only_when_told(shell, store):
    shell("clean", "--grace-days", "0", "--resumable", "--apply")
    assert paths(store) == {"dpo"}
    shell("clean", "--grace-days", "0", "--published", "--apply")
    assert paths(store) == set() and store.numbers("dpo") == [1, 2]


def test_what_wandb_keeps_offline_is_named_before_it_goes(shell, store):
    (store.run_dir(identity_of("dpo0.1")) / "wandb" / "offline-run-1").mkdir(parents=True)
    out = shell("clean", "--published", "--grace-days", "0")[1]
    assert out.count("of a run that has published, W&B's offline files among them\n") == 1


def test_a_run_that_is_named_goes_whole(shell, store):
    told = json.loads(shell("clean", "kto", "--apply", "--json")[1])
    assert [one["name"] for one in told["removed"]] == ["kto"] and paths(store) == {"dpo", "sft"}
    assert "has no run folder any more" in shell("clean", "dpo:v1")[2]


def test_a_run_at_work_is_never_touched(shell, store):
    folder = store.run_dir(identity_of("kto0.1"))
    with Hold(folder):
        status, _, err = shell("clean", "kto", "--apply")
        assert status == 2 and f"is at work, process {os.getpid()}; end it first" in err
        shell("clean", "--grace-days", "0", "--resumable", "--apply")
        assert "kto/checkpoints" in paths(store)


def test_a_run_that_starts_while_one_looks_is_not_touched(store):
    runs = read_runs(store)
    found = [one for one in leftovers(store, runs, resumable=True, grace_days=0.0) if one.run.name == "kto"]
    with Hold(found[0].run.folder):
        assert remove(store, found) == []
    assert remove(store, found) == []  # it has been held since
    assert "kto/checkpoints" in paths(store)


def test_an_interrupted_removal_is_finished(shell, store):
    hidden = store.runs_root / f"{clean.REMOVED}0123"
    hidden.mkdir()
    (hidden / "big").write_bytes(b"x" * 3000)
    assert "3.0 kB  a run's folder whose removal was interrupted" in shell("clean")[1]
    assert not shell("clean", "--apply")[2] and not hidden.exists()


def test_a_borrowed_run_is_given_back_as_it_was(store):
    folder = store.run_dir(identity_of("kto0.1"))
    before = read_holder(folder)
    with borrow(folder) as holder:
        assert holder.number == 2
        with pytest.raises(UserError, match="under way"), borrow(folder):
            pass
    assert read_holder(folder) == before

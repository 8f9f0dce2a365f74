"""Several nodes: what reaches them, and what is found again on each."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.config.compose import compose
from align.config.paths import PROJECT
from align.config.schema import LauncherConfig
from align.distributed import ranks
from align.errors import UserError
from align.run import launchers, nodes
from align.run.plan import make_plan
from align.run.stage import write_record
from tests.conftest import stage_overrides
from tests.run.nodes import DUMP, HOSTS, found_by, make_nodes

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = f"hf:org/tiny@{COMMIT}"


def fill_cache(cache: Path, model: Path) -> Path:
    """A Hugging Face cache that holds `model` as org/tiny at COMMIT; its snapshot."""
    snapshot = cache / "models--org--tiny" / "snapshots" / COMMIT
    shutil.copytree(model, snapshot)
    return snapshot


# -- what a node finds -----------------------------------------------------------------------------------------------


@pytest.fixture
def second_node(tiny_store, tmp_path, monkeypatch):
    """A plan of the main process, and `agree` as the first process of the second node calls it."""
    from huggingface_hub import constants

    model = Store(tiny_store).resolve("sft").model_dir
    theirs, mine = (fill_cache(tmp_path / host, model) for host in HOSTS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(theirs.parents[2]))
    rows = tmp_path / "rows.jsonl"
    rows.write_text((PROJECT / "data/demo/preferences.train.jsonl").read_text()[:20000].rpartition("\n")[0] + "\n")
    files = ["data=local", f"data.preference.train={rows}"]
    cfg = compose(stage_overrides(tiny_store, "stage=dpo", f"inputs.policy={HUB}", *files))
    store = Store(tiny_store)
    plan = make_plan(cfg, store, world_size=2)
    write_record(store.run_dir(plan.identity), plan)
    facts = nodes._facts(plan, store)
    monkeypatch.setenv("CROSS_RANK", "1")
    monkeypatch.setenv("CROSS_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(ranks, "share", lambda value: facts)
    monkeypatch.setattr(ranks, "gather", lambda value: [(0, None, None), value])
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(mine.parents[2]))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")  # where there is no store

    def agree(**changes):
        monkeypatch.setattr(ranks, "share", lambda value: replace(facts, **changes))
        return nodes.agree(plan, Store.open())

    agree.plan, agree.snapshots, agree.rows, agree.facts = plan, (theirs, mine), rows, facts
    return agree


def test_one_node_takes_the_plan_as_it_is(tiny_store):
    plan, store = object(), Store(tiny_store)
    assert nodes.agree(plan, store) == (plan, store)


def test_a_node_finds_the_commit_in_its_own_cache_and_the_store_of_the_main_process(second_node):
    plan, store = second_node()
    assert second_node.plan.inputs["policy"].path == second_node.snapshots[0]
    assert plan.inputs["policy"].path == plan.inputs["ref_model"].path == second_node.snapshots[1]
    assert plan.inputs["policy"].digest == second_node.plan.inputs["policy"].digest
    assert str(store.root) == plan.cfg.artifacts.root == second_node.facts.root


def test_a_node_without_the_commit_says_so(second_node):
    shutil.rmtree(second_node.snapshots[1].parents[1])
    with pytest.raises(UserError, match=f"^node {os.uname().nodename}: {HUB} is not in the local cache"):
        second_node()


def test_a_node_that_does_not_see_the_store_says_so(second_node, tmp_path):
    for changes in ({"root": str(tmp_path / "elsewhere")}, {"record": b"of another disk"}):
        with pytest.raises(UserError, match=r"the store .* is not seen here; name a folder on a disk that all nodes"):
            second_node(**changes)
    assert not (tmp_path / "elsewhere").exists() and list((tmp_path / "work").iterdir()) == []


def test_a_node_with_other_rows_says_so(second_node):
    second_node.rows.write_text(second_node.rows.read_text().partition("\n")[2])
    with pytest.raises(UserError, match=r"the files of data.preference are not the same as on"):
        second_node()


def test_a_node_with_other_packages_or_code_says_so(second_node):
    with pytest.raises(UserError, match=r"torch is \S+ here and 1.0 on \S+; install the same packages"):
        second_node(packages=second_node.facts.packages | {"torch": "1.0"})
    with pytest.raises(UserError, match=r"deepspeed is not installed here and 1.0 on"):
        second_node(packages=second_node.facts.packages | {"deepspeed": "1.0"})
    with pytest.raises(UserError, match="a file that the config names"):
        second_node(config="0" * 64)


def test_one_nodes_problem_stops_every_process(second_node, monkeypatch):
    monkeypatch.setattr(ranks, "gather", lambda value: [(0, None, None), (1, None, "node b: no disk")])
    for rank in ("0", "1"):
        monkeypatch.setenv("CROSS_RANK", rank)
        with pytest.raises(UserError, match="^node b: no disk$"):
            second_node()


# -- what reaches a node ---------------------------------------------------------------------------------------------


def test_nodes_need_pdsh(tmp_path, monkeypatch):
    hostfile, path = make_nodes(tmp_path)
    launcher = LauncherConfig("deepspeed", num_accelerators=1, num_nodes=2, hostfile=str(hostfile))
    monkeypatch.setenv("PATH", path)
    launchers.check_launcher(launcher)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"launcher.num_nodes=2 needs pdsh, .*apt-get install pdsh"):
        launchers.check_launcher(launcher)


def test_a_value_with_a_line_break_is_refused(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "a\nb")
    with pytest.raises(UserError, match="HF_ENDPOINT has a line break"):
        launchers.node_variables(LauncherConfig("deepspeed", num_nodes=2))


def test_one_node_takes_this_environment_without_a_file(monkeypatch):
    with launchers.forwarded(LauncherConfig("deepspeed", num_accelerators=2, env={"X": "1"})) as env:
        assert "DS_ENV_FILE" not in env and env["X"] == "1"


@pytest.mark.slow
def test_words_and_variables_reach_every_node_as_they_are(tmp_path, monkeypatch):
    """Through DeepSpeed's runner, pdsh, a shell with an empty environment, and DeepSpeed's launch process."""
    hostfile, path = make_nodes(tmp_path)
    script = tmp_path / "launch" / "run.py"
    script.parent.mkdir()
    script.write_text(DUMP)
    monkeypatch.setattr(launchers, "PROJECT", tmp_path)
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGN_ARTIFACTS", "shared/store")
    monkeypatch.setenv("SECRET", "from the shell")
    (tmp_path / ".deepspeed_env").write_text("MINE=stands\n")
    hard = """it's "50%" of $HOME; `id` \\ %h %n (a|b) & <c> *"""
    env = {"PROXY": f"http://u:p@h/{hard}", "SECRET": None, "PLAIN": "x"}
    launcher = LauncherConfig("deepspeed", num_accelerators=1, num_nodes=2, hostfile=str(hostfile), env=env)
    words = ["stage=dpo", f"name={hard}", f"x={hard.replace(' ', '_')}", "y=[a,b]", "z={p: q}", "%n"]
    with launchers.forwarded(launcher) as given:
        file = Path(given["DS_ENV_FILE"])
        assert file.stat().st_mode & 0o077 == 0
        assert launchers.launch(launchers.command(launcher, words), given, tmp_path / "log.txt") == 0
    assert not file.exists()
    for host in HOSTS:
        found = found_by(tmp_path, host)
        assert found["words"][1:] == words and found["words"][0] == "--local_rank=0"
        assert found["cwd"] == str(tmp_path)
        wanted = {"PROXY": env["PROXY"], "SECRET": "from the shell", "PLAIN": "x", "MINE": "stands"}
        wanted |= {"ALIGN_ARTIFACTS": str(tmp_path / "shared" / "store"), "WORLD_SIZE": "2", "CROSS_SIZE": "2"}
        assert {name: found["env"].get(name) for name in wanted} == wanted
    assert [found_by(tmp_path, host)["env"]["CROSS_RANK"] for host in HOSTS] == ["0", "1"]


@pytest.mark.slow
def test_a_stage_runs_on_two_nodes_each_with_its_own_cache(tiny_store, tmp_path, monkeypatch):
    """Neither node has this process's environment, and no Hugging Face cache is shared."""
    hostfile, path = make_nodes(tmp_path / "nodes")
    model = Store(tiny_store).resolve("pretrain").model_dir
    hubs = [tmp_path / "nodes" / host / ".cache" / "huggingface" / "hub" for host in HOSTS]
    for hub in hubs:
        fill_cache(hub, model)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("ALIGN_ARTIFACTS", str(tiny_store))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    launcher = LauncherConfig(
        "deepspeed", num_accelerators=1, num_nodes=2, hostfile=str(hostfile), env={"OMP_NUM_THREADS": "1"}
    )
    given = stage_overrides(tiny_store, "stage=sft", "name=far", f"inputs.policy={HUB}", "trainer.max_steps=2")
    given = [text for text in given if not text.startswith("artifacts.root")]

    def start() -> tuple[int, str]:
        log = tmp_path / "log.txt"
        log.unlink(missing_ok=True)
        with launchers.forwarded(launcher) as env:
            code = launchers.launch(launchers.command(launcher, given), env, log)
        return code, log.read_text()

    code, log = start()
    assert code == 0, log[-3000:]
    version = Store(tiny_store).resolve("far")
    assert version.manifest.notes["world_size"] == 2 and version.manifest.inputs["policy"]["revision"] == COMMIT
    assert str(tiny_store) not in (version.path / "config.yaml").read_text()
    shutil.rmtree(hubs[1])
    given.append("trainer.seed=1")
    code, log = start()
    assert code != 0 and f"{HUB} is not in the local cache" in log and "Traceback" not in log, log[-3000:]
    assert [one.ref for one in Store(tiny_store).versions("far")] == ["far:v1"]


def test_subprocesses_of_the_stand_in_end_with_it(tmp_path):
    """The stand-in for pdsh gives back the worst exit code, as `pdsh -S` does."""
    _, path = make_nodes(tmp_path)
    words = ["pdsh", "-S", "-f", "9", "-w", "node-a,node-b", "exit %n"]
    assert subprocess.run(words, env=os.environ | {"PATH": path}).returncode == 1

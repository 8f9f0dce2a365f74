"""What many tests share: a store with very small models, made once, and `run_stage`, a stage run in this process."""

import atexit
import gc
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from align.artifacts.store import Store
from align.artifacts.version import Version
from align.config.compose import compose
from align.config.schema import LauncherConfig
from align.run import stage
from align.run.launchers import command
from align.run.plan import make_plan
from align.stages.spec import STAGES

# One thread a process: tiny matrices gain nothing from more, and sums are then the same on any number of cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("ALIGN_ARTIFACTS", None)
# What `datasets` keeps is kept for this session alone; its processes inherit the place.
if "ALIGN_TEST_CACHE" not in os.environ:
    os.environ["ALIGN_TEST_CACHE"] = os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="align-datasets-")
    atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
# A session in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # so does one under nohup a hang-up

# A GPT-2 of 50 thousand parameters.
TINY_MODEL = {
    "model": "tiny_gpt2",
    "model.new.architecture.n_layer": "2",
    "model.new.architecture.n_head": "2",
    "model.new.architecture.n_embd": "32",
    "model.new.architecture.n_positions": "128",
    "model.new.tokenizer.vocab_size": "512",
}

# A few plain steps on a few rows: every step logged, nothing saved or evaluated on the way.
FEW_STEPS = {
    "trainer.max_steps": "4",
    "trainer.learning_rate": "1e-3",
    "trainer.per_device_train_batch_size": "8",
    "trainer.per_device_eval_batch_size": "16",
    "trainer.gradient_accumulation_steps": "1",
    "trainer.max_length": "128",
    "trainer.activation_checkpointing": "false",
    "trainer.logging_steps": "1",
    "trainer.eval_strategy": "'no'",
    "trainer.save_strategy": "'no'",
    "tracking.sample_prompts": "0",
}


def stage_overrides(root: Path, *overrides: str) -> list[str]:
    """The command line of a small run of one stage in the store `root`; what `overrides` says stands.

    Training stages take `FEW_STEPS` and 64 training rows of the demo data, of which an eighth is held out.
    """
    given = dict(text.split("=", 1) for text in overrides)
    stage = given["stage"]
    defaults = {"artifacts.root": str(root), "data": "demo"}
    if STAGES[stage].trainer_config is not None:
        defaults |= FEW_STEPS
        if STAGES[stage].online:
            del defaults["trainer.max_length"]
            defaults["trainer.max_completion_length"] = "12"
        for format in STAGES[stage].formats if "data" not in given else ():
            defaults |= {
                f"data.{format}.max_rows": "64",
                f"data.{format}.eval": "null",
                f"data.{format}.eval_fraction": "0.02",
            }
    return [f"{key}={value}" for key, value in (defaults | given).items()]


def run_stage(root: Path, *overrides: str) -> Version:
    """Run one stage in this process and give what it published: `run_stage(tiny_store, "stage=dpo")`."""
    return run_command(stage_overrides(root, *overrides))


def run_command(overrides: list[str]) -> Version:
    """What the command line of launch/run.py published, run in this process."""
    cfg = compose(overrides)
    assert stage.run(cfg) == 0
    if not gc.get_freeze_count():
        gc.freeze()  # a trainer collects garbage more than once, and looks through all that was imported each time
    return make_plan(cfg, Store.open(cfg.artifacts.root), world_size=1).published[-1]


def launch_stage(root: Path, processes: int, *overrides: str) -> Version:
    """Run one stage under the deepspeed launcher, as `run_stage` does in this process, and give what it published."""
    given = stage_overrides(root, *overrides)
    words = command(LauncherConfig(kind="deepspeed", num_accelerators=processes), given)
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return make_plan(compose(given), Store.open(str(root)), world_size=processes).published[-1]


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store behind `tiny_store`, made once a session: leave it as it is."""
    root = tmp_path_factory.mktemp("tiny") / "artifacts"
    new = [f"{key}={value}" for key, value in TINY_MODEL.items()]
    run_stage(root, "stage=pretrain", *new, "data.language_modeling.max_rows=512", "trainer.max_steps=20")
    run_stage(root, "stage=sft", "trainer.max_steps=20", "model.chat_template=conf/model/chat.jinja")
    run_stage(root, "stage=reward")
    return root


@pytest.fixture
def tiny_store(tiny_models: Path, tmp_path: Path) -> Path:
    """A store of the test's own with pretrain:v1, sft:v1 and reward:v1, each a GPT-2 of 50 thousand parameters."""
    root = tmp_path / "artifacts"
    shutil.copytree(tiny_models, root)
    return root


@pytest.fixture(scope="session")
def wide_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a pretrain:v1 of width 64: bitsandbytes' 4-bit blocks on a CPU are 64 weights of one row."""
    root = tmp_path_factory.mktemp("wide") / "artifacts"
    model = TINY_MODEL | {"model.new.architecture.n_embd": "64"}
    run_stage(root, "stage=pretrain", *(f"{key}={value}" for key, value in model.items()))
    return root


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a run sets for its process does not outlive the test."""
    before = dict(os.environ)
    yield
    for key in set(os.environ) - set(before):
        del os.environ[key]
    os.environ.update(before)


@pytest.fixture(name="run_stage")
def _run_stage() -> Callable[..., Version]:
    """`run_stage(root, *overrides)`, for tests that take their helpers as fixtures."""
    return run_stage

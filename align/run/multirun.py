"""A multirun: every combination of a sweep, each in a fresh process, and a table of what came of them.

The jobs do not depend on each other: what an alias such as sft:latest means is resolved once, before the first of
them, so that a job does not train on what the one before it has published.
"""

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from align.artifacts.inputs import Input
from align.artifacts.manifest import json_digest
from align.artifacts.metrics import HEADLINES, Metric, named_metric, numbers
from align.artifacts.refs import is_ref
from align.artifacts.store import Store
from align.artifacts.sweeps import Job, Sweep
from align.artifacts.text import short_number, shorten, table
from align.artifacts.version import Version
from align.config.compose import compose, expand_sweep
from align.config.schema import Config
from align.distributed import ranks
from align.distributed.preemption import Stopped
from align.errors import ExitCode, UserError
from align.run import launchers
from align.run.plan import Plan, make_plan
from align.runs.metrics_file import STEP, last_values
from align.runs.record import METRICS_FILE, publications, read_run

_ERROR = 70  # characters of an error in the table
_COMPARED = 8  # versions in the command that draws their curves
NOT_RUN = "not run"


@dataclass
class Outcome:
    """One job of a sweep, and what came of it.

    Attributes:
        settings: key -> value of what is swept.
        overrides: the command line of the job, its inputs as exact versions.
        plan: made before the first job ran.
        version: what it published.
        state: what became of it if it published nothing.
    """

    settings: dict[str, str]
    overrides: list[str]
    plan: Plan
    store: Store
    version: Version | None = None
    state: str = NOT_RUN

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of its version, and what was logged last of those that the version does not name."""
        if self.version is None:
            return {}
        logged = last_values(self.version.path / METRICS_FILE)
        logged.pop(STEP, None)
        return logged | numbers(self.version.manifest.metrics)


def run_all(overrides: list[str], metric: str | None = None) -> int:
    """Run every combination of a multirun, each in a fresh process under `launcher`; the first failure's exit code.

    Args:
        metric: what the table is sorted by, `eval_loss` or `eval_loss:min`; by default what the stage declares.

    Raises:
        UserError: under a launcher, whose ranks would each start all jobs; or a job's config or inputs are unfit.
    """
    if ranks.is_launched():
        raise UserError(
            "--multirun starts a process for each job and cannot itself run under the deepspeed launcher; "
            "start it with python launch/run.py --multirun"
        )
    if metric is not None:
        named_metric(metric)
    outcomes = prepare(overrides)
    name = sweep_name(outcomes)
    codes: list[int] = []
    try:
        with launchers.terminable():
            for number, outcome in enumerate(outcomes, start=1):
                codes.append(_run(outcome, name, f"[{number}/{len(outcomes)}]"))
                summarize(name, outcomes, metric).save(outcome.store)
                if codes[-1] == ExitCode.STOPPED:
                    raise Stopped  # meant for the jobs that are left, too
    except (KeyboardInterrupt, Stopped) as stop:
        done = sum(outcome.version is not None for outcome in outcomes)
        stop.add_note(f"{done} of {len(outcomes)} jobs have published; the same command runs the others")
        raise
    finally:
        if any(outcome.version for outcome in outcomes):
            print(f"\n{describe(outcomes, summarize(name, outcomes, metric))}", flush=True)
    print(f"{codes.count(0)} of {len(outcomes)} jobs done")
    return next((code for code in codes if code != 0), 0)


def prepare(overrides: list[str]) -> list[Outcome]:
    """The jobs of a sweep with their inputs as exact versions, every one checked before the first is run."""
    jobs = expand_sweep(overrides)
    swept = _swept(jobs)
    configs = [compose(job) for job in jobs]
    for cfg in configs:
        launchers.check_launcher(cfg.launcher)
    outcomes = []
    for job, cfg in zip(jobs, configs, strict=True):
        store = Store.open(cfg.artifacts.root)
        plan = make_plan(cfg, store, world_size=launchers.world_size(cfg.launcher))
        settings = {key: value for key, value in map(_setting, job) if key in swept}
        outcomes.append(Outcome(settings, job + pinned_inputs(cfg, plan), plan, store))
    return outcomes


def pinned_inputs(cfg: Config, plan: Plan) -> list[str]:
    """Overrides that name every input which is an artifact by the version that the plan resolved it to."""
    found = []
    for role, text in vars(cfg.inputs).items():
        texts = text if isinstance(text, list) else [text]
        if text is None or not all(is_ref(one) for one in texts):
            continue
        held = plan.inputs[role]
        refs = [one.ref for one in (held if isinstance(held, list) else [held]) if isinstance(one, Input)]
        found.append(f"inputs.{role}=[{','.join(refs)}]" if isinstance(text, list) else f"inputs.{role}={refs[0]}")
    return found


def sweep_name(outcomes: Sequence[Outcome]) -> str:
    """The same for the same jobs, so that a sweep that is started again is the same sweep."""
    digest = json_digest(sorted(outcome.plan.identity for outcome in outcomes))[:8]
    return f"sweep-{outcomes[0].plan.cfg.name[:100]}-{digest}"


def summarize(name: str, outcomes: Sequence[Outcome], metric: str | None) -> Sweep:
    """What a sweep has made so far, and the best of it."""
    chosen = choose_metric(outcomes, metric)
    best = None
    if chosen is not None:
        ranked = sorted((one for one in outcomes if one.version), key=lambda one: chosen.sort_key(one.metrics))
        best = ranked[0].version.ref if ranked and chosen.best(ranked[0].metrics) else None
    jobs = [Job(one.settings, one.plan.identity, one.version.ref if one.version else None) for one in outcomes]
    return Sweep(name, tuple(jobs), chosen and chosen.name, chosen and chosen.better, best)


def choose_metric(outcomes: Sequence[Outcome], metric: str | None) -> Metric | None:
    """The metric that a sweep is sorted by: the one named, else the first of the stage's headline that it has."""
    stages = dict.fromkeys(outcome.plan.cfg.stage for outcome in outcomes)
    if metric is not None:
        return named_metric(metric, next(iter(stages)))
    declared = itertools.chain.from_iterable(HEADLINES.get(stage, ()) for stage in stages)
    measured = [outcome.metrics for outcome in outcomes if outcome.version]
    return next((one for one in declared if any(one.best(metrics) for metrics in measured)), None)


def describe(outcomes: Sequence[Outcome], sweep: Sweep) -> str:
    """A table of the jobs, the best first, and what is best by what."""
    metric = Metric(sweep.metric, sweep.better) if sweep.metric and sweep.better else None
    rows = sorted(outcomes, key=lambda one: (metric.sort_key(one.metrics) if metric else (True, 0.0), not one.version))
    keys = list(dict.fromkeys(key for outcome in outcomes for key in outcome.settings))
    cells = [
        [
            *(outcome.settings.get(key, "") for key in keys),
            _value(outcome, metric),
            outcome.version.ref if outcome.version else shorten(outcome.state, _ERROR),
        ]
        for outcome in rows
    ]
    headings = [*keys, sweep.metric or "metric", "result"]
    lines = [table(headings, cells, right=[sweep.metric or "metric"])]
    if metric is None:
        lines.append("no job has a metric to sort by; name one: --metric NAME:min or --metric NAME:max")
    elif sweep.best is None:
        lines.append(f"no job has the metric {metric.name}; name another: --metric NAME:min or --metric NAME:max")
    else:
        direction = "highest" if sweep.better == "max" else "lowest"
        page = f"--html {sweep.best.partition(':')[0]}.html"
        align = _align(outcomes[0].store)
        refs = [outcome.version.ref for outcome in rows if outcome.version][:_COMPARED]
        curves = f"compare {' '.join(refs)} {page}" if len(refs) > 1 else f"show {sweep.best} {page}"
        lines += [
            f"best: {sweep.best}, with the {direction} {sweep.metric}",
            f"give it a name:               {align} artifacts alias {sweep.best} best",
            f"curves as a page:             {align} runs {curves}",
            f"gc keeps these versions until {align} artifacts gc --release-sweep {sweep.name}",
        ]
    return "\n".join(lines)


def _run(outcome: Outcome, name: str, head: str) -> int:
    """Start one job and wait for it, unless it has published; its exit code, also noted in `outcome`."""
    cfg, store = outcome.plan.cfg, outcome.store
    shown = " ".join(f"{key}={value}" for key, value in outcome.settings.items()) or f"stage={cfg.stage}"
    plan = outcome.plan.again(store)
    if plan.is_done:
        outcome.version = plan.published[-1]
        store.point(outcome.version)
        print(f"{head} {shown}: {outcome.version.ref} is there already", flush=True)
        return 0
    print(f"{head} {shown}", flush=True)
    group = [] if cfg.tracking.group else [f"tracking.group={name}"]
    command = launchers.command(cfg.launcher, outcome.overrides + group)
    with launchers.forwarded(cfg.launcher) as env:
        code = launchers.launch(command, env)
    published = plan.again(store).published
    if len(published) > len(plan.published):
        outcome.version = published[-1]
        return 0
    run = read_run(store, store.run_dir(plan.identity), publications(store))
    outcome.state = f"{run.state}: {run.error}" if run.error else run.state
    return code or 1


def _align(store: Store) -> str:
    """The `align` command for a store: which one is said where it is not the usual one."""
    return "align" if store.root == Store.open().root else f"align --artifacts {shlex.quote(str(store.root))}"


def _swept(jobs: Sequence[Sequence[str]]) -> set[str]:
    """The keys whose values differ between jobs; not those of the environment, whose values nobody may read."""
    values: dict[str, set[str]] = {}
    for key, value in itertools.chain.from_iterable(map(_setting, job) for job in jobs):
        values.setdefault(key, set()).add(value)
    return {key for key, different in values.items() if len(different) > 1 and not key.startswith("launcher.env")}


def _setting(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def _value(outcome: Outcome, metric: Metric | None) -> str:
    name = metric.best(outcome.metrics) if metric else None
    return short_number(outcome.metrics[name]) if name else "-"

"""A multirun: every combination of a sweep, each in a fresh process."""

from align.config.compose import compose, expand_sweep
from align.distributed import ranks
from align.distributed.preemption import STOPPED, Stopped
from align.errors import UserError
from align.run import launchers


def run_all(overrides: list[str]) -> int:
    """Run every combination of a multirun, each in a fresh process under `launcher`; the first failure's exit code.

    Raises:
        UserError: under a launcher, whose ranks would each start all jobs.
    """
    if ranks.is_launched():
        raise UserError(
            "--multirun starts a process for each job and cannot itself run under the deepspeed launcher; "
            "start it with python launch/run.py --multirun"
        )
    jobs = expand_sweep(overrides)
    blocks = [compose(job).launcher for job in jobs]
    for launcher in blocks:
        launchers.check_launcher(launcher)
    codes = []
    with launchers.terminable():
        for number, (job, launcher) in enumerate(zip(jobs, blocks, strict=True), start=1):
            print(f"[{number}/{len(jobs)}] {' '.join(launchers.without_values(launcher, job))}", flush=True)
            codes.append(launchers.launch(launchers.command(launcher, job), launchers.environment(launcher)))
            if codes[-1] == STOPPED:
                raise Stopped  # meant for the jobs that are left, too
    print(f"{codes.count(0)} of {len(jobs)} jobs done")
    return next((code for code in codes if code != 0), 0)

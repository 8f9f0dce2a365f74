"""What a run tells the world: `metrics.jsonl` and `samples.jsonl` always, Weights & Biases when asked.

One process writes. Metric names are TRL's. A resumed run goes on in the same W&B run and the same files.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from align.artifacts.disk import sync_file
from align.artifacts.manifest import json_numbers
from align.distributed import ranks
from align.errors import UserError
from align.runs.progress import ProgressWriter

INIT_TIMEOUT = 60.0  # seconds that W&B has to answer at the start ...
FINISH_TIMEOUT = 120.0  # ... and to take the last lines at the end; what it did not take is on disk


class Tracker:
    """The main process's record of one run; on every other process each method does nothing.

    A context: left by an error, the W&B run ends as failed, so that nobody takes it for one that still trains.

    Args:
        folder: `metrics.jsonl`, `samples.jsonl` and W&B's local files are written here.
        run_id: names the run in W&B; the same identity is the same run.
        wandb: `disabled`, `online` or `offline`.
        project, entity, group, job_type, tags: as W&B has them.
        config: the resolved config, shown in W&B; holds no secrets.
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        wandb: str = "disabled",
        project: str = "align",
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        config: dict[str, Any] | None = None,
    ):
        self.metrics_file = folder / "metrics.jsonl"
        self.samples_file = folder / "samples.jsonl"
        self._progress = ProgressWriter(folder)
        self._wandb = None
        self._told = 0  # calls of W&B's log; the same call has the same number in a resumed run
        if not ranks.is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        if wandb != "disabled":
            self._wandb = _start_wandb(
                mode=wandb,
                dir=str(folder),
                id=run_id,
                name=job_type,
                project=project,
                entity=entity,
                group=group,
                job_type=job_type,
                tags=tags,
                config=config,
            )

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.finish(failed=True)

    @property
    def wandb_run(self) -> dict[str, Any] | None:
        """What the manifest records of the W&B run: entity, project, id, url."""
        if self._wandb is None:
            return None
        run = self._wandb
        return {"entity": run.entity or None, "project": run.project, "id": run.id, "url": run.url or None}

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Note how far the run is, for `align runs`; cheap enough for every step."""
        if ranks.is_main():
            self._progress.note(done, total, unit)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line of numbers at optimizer step `step`."""
        if not ranks.is_main():
            return
        numbers = {key: number for key, value in metrics.items() if (number := as_number(value)) is not None}
        _append(self.metrics_file, [{"step": step, **numbers}])
        self._tell({_wandb_key(key): value for key, value in numbers.items()} | {"train/step": step})

    def log_samples(self, step: int, samples: list[dict[str, Any]]) -> None:
        """Append what the policy answers at optimizer step `step`, one line a prompt; a table in W&B."""
        if not ranks.is_main() or not samples:
            return
        rows = [{"step": step, **sample} for sample in samples]
        _append(self.samples_file, rows)
        self.log_table("samples", list(rows[0]), [list(row.values()) for row in rows], step=step)

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]], *, step: int | None = None) -> None:
        """Show a table, such as completions, in W&B."""
        if self._wandb is not None:
            import wandb

            at = {} if step is None else {"train/step": step}
            self._tell({name: wandb.Table(columns=columns, data=rows), **at})
        elif ranks.is_main():
            self._told += 1

    def finish(self, summary: dict[str, Any] | None = None, *, failed: bool = False) -> None:
        """End the W&B run, with the final metrics and the artifact's ref in its summary."""
        if self._wandb is not None:
            self._wandb.summary.update(summary or {})
            is_offline = self._wandb.offline
            self._wandb.finish(exit_code=int(failed))
            self._wandb = None
            if is_offline:
                kept = self.metrics_file.parent.absolute() / "wandb"
                print(f"W&B run kept offline in {kept}; upload it: {sync_command(kept)}", flush=True)

    def mark(self) -> dict[str, int]:
        """How far the record goes, for a checkpoint; what is before the mark survives a power cut."""
        if not ranks.is_main():
            return {}
        for file in self.files():
            if file.exists():
                sync_file(file)
        return {"told": self._told} | {file.name: _size(file) for file in self.files()}

    def rewind(self, mark: dict[str, int]) -> None:
        """Forget what came after a mark: a resumed run takes those steps again. An empty mark is the beginning.

        Raises:
            UserError: a file is shorter than it was at the mark: lines are lost.
        """
        if not ranks.is_main():
            return
        self._told = mark.get("told", 0)
        for file in self.files():
            size = mark.get(file.name, 0)
            if _size(file) < size:
                raise UserError(
                    f"{file} has {_size(file)} bytes, and had {size} when the last checkpoint was written: lines of "
                    f"this run's record are lost. To start it from the beginning, delete {file.parent / 'checkpoints'}"
                )
            if file.exists():
                os.truncate(file, size)

    def files(self) -> list[Path]:
        """The files that a run's record consists of."""
        return [self.metrics_file, self.samples_file]

    def _tell(self, values: dict[str, Any]) -> None:
        """Log to W&B under the call's number: what it has from the run's life before, it ignores."""
        if self._wandb is not None:
            self._wandb.log(values, step=self._told)
        self._told += 1


def sync_command(wandb_folder: Path) -> str:
    """The command that uploads what W&B keeps offline of a run: one folder for each time the run was started."""
    return f"wandb sync {shlex.quote(str(wandb_folder))}/offline-run-*"


def check_wandb(mode: str) -> None:
    """W&B is installed and, online, has an API key; whether its server answers is seen when the run starts.

    Raises:
        UserError: it is not, it has not.
    """
    if mode == "disabled":
        return
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"tracking.wandb={mode} needs the wandb package ({error}); pip install wandb, or use tracking=none"
        ) from error
    if mode != "online":
        return
    without = "or use tracking=wandb_offline or tracking=none"
    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.errors.Error as error:
        raise UserError(f"W&B does not take the API key ({_first_line(error)}); correct it, {without}") from error
    if not known:
        raise UserError(f"tracking=wandb needs an API key; set WANDB_API_KEY or run `wandb login`, {without}")


def as_number(value: Any) -> int | float | None:
    """A metric as a number, None if it is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _append(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(json_numbers(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _wandb_key(key: str) -> str:
    """Transformers' convention for W&B: `train/loss`, `eval/loss`."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _start_wandb(*, mode: str, **options: Any):
    """A W&B run; an offline one where the server cannot be reached, which is said."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    settings = {
        "console": "off",
        "disable_git": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_disable_meta": True,
        "finish_timeout": FINISH_TIMEOUT,
    }
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings["init_timeout"] = INIT_TIMEOUT
    options |= {"settings": wandb.Settings(**settings)}
    if mode == "online":
        try:
            return _with_axis(wandb.init(mode="online", resume="allow", **options))
        except wandb.errors.CommError as error:
            print(
                f"W&B cannot be reached ({_first_line(error)}); this run is kept offline, and how to upload it is "
                "said at its end",
                file=sys.stderr,
                flush=True,
            )
            wandb.teardown()  # its service holds the run's id in use
    return _with_axis(wandb.init(mode="offline", **options))


def _with_axis(run):
    """The run with optimizer steps as the x axis of every curve."""
    run.define_metric("train/step")
    run.define_metric("*", step_metric="train/step")
    return run

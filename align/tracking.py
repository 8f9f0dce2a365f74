"""What a run tells the world while it trains: `metrics.jsonl` always, Weights & Biases when asked, a line of progress.

One process writes. Metric names are TRL's. A resumed run goes on in the same W&B run and the same file.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align import distributed
from align.clock import clock
from align.errors import UserError


class Tracker:
    """The main process's record of one run; on every other process each method does nothing.

    Args:
        folder: `metrics.jsonl` and W&B's local files are written here.
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
        self.path = folder / "metrics.jsonl"
        self._wandb = None
        if not distributed.is_main():
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

    @property
    def wandb_run(self) -> dict[str, Any] | None:
        """What the manifest records of the W&B run: entity, project, id, url."""
        if self._wandb is None:
            return None
        run = self._wandb
        return {"entity": run.entity or None, "project": run.project, "id": run.id, "url": run.url}

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line of numbers at optimizer step `step`."""
        if not distributed.is_main():
            return
        numbers = {key: number for key, value in metrics.items() if (number := as_number(value)) is not None}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **numbers}) + "\n")
        if self._wandb is not None:
            self._wandb.log({_wandb_key(key): value for key, value in numbers.items()} | {"train/step": step})

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Show a table, such as sample completions, in W&B."""
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Table(columns=columns, data=rows)})

    def finish(self, summary: dict[str, Any] | None = None) -> None:
        """End the W&B run with the final metrics and the artifacts' refs in its summary."""
        if self._wandb is not None:
            self._wandb.summary.update(summary or {})
            self._wandb.finish()
            self._wandb = None

    def truncate(self, step: int) -> None:
        """Forget lines after `step`: a resumed run takes those steps again."""
        if not distributed.is_main() or not self.path.exists():
            return
        lines = [line for line in self.path.read_text("utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.path.write_text("".join(line + "\n" for line in kept), "utf-8")


def as_number(value: Any) -> int | float | None:
    """A metric as a number, None if it is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _wandb_key(key: str) -> str:
    """Transformers' convention for W&B: `train/loss`, `eval/loss`."""
    return f"eval/{key[len('eval_') :]}" if key.startswith("eval_") else f"train/{key}"


def _start_wandb(*, mode: str, **options: Any):
    """A W&B run; offline, with a word on how to sync it, where the server cannot be reached.

    Raises:
        UserError: online asked for, and no API key to be found.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    if mode == "online" and wandb.api.api_key is None:
        raise UserError("tracking=wandb needs WANDB_API_KEY or `wandb login`; without one use tracking=wandb_offline")
    settings = wandb.Settings(init_timeout=60, console="off", disable_git=True, x_disable_meta=True)
    options["resume"] = "allow"
    try:
        return wandb.init(mode=mode, settings=settings, **options)
    except wandb.errors.CommError as error:
        print(
            f"W&B cannot be reached ({error}); this run is kept offline under {options['dir']}/wandb: "
            "upload it later with `wandb sync`",
            file=sys.stderr,
        )
        return wandb.init(mode="offline", settings=settings, **options)


class TrackingCallback(TrainerCallback):
    """Hands the trainer's logs to a `Tracker` and prints progress with an estimate of the time left.

    Args:
        tracker: where numbers go.
        label: the word in front of each progress line.
        every: seconds between progress lines where the output is not a terminal.
    """

    def __init__(self, tracker: Tracker, label: str, every: float = 10.0):
        self.tracker = tracker
        self.label = label
        self.every = every
        self._started = self._printed = 0.0
        self._first_step = 0
        self._shown: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        self.tracker.truncate(state.global_step)
        self._started = time.monotonic()
        self._first_step = state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **kwargs
    ):
        logs = dict(logs or {})
        logs.pop("total_flos", None)
        self.tracker.log(state.global_step, logs)
        self._shown.update(
            (name, as_number(logs[key]))
            for key, name in (
                ("loss", "loss"),
                ("accuracy", "accuracy"),
                ("rewards/accuracies", "accuracy"),
                ("rewards/margins", "margin"),
                ("kl", "kl"),
            )
            if key in logs
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if not distributed.is_main() or (now - self._printed < self.every and not last):
            return
        self._printed = now
        done = state.global_step - self._first_step
        rate = done / max(now - self._started, 1e-9)
        left = (state.max_steps - state.global_step) / max(rate, 1e-9)
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in self._shown.items())
        share = state.global_step / max(state.max_steps, 1)
        print(
            f"{self.label:<9} step {state.global_step}/{state.max_steps} ({share:.0%})  {numbers}  "
            f"{rate:.1f} steps/s  {clock(left)} left",
            flush=True,
        )

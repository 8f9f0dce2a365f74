"""A trainer's callback that hands its logs to the tracker and prints a line of progress now and then."""

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.artifacts.text import clock
from align.distributed import ranks
from align.training.tracking import Tracker, as_number


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
        if not state.global_step:
            self.tracker.rewind({})
        if state.global_step and ranks.is_main():
            total = f"/{state.max_steps}" if state.global_step < state.max_steps else ", its last"
            print(f"{self.label:<9} continues after step {state.global_step}{total}", flush=True)
        self._started = time.monotonic()
        self._first_step = state.global_step

    def running_state(self) -> dict[str, int]:
        """How far the tracker's files go, for a checkpoint."""
        return self.tracker.mark()

    def running_files(self) -> list[Path]:
        """The tracker's files, which a checkpoint keeps copies of."""
        return self.tracker.files()

    def load_running_state(self, state: dict[str, int]) -> None:
        """Forget what was tracked after the checkpoint."""
        self.tracker.rewind(state)

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
                ("objective/scores", "score"),
                ("objective/kl", "kl"),
                ("kl", "kl"),
            )
            if key in logs
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        self.tracker.progress(state.global_step, state.max_steps)
        now = time.monotonic()
        last = state.global_step >= state.max_steps
        if not ranks.is_main() or (now - self._printed < self.every and not last):
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

"""Saving and stopping wait until the update on a rollout is through."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class RolloutBoundary(TrainerCallback):
    """Puts off what other callbacks ask for: within an update there is no state to go on from.

    Must be the last callback, so that it sees what all others ask for.
    """

    def __init__(self, steps_per_rollout: int):
        self.steps_per_rollout = steps_per_rollout
        self._save = self._stop = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        self._save, self._stop = self._save or control.should_save, self._stop or control.should_training_stop
        through = state.global_step % self.steps_per_rollout == 0 or state.global_step >= state.max_steps
        control.should_save, control.should_training_stop = self._save and through, self._stop and through
        if through:
            self._save = self._stop = False
        return control

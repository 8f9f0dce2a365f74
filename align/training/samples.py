"""Sample completions of a policy in training: the same held-out prompts answered every so often, and at the end.

Sampling is greedy and draws no random number, so training goes on as if nobody had asked.
"""

import hashlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.models.utils import unwrap_model_for_generation

from align.config.schema import DataConfig, TrackingConfig
from align.data.loading.examples import Examples, held_out, offers, shuffled
from align.data.tokens.chat_template import Text, render_prompt, text_of
from align.models.generation import generate, without_checkpointing
from align.training.tracking import Tracker

if TYPE_CHECKING:
    from transformers import Trainer

BATCH_SIZE = 32  # prompts a forward, per rank


class SampleCallback(TrainerCallback):
    """Answers `prompts` every `every` optimizer steps and after the last, and hands the answers to the tracker.

    All ranks enter: under ZeRO-3 the weights are gathered for it.

    Args:
        trainer: whose policy answers; it must have been constructed.
        max_new_tokens: tokens a completion.
        every: optimizer steps between two samplings; 0 is the end alone.
    """

    def __init__(self, trainer: "Trainer", tracker: Tracker, prompts: list[Text], *, max_new_tokens: int, every: int):
        self.trainer = trainer
        self.tracker = tracker
        self.prompts = prompts
        self.max_new_tokens = max_new_tokens
        self.every = every
        self._last = -1

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        if self.every and state.global_step and state.global_step % self.every == 0:
            self._last = state.global_step  # sampled before the checkpoint from which the run goes on

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        if self.every and state.global_step % self.every == 0:
            self.sample(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        if self._last != state.global_step:
            self.sample(state.global_step)

    def sample(self, step: int) -> None:
        """Answer the prompts with the weights as they are now."""
        self._last = step
        trainer = self.trainer
        was_training = trainer.model.training
        with (
            torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []),
            without_checkpointing(trainer.model),
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as policy,
        ):
            policy.eval()
            completions = generate(
                policy,
                trainer.processing_class,
                self.prompts,
                max_new_tokens=self.max_new_tokens,
                temperature=0.0,
                batch_size=BATCH_SIZE,
            )
            policy.train(was_training)
        self.tracker.log_samples(
            step,
            [
                {"prompt": text_of(prompt), "completion": completion.text, "ended": completion.ended}
                for prompt, completion in zip(self.prompts, completions, strict=True)
            ],
        )


class RolloutSamples(TrainerCallback):
    """Hands some of what an online trainer generated, with rewards, score and KL, to the tracker.

    Args:
        trainer: one of TRL's online trainers, or PPO; its completion log holds the latest rollout.
        tracking: `sample_prompts` rows every `sample_every` optimizer steps (at the next log), and at the end.
    """

    def __init__(self, trainer: "Trainer", tracker: Tracker, tracking: TrackingConfig):
        self.trainer = trainer
        self.tracker = tracker
        self.tracking = tracking
        self._last = 0

    def running_state(self) -> dict[str, int]:
        """For a checkpoint: when rows were shown last."""
        return {"last": self._last}

    def load_running_state(self, state: dict[str, int]) -> None:
        """Go on after those."""
        self._last = state["last"]

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        every = self.tracking.sample_every
        if every and state.global_step - self._last >= every:
            self.show(state.global_step)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        if self._last != state.global_step:
            self.show(state.global_step)

    def show(self, step: int) -> None:
        """Log the first rows of the latest rollout."""
        self._last = step
        logs = self.trainer._logs
        columns = {"advantage": logs["advantages"], **logs["rewards"], **logs["extra"]}
        rows = zip(logs["prompt"], logs["completion"], *columns.values(), strict=True)
        shown = [
            {
                "prompt": text_of(prompt),
                "completion": text_of(completion),
                **dict(zip(columns, numbers, strict=True)),
            }
            for prompt, completion, *numbers in itertools.islice(rows, self.tracking.sample_prompts)
        ]
        self.tracker.log_samples(step, shown)


def add_samples(
    trainer: "Trainer",
    tracker: Tracker,
    tracking: TrackingConfig,
    data: DataConfig,
    examples: Examples,
) -> None:
    """Let `trainer` sample completions as `tracking` asks.

    Prompts are those of `data.prompt_only`, held out, where the config names such data, else those of the stage's own
    held-out rows; which ones is the same in every run. Where neither is, or none leaves room for an answer in the
    model's context, nothing is sampled.
    """
    prompts = pick_prompts(data, examples, limit=tracking.sample_prompts)
    room = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None)
    if room is not None:
        lengths = [len(render_prompt(trainer.processing_class, prompt)) for prompt in prompts]
        prompts = [
            prompt for prompt, length in zip(prompts, lengths, strict=True) if length + tracking.sample_tokens <= room
        ]
    if prompts:
        trainer.add_callback(
            SampleCallback(
                trainer,
                tracker,
                prompts,
                max_new_tokens=tracking.sample_tokens,
                every=tracking.sample_every,
            )
        )


def pick_prompts(data: DataConfig, examples: Examples, *, limit: int) -> list[Text]:
    """At most `limit` different held-out prompts."""
    if limit <= 0:
        return []
    rows: Sequence[dict[str, Any]] = held_out(data, None, "prompt_only") if offers(data, None, "prompt_only") else []
    rows = rows or examples.eval or []
    places: dict[bytes, int] = {}  # of each different prompt; the prompts themselves may be many
    for place, row in enumerate(rows):
        if not row.get("tools"):  # an answer without them would show nothing of the model
            places[hashlib.blake2b(text_of(row["prompt"]).encode(), digest_size=16).digest()] = place
    return [rows[place]["prompt"] for place in shuffled(list(places.values()), seed=0, limit=limit)]

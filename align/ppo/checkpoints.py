"""What of PPO outlives a process: checkpoints of a run, the last weights within the KL budget, saved models."""

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, is_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from align.errors import UserError
from align.models.shared_base import POLICY_ADAPTER, save_value_adapter
from align.ppo.rollout_maker import RolloutTrainer
from align.training.resumable import Resumable

WEIGHTS_FILE = "trainable.safetensors"


class CheckpointTrainer(Resumable, RolloutTrainer):
    """The part of PPO's trainer that saves and loads; `PPOTrainer` has the state that these methods keep."""

    def _keep_last_good(self, kl: float) -> bool:
        """Remember weights whose rollout is within the KL budget; beyond it, go back to the last such, and stop.

        Returns:
            False if training stops.
        """
        if self.args.kl_budget is None:
            return True
        rank = self.accelerator.process_index
        if kl <= self.args.kl_budget:
            kept = [(name, weight) for name, weight, owner in self._kept() if owner in (None, rank)]
            self._last_good = {name: weight.cpu().clone() for name, weight in kept}
            return True
        if self._last_good is None:
            raise UserError(
                f"the policy's KL to its reference is {kl:.3g} before the first update, above kl_budget "
                f"{self.args.kl_budget:g}: name the reference it was trained from, or raise the budget"
            )
        for name, weight, owner in self._kept():
            if owner in (None, rank):
                weight.copy_(self._last_good[name])
            if owner is not None:
                broadcast(weight, from_process=owner)
        self.stopped_at_kl = kl
        self.control.should_training_stop = True
        if self.accelerator.is_main_process:
            print(
                f"stopped after {self.state.global_step} steps: a rollout's KL was {kl:.3g} nats a completion, above "
                f"kl_budget {self.args.kl_budget:g}; the policy is as it was one rollout before",
                flush=True,
            )
        return False

    def _kept(self) -> list[tuple[str, Tensor, int | None]]:
        """Name, weight and the rank that keeps it; None where each rank keeps its own piece (ZeRO-3)."""
        pieces = is_deepspeed_zero3_enabled()
        return [
            (name, one.ds_tensor.data if pieces else one.data, None if pieces else number % self.args.world_size)
            for number, (name, one) in enumerate(self._trainable())
        ]

    def _trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, one) for name, one in self.model.named_parameters() if one.requires_grad]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the policy as a plain model that any tool loads."""
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call:
            folder.mkdir(parents=True, exist_ok=True)
            if not self.is_deepspeed_enabled and self.args.should_save:  # DeepSpeed writes its own
                save_file({name: one.detach().contiguous() for name, one in self._trainable()}, folder / WEIGHTS_FILE)
            return
        options = {"selected_adapters": [POLICY_ADAPTER]} if is_peft_model(self.policy) else {}
        state = self._weights_of("policy")
        if self.args.should_save:
            self.policy.save_pretrained(folder, state_dict=state, **options)
            self.processing_class.save_pretrained(folder)

    def save_value_model(self, output_dir: str | Path) -> bool:
        """Save the value model, a sequence classifier with one label; False if the value is read from the policy."""
        if self.args.share_backbone:
            return False
        state = self._weights_of("policy" if self.model.value_model is None else "value_model")
        with self._dist.gather_params([] if self.model.value_head is None else [self.model.value_head.weight]):
            if self.args.should_save and self.model.value_model is None:
                save_value_adapter(self.policy, self.model.value_head, Path(output_dir), state)
            elif self.args.should_save:
                self.model.value_model.save_pretrained(output_dir, state_dict=state)
        if self.args.should_save:
            self.processing_class.save_pretrained(output_dir)
        return True

    def _weights_of(self, part: str) -> dict[str, Tensor] | None:
        """Under ZeRO-3 a part's whole weights, on the main process; None where they are whole already."""
        if not is_deepspeed_zero3_enabled():
            return None
        state = self.accelerator.get_state_dict(self.model_wrapped) or {}
        return {name.removeprefix(f"{part}."): one for name, one in state.items() if name.startswith(f"{part}.")}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS_FILE)
        with torch.no_grad():
            for name, one in self._trainable():
                one.copy_(saved[name])

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._report_update()
        super()._save_checkpoint(model, trial)

    def running_state(self) -> dict[str, Any]:
        """What `Resumable` keeps beside all that TRL's trainers count."""
        return {
            "kl_controller": self.kl_controller.state_dict(),
            "score_moments": self.score_moments.state_dict(),
            "last_good": self._last_good,
        }

    def load_running_state(self, state: dict[str, Any]) -> None:
        self.kl_controller.load_state_dict(state["kl_controller"])
        self.score_moments.load_state_dict(state["score_moments"])
        self._last_good = state["last_good"]

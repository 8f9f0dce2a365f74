"""A trainer that can be killed: what its checkpoints hold beside weights and optimizer, and when they are written.

`training.build_trainer` mixes `Resumable` into any subclass of transformers' Trainer that is not one by itself. A
trainer, or a callback, with state of its own joins in by two methods:

    running_state() -> dict             tensors, numbers, strings, and lists, tuples and dicts of them
    load_running_state(state) -> None   the same, when training resumes
    running_files() -> list[Path]       files it appends to, of which a checkpoint keeps a copy; optional

Each rank keeps its own state, the main one the files. A trainer that may not be broken off after every step (an online
one between two rollouts) says so by a method `may_checkpoint() -> bool`, asked after each step and answered alike on
all ranks; what is due then is written as soon as it says yes.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from align.artifacts import checkpoints
from align.artifacts.disk import clone_file, write_durably
from align.distributed import preemption, ranks
from align.distributed.preemption import Stopped
from align.errors import UserError

RUNNING_STATE = "running_state_{rank}.pt"
# What a TRL 1.16 trainer counts and averages between two logs, and restarts at a resume.
_TRL_OPEN = ("_metrics", "_total_train_tokens", "_pending_metrics", "_logs", "_step")
# transformers' own: the loss since the last log and in all, the step of that log, and where the mean begins.
_LOSS = ("_tr_loss", "_total_loss_scalar", "_globalstep_last_logged", "_initial_global_step")


class Resumable(Trainer):
    """Mixed in front of a trainer class: whole checkpoints or none, and all that is counted travels in them.

    Attributes:
        checkpoints_gb: 10^9 bytes that the checkpoints may take; None is no limit.
    """

    checkpoints_gb: float | None = None
    resumed_from: Path | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any):
        """As transformers' `Trainer.train`; `resume_from_checkpoint=True` goes on from the last whole checkpoint.

        Raises:
            UserError: there is none.
        """
        if resume_from_checkpoint is True:
            best = self.args.load_best_model_at_end
            resume_from_checkpoint = last_checkpoint(Path(self.args.output_dir), also_best=best)
            if resume_from_checkpoint is None:
                raise UserError(f"{self.args.output_dir} has no whole checkpoint to resume from: train from the start")
        if not self.can_checkpoint and ranks.is_main():
            print(
                "no checkpoints: DeepSpeed does not load again all that it swaps to NVMe. If this run is stopped it "
                "starts again; deepspeed=zero3_offload keeps checkpoints",
                flush=True,
            )
        if not self.can_checkpoint and self.args.load_best_model_at_end:
            raise UserError(
                "trainer.load_best_model_at_end needs checkpoints, and under NVMe offload there are none; set it to "
                "false, or deepspeed=zero3_offload"
            )
        self.resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        callback = RunCallback(self)
        self.add_callback(callback)  # the last, so that it sees what all others ask for
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **options)
        finally:
            self.remove_callback(callback)

    def _get_train_sampler(self, *args: Any, **options: Any) -> Any:
        """As TRL's online trainers have it, but a resumed epoch keeps its own order of prompts."""
        sampler = super()._get_train_sampler(*args, **options)
        if getattr(sampler, "mini_repeat_count", None) is None or not sampler.shuffle:
            return sampler
        return EpochSampler(sampler, lambda: int((self.state.epoch or 0) + 1e-6))

    @property
    def can_checkpoint(self) -> bool:
        """False where DeepSpeed swaps to NVMe.

        What it loads is not what it saved (0.19.8): swapped moments come back, and weights and moments of less than
        its block of 1 MiB, which it keeps in memory, do not.
        """
        config = getattr(self.args, "hf_deepspeed_config", None)
        kinds = ("offload_optimizer", "offload_param")
        return config is None or all(config.get_value(f"zero_optimization.{one}.device") != "nvme" for one in kinds)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir)
        self._check_disk(folder)
        staging = ranks.share(str(checkpoints.stage(folder)) if ranks.is_main() else None)
        step = self.state.global_step
        written = Path(staging) / checkpoints.name_of(step)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.args.output_dir = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir, self.args.save_total_limit = str(folder), limit
        torch.save(self._running_states(), written / RUNNING_STATE.format(rank=ranks.rank()))
        if self.state.best_model_checkpoint == str(written):
            self.state.best_model_checkpoint = str(folder / written.name)
        if ranks.is_main():
            self.state.save_to_json(str(written / "trainer_state.json"))
            for file in _running_files(self._stateful().values()):
                if file.exists():
                    clone_file(file, _kept_in(written, file))
        ranks.barrier()
        if ranks.is_first_of_host():
            checkpoints.sync(written)
        ranks.barrier()
        if ranks.is_main():
            checkpoints.commit(Path(staging), step, {})
            best = self.state.best_model_checkpoint
            checkpoints.keep_budget(folder, limit=limit, max_gb=self.checkpoints_gb, best=best and Path(best))
        ranks.barrier()

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        if trouble := ranks.share(checkpoints.problem(best) if ranks.is_main() else None):
            raise UserError(
                f"the best checkpoint {best} is damaged ({trouble}): nothing was published. Give the same command "
                "again: it resumes from a checkpoint before that one, or starts from the beginning"
            )
        super()._load_best_model()

    def _check_disk(self, folder: Path) -> None:
        """Every rank raises the same UserError where the disk has no room for one more checkpoint."""
        refusal = None
        need = 0
        whole = checkpoints.all_whole(folder) if ranks.is_main() else {}
        if ranks.is_main() and not whole:
            need = first_size(self.model)
        if ranks.is_main():
            try:
                checkpoints.check_room(folder, need or checkpoints.size_of(list(whole.values())[-1]))
            except UserError as error:
                refusal = str(error)
        refusal = ranks.share(refusal)
        if refusal:
            raise UserError(refusal)

    def _stateful(self) -> dict[str, Any]:
        """Name -> the trainer and its callbacks that have state of their own."""
        parts = {"trainer": self} | {type(one).__name__: one for one in self.callback_handler.callbacks}
        return {name: part for name, part in parts.items() if hasattr(part, "running_state")}

    def _running_states(self) -> dict[str, Any]:
        counted = {name: getattr(self, name) for name in (*_LOSS, *_TRL_OPEN) if hasattr(self, name)}
        states = {"counted": _plain(counted), "training": self.model.training}
        if getattr(self.args, "sync_ref_model", False):
            states["ref_model"] = _own_weights(self.ref_model)
        return states | {name: part.running_state() for name, part in self._stateful().items()}

    def _load_running_states(self, checkpoint: Path) -> None:
        file = checkpoint / RUNNING_STATE.format(rank=ranks.rank())
        states = torch.load(file, map_location="cpu", weights_only=True)
        for name, value in states["counted"].items():
            now = getattr(self, name)
            if isinstance(now, torch.Tensor):
                value = value.to(now.device)
            elif isinstance(now, dict):
                value = _refill(now, value)
            setattr(self, name, value)
        if "ref_model" in states:
            for name, weight in _own_tensors(self.ref_model):
                weight.copy_(states["ref_model"][name])
        for file in _running_files(self._stateful().values()) if ranks.is_main() else ():
            if (kept := _kept_in(checkpoint, file)).is_file():
                write_durably(file, kept.read_bytes())  # whatever has become of it since
        for name, part in self._stateful().items():
            part.load_running_state(states[name])
        self.model_wrapped.train(states["training"])  # TRL's next log asks which averages are open
        replay_beta_products(self.optimizer)


class EpochSampler(torch.utils.data.Sampler):
    """TRL's `RepeatSampler`, whose order depends on the epoch alone.

    The sampler draws one permutation after the other from a generator that it seeds once, so that after a resume it
    would begin again with that of the first epoch.

    Args:
        sampler: TRL's.
        epoch: gives the number of whole epochs behind the trainer.
    """

    def __init__(self, sampler: Any, epoch: Callable[[], int]):
        self.sampler, self.epoch = sampler, epoch

    def __iter__(self) -> Iterator[int]:
        generator = self.sampler.generator.manual_seed(self.sampler.seed)
        for _ in range(self.epoch()):
            torch.randperm(self.sampler.num_samples, generator=generator)
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class RunCallback(TrainerCallback):
    """When checkpoints are written: by the trainer's cadence, and when the run is asked to stop.

    A checkpoint due at the end of an epoch, or of training, is written when what else belongs there (an evaluation, a
    log) is done, because transformers does not do it again at a resume.
    """

    def __init__(self, trainer: Resumable):
        self.trainer = trainer
        self._due = self._stopping = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        if self.trainer.resumed_from is not None:
            self.trainer._load_running_states(self.trainer.resumed_from)
            if state.best_model_checkpoint:  # the store may have been moved
                best = self.trainer.resumed_from.with_name(Path(state.best_model_checkpoint).name)
                state.best_model_checkpoint = str(best)
            args.eval_on_start = False  # the run has started before
            if not args.num_train_epochs:  # no step is left, before which transformers would do it
                self.trainer._load_rng_state(str(self.trainer.resumed_from))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        self._stopping = ranks.any_rank(preemption.asked())
        if self._stopping and not self.trainer.can_checkpoint:
            raise Stopped(state.global_step)
        self._due |= control.should_save or self._stopping
        ends = control.should_training_stop or float(state.epoch).is_integer()
        control.should_save = self._due and not ends and self._may()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        self._due |= control.should_save
        ended = state.global_step >= state.max_steps and self.trainer.can_checkpoint
        control.should_save = self._due and (ended or self._may())

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        self._due = False
        if self._stopping:
            raise Stopped(state.global_step)

    def _may(self) -> bool:
        if not self.trainer.can_checkpoint:
            return False
        if hasattr(self.trainer, "may_checkpoint"):
            return self.trainer.may_checkpoint()
        # TRL's online trainers throw a half-used rollout away at a resume; after a whole one they make the next.
        rollout = getattr(self.trainer.args, "steps_per_generation", None)
        return rollout is None or self.trainer._step % (rollout * self.trainer.num_iterations) == 0


def last_checkpoint(folder: Path, *, also_best: bool = False) -> str | None:
    """The last checkpoint that is what was written, the same on every rank; damaged ones are put aside, with a word.

    Args:
        also_best: the best checkpoint is loaded at the end, so it must be sound too.

    Raises:
        UserError: others may write in the run's folder.
    """
    found, refusal = None, None
    if ranks.is_main():
        try:
            found = checkpoints.last_whole(folder, also_best=also_best, say=partial(print, flush=True))
        except UserError as error:
            refusal = str(error)
    found, refusal = ranks.share((found and str(found), refusal))
    if refusal:
        raise UserError(refusal)
    return found


def replay_beta_products(optimizer: Any) -> None:
    """Bring DeepSpeed's CPUAdam to the bias correction that it would have had without a resume.

    It multiplies its running products of beta1 and beta2 once a step, and takes a power instead where the step jumps
    (DeepSpeed 0.19, cpu_adam.h: IncrementStep), which differs by roundings. Here it steps there on a dummy weight.
    """
    for adam in _cpu_adams(optimizer):
        steps = max((int(state["step"]) for state in adam.state.values() if "step" in state), default=0)
        group = adam.param_groups[0]
        options = [group[name] for name in ("lr", "betas", "eps", "weight_decay", "bias_correction")]
        lr, (beta1, beta2), *rest = options
        dummies = [torch.zeros(1) for _ in range(4)]
        for step in range(1, steps + 1):
            adam.ds_opt_adam.adam_update(adam.opt_id, step, lr, beta1, beta2, *rest, *dummies)


def first_size(model: torch.nn.Module) -> int:
    """Bytes that a first checkpoint may take: the weights, and two moments (and under DeepSpeed a copy) in fp32."""
    numbers = [(getattr(one, "ds_numel", one.numel()), one) for one in model.parameters()]
    return sum(count * (one.element_size() + (12 if one.requires_grad else 0)) for count, one in numbers)


def _running_files(parts: Iterable[Any]) -> list[Path]:
    """The files that the trainer's parts append to."""
    return [file for part in parts if hasattr(part, "running_files") for file in part.running_files()]


def _kept_in(checkpoint: Path, file: Path) -> Path:
    """Where a checkpoint keeps its copy of a file that a part of the trainer appends to."""
    return checkpoint / f"running_{file.name}"


def _cpu_adams(optimizer: Any) -> list[Any]:
    """The CPUAdam under the wrappers of accelerate and ZeRO, if there is one."""
    seen = []
    while optimizer is not None and not any(optimizer is one for one in seen):
        seen.append(optimizer)
        if hasattr(optimizer, "ds_opt_adam"):
            return [optimizer]
        optimizer = getattr(optimizer, "optimizer", None)
    return []


def _plain(value: Any) -> Any:
    """A copy without defaultdicts and the like, which `torch.load(weights_only=True)` does not know."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_plain(one) for one in value]
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _refill(now: dict, values: dict) -> dict:
    """`now`, of whatever kind of dict it is and whatever kind of sequences it holds, with the saved values."""
    for key, value in values.items():
        if isinstance(value, dict):
            now[key] = _refill(now.get(key, {}), value)
        elif isinstance(now, defaultdict) or isinstance(now.get(key), deque):
            now[key].clear()
            now[key].extend(value)
        else:
            now[key] = value
    return now


def _own_tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """What this rank holds of a model's weights: its partition under ZeRO-3."""
    return [(name, getattr(weight, "ds_tensor", weight).data) for name, weight in model.named_parameters()]


def _own_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().cpu().clone() for name, weight in _own_tensors(model)}

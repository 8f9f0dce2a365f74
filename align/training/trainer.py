"""A stage's training: the arguments, and the loop that resumes and evaluates.

`trainer:` in a stage's YAML is, key for key, TRL's config class; here the run adds the few fields it owns: where to
write, precision, DeepSpeed, device and reporting.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from align.data.tokens import cache
from align.distributed import preemption, ranks
from align.distributed.preemption import Stopped
from align.errors import UserError
from align.models.adapters import settle_quantized
from align.training.resumable import Resumable, last_checkpoint

if TYPE_CHECKING:
    from transformers import Trainer

TRAINER_STATE = "trainer_state.json"

Arguments = TypeVar("Arguments")
Trained = TypeVar("Trained", bound="Trainer")


def build_arguments(
    config_class: type[Arguments],
    trainer: dict[str, Any],
    *,
    output_dir: Path,
    precision: str,
    deepspeed: dict[str, Any] | None,
) -> Arguments:
    """TRL's arguments for one stage.

    Built before any model is loaded: with ZeRO-3 this is what makes `from_pretrained` partition weights as it reads.

    Args:
        config_class: `SFTConfig`, `RewardConfig`, `DPOConfig`, `KTOConfig`.
        trainer: the stage's `trainer:` block.
        output_dir: checkpoints go here.
        precision: `auto` (bf16 where the device has it, else fp32), `fp32`, `bf16` or `fp16`.
        deepspeed: the DeepSpeed JSON with "auto" values, or None.

    Raises:
        UserError: values that TRL or transformers refuse together.
    """
    import torch

    on_cpu = not torch.cuda.is_available()
    chosen = resolve_precision(precision)
    if deepspeed is not None:
        deepspeed = copy.deepcopy(deepspeed)
        zero = deepspeed.setdefault("zero_optimization", {})
        if zero.get("stage") == 3:
            # Without it a ZeRO-3 run has no weights to publish, only partitions.
            zero["stage3_gather_16bit_weights_on_model_save"] = True
    try:
        return config_class(
            **trainer,
            output_dir=str(output_dir),
            deepspeed=deepspeed,
            report_to=[],
            bf16=chosen == "bf16",
            fp16=chosen == "fp16",
            use_cpu=on_cpu,
            ddp_backend="gloo" if on_cpu and ranks.is_launched() else None,
            disable_tqdm=True,
        )
    except (ValueError, ImportError) as error:
        raise UserError(
            f"{config_class.__name__} refuses the trainer block: {' '.join(str(error).split())}"
        ) from error


def build_trainer(trainer_class: "type[Trained]", **arguments: Any) -> "Trained":
    """A TRL trainer that survives being killed (align.training.resumable says how one with state of its own joins in).

    What it will not do with the arguments, the model or the data at hand is told in a sentence.

    Raises:
        UserError: TRL refuses, for instance settings that exclude each other.
    """
    resumable = trainer_class
    if not issubclass(trainer_class, Resumable):
        resumable = type(trainer_class.__name__, (Resumable, trainer_class), {"__module__": trainer_class.__module__})
    try:
        trainer = resumable(**arguments)
    except (ValueError, ImportError) as error:
        raise UserError(f"{trainer_class.__name__} refuses this run: {' '.join(str(error).split())}") from error
    settle_quantized(trainer.model, bf16=trainer.args.bf16)
    cache.keep()  # TRL has tokenised its tables
    return trainer


def resolve_precision(precision: str) -> str:
    """`precision` with `auto` resolved for the device at hand.

    Raises:
        UserError: 16-bit arithmetic on a device that lacks it.
    """
    import torch

    cuda = torch.cuda.is_available()
    bf16 = cuda and torch.cuda.is_bf16_supported()
    if precision == "auto":
        return "bf16" if bf16 else "fp32"
    if precision == "bf16" and cuda and not bf16:
        raise UserError("precision=bf16 needs a GPU of the Ampere generation or newer; use precision=fp16 or fp32")
    if precision == "fp16" and not cuda:
        raise UserError("precision=fp16 needs a GPU; use precision=auto")
    return precision


def resolve_dtype(dtype: str, precision: str, *, frozen: bool) -> str:
    """The type that weights are loaded in, torch's name.

    `auto` keeps what is trained in full in fp32, so that small updates are not rounded away (mixed precision casts at
    the matmuls), and what is only read in the type it is computed in.
    """
    if dtype != "auto":
        return dtype
    compute = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[resolve_precision(precision)]
    return compute if frozen else "float32"


def fit(trainer: "Trainer", *, checkpoints_gb: float | None = None) -> dict[str, float]:
    """Train from the last checkpoint of this run's own folder, or from the start; then evaluate.

    Asked to stop, it writes a checkpoint after the step at hand and raises `Stopped`.

    Args:
        trainer: what `build_trainer` gave.
        checkpoints_gb: 10^9 bytes that the run's checkpoints may take; the last stays in any case.

    Returns:
        The mean training loss and the metrics of the held-out set, where there is one, under TRL's names.
    """
    from transformers import PrinterCallback, TrainerState

    trainer.remove_callback(PrinterCallback)  # the tracker says it all
    trainer.checkpoints_gb = checkpoints_gb
    best = trainer.args.load_best_model_at_end
    checkpoint = last_checkpoint(Path(trainer.args.output_dir), also_best=best)
    if checkpoint is not None:
        reached = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE))
        if reached.global_step >= reached.max_steps:
            # transformers 5.23 asks after a step whether it was the last; what stopped between its last checkpoint and
            # publishing would take one too many
            trainer.args.max_steps, trainer.args.num_train_epochs = -1, 0
    with preemption.wait():
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
    if ranks.any_rank(preemption.asked()):
        raise Stopped
    metrics = {"train_loss": outcome.training_loss, "train_runtime": outcome.metrics["train_runtime"]}
    if trainer.eval_dataset is not None:
        metrics |= _last_evaluation(trainer) or trainer.evaluate()
    return {key: value for key, value in metrics.items() if isinstance(value, int | float)}


def _last_evaluation(trainer: "Trainer") -> dict[str, float] | None:
    """The held-out metrics of the weights as they are, if training ended with them."""
    state = trainer.state
    last = state.log_history[-2] if len(state.log_history) > 1 else {}  # before the line of the mean loss
    if trainer.args.load_best_model_at_end or last.get("step") != state.global_step or "eval_loss" not in last:
        return None
    return {key: value for key, value in last.items() if key.startswith("eval_")}

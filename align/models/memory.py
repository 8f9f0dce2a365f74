"""What a run needs of memory at the least: the weights of its networks, and what training keeps for each of them.

Activations and the buffers of generation come on top and are not counted, so a run that is refused by these numbers
could not have been loaded. No torch.

Source: Rajbhandari et al. 2020 (ZeRO, arXiv:1910.02054), section 3.1 and figure 1, for the states of Adam in mixed
precision and how the stages of ZeRO divide them.
"""

from dataclasses import dataclass
from typing import Any

from align.artifacts.bases import is_adapter, resolve_base
from align.artifacts.inputs import Input
from align.artifacts.model_files import count_weights

FOUR_BITS = 0.5  # bytes of a weight
_MOMENTS = 8  # bytes of Adam's two moments of a weight, in fp32
_MASTER = 4  # bytes of the fp32 copy that DeepSpeed keeps of a 16-bit weight


@dataclass(frozen=True)
class Network:
    """One network of a run.

    Attributes:
        role: what it is in the run, and of which input it is made: `policy sft:v2`.
        weights: how many floating-point weights it has.
        packed_bytes: of its other tensors.
        weight_bytes: of one weight as loaded.
        trained: all its weights are trained. An adapter on it is not counted.
    """

    role: str
    weights: int
    packed_bytes: int
    weight_bytes: float
    trained: bool


@dataclass(frozen=True)
class Placement:
    """How a run spreads its networks.

    Attributes:
        ranks, ranks_per_host: processes of the run, and those on one host.
        on_gpu: the networks move to a GPU for each rank once they are loaded.
        zero_stage: of DeepSpeed, 0 without it.
        half: DeepSpeed trains in 16 bits, with a copy of the weights in fp32.
        adam: the optimizer keeps two moments of each weight in fp32.
        offload_optimizer, offload_weights: where DeepSpeed keeps them: None (the device), `cpu` or `nvme`.
    """

    ranks: int = 1
    ranks_per_host: int = 1
    on_gpu: bool = False
    zero_stage: int = 0
    half: bool = False
    adam: bool = True
    offload_optimizer: str | None = None
    offload_weights: str | None = None


@dataclass(frozen=True)
class Need:
    """Bytes that a run needs at the least: on each host, and on each GPU."""

    host: int
    device: int


def network(role: str, model: Input, *, weight_bytes: float, trained: bool = False) -> Network:
    """The network that is loaded from an input, for an adapter its base.

    Raises:
        UserError: its files are not whole.
    """
    folder = resolve_base(model.path).path if is_adapter(model.path) else model.path
    weights, packed = count_weights(folder)
    return Network(f"{role} {model.ref}", weights, packed, weight_bytes, trained)


def estimate(networks: list[Network], placement: Placement) -> Need:
    """What the networks need of memory while they are loaded and while they are trained, the larger of both."""
    loaded = device = steady = 0.0
    for part in networks:
        weights, gradients, optimizer = _states(part, placement)
        if placement.zero_stage < 3:
            loaded += part.weights * part.weight_bytes + part.packed_bytes
        on_host = _offloaded(weights, placement.offload_weights if part.trained else None)
        # the gradients of an optimizer in host memory go there too
        on_host += _offloaded(gradients + optimizer, placement.offload_optimizer)
        on_device = weights if placement.offload_weights is None or not part.trained else 0.0
        on_device += gradients + optimizer if placement.offload_optimizer is None else 0.0
        if placement.on_gpu:
            device, steady = device + on_device, steady + on_host
        else:
            steady += on_device + on_host
    return Need(host=int(placement.ranks_per_host * max(loaded, steady)), device=int(device))


def _states(part: Network, placement: Placement) -> tuple[float, float, float]:
    """Bytes that one rank keeps of a network's weights, gradients and optimizer."""
    divided = {stage: placement.ranks if placement.zero_stage >= stage else 1 for stage in (1, 2, 3)}
    weight_bytes = 2 if placement.half and part.trained else part.weight_bytes
    weights = (part.weights * weight_bytes + part.packed_bytes) / divided[3]
    if not part.trained:
        return weights, 0.0, 0.0
    optimizer = part.weights * ((_MASTER if placement.half else 0) + (_MOMENTS if placement.adam else 0))
    return weights, part.weights * weight_bytes / divided[2], optimizer / divided[1]


def _offloaded(size: float, place: str | None) -> float:
    return size if place == "cpu" else 0.0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that host or device memory ran out."""
    seen: list[BaseException] = []
    current: Any = error
    while current is not None and current not in seen:
        seen.append(current)
        words = str(current).lower()
        if isinstance(current, MemoryError) or type(current).__name__ == "OutOfMemoryError":
            return True
        if isinstance(current, RuntimeError | OSError) and any(sign in words for sign in _SIGNS):
            return True
        current = current.__cause__ or current.__context__
    return False


# What torch, its libraries and the system say of memory that ran out, where the error's type does not.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
    "failed to allocate memory",
)

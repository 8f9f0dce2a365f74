"""What networks need of memory at the least, computed by hand."""

import pytest
import torch

from align.errors import UserError
from align.models.memory import Need, Network, Placement, estimate, is_out_of_memory

N = 1_000_000
POLICY = Network("policy", N, 0, 4, trained=True)
FROZEN = Network("ref_model", N, 0, 2, trained=False)
FOUR_BIT = Network("policy", 2000, N, 0.5, trained=False)


@pytest.mark.parametrize(
    ("networks", "placement", "host", "device"),
    [
        # weights, gradients and two moments in fp32: 16 bytes of a trained weight
        ([POLICY], Placement(), 16 * N, 0),
        ([POLICY, FROZEN], Placement(), 18 * N, 0),
        ([POLICY], Placement(adam=False), 8 * N, 0),
        ([POLICY], Placement(ranks=2, ranks_per_host=2), 32 * N, 0),
        ([FOUR_BIT], Placement(), N + 1000, 0),
        # on a GPU the host holds what is loaded, until it moves
        ([POLICY, FROZEN], Placement(on_gpu=True), 6 * N, 18 * N),
        # ZeRO (figure 1 of the paper): 2 + 2 + 12 bytes in mixed precision, divided stage by stage among 4
        ([POLICY], Placement(4, 4, True, 1, half=True), 16 * N, (2 + 2 + 3) * N),
        ([POLICY], Placement(4, 4, True, 2, half=True), 16 * N, (2 + 0.5 + 3) * N),
        ([POLICY], Placement(4, 4, True, 3, half=True), 0, 4 * N),
        ([POLICY, FROZEN], Placement(4, 4, True, 3, half=True), 0, 4.5 * N),
        # offloaded to the host: 4 x 3.5 bytes there for gradients and optimizer, or disks
        ([POLICY], Placement(4, 4, True, 3, half=True, offload_optimizer="cpu"), 14 * N, 0.5 * N),
        ([POLICY], Placement(4, 2, True, 3, True, True, "cpu", "cpu"), 8 * N, 0),
        ([POLICY], Placement(4, 4, True, 3, True, True, "nvme", "nvme"), 0, 0),
    ],
)
def test_states(networks, placement, host, device):
    assert estimate(networks, placement) == Need(host=int(host), device=int(device))


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:  # noqa: BLE001 - returned to the test
        return caught


def test_memory_that_ran_out_is_known_by_its_type_or_its_words():
    with pytest.raises(RuntimeError) as torch_says:
        torch.empty(10**15)
    for error in (
        torch_says.value,
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        OSError(12, "Cannot allocate memory"),
        raised(ValueError("a batch failed"), MemoryError()),
    ):
        assert is_out_of_memory(error), error
    for error in (RuntimeError("shapes differ"), ValueError("out of memory is a film"), OSError(28, "No space left")):
        assert not is_out_of_memory(error), error
    assert not is_out_of_memory(UserError("lower trainer.max_length"))

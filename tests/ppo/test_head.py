"""Log-probabilities and entropies of the head, and their gradients, beside plain autograd and TRL's kernel."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from trl.kernels import ChunkedLogProbFunction

from align.ppo import head

STATES, WIDTH, VOCABULARY = 300, 8, 40  # more than one block of rows


def model_of(bias=False, **config):
    torch.manual_seed(0)
    linear = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    told = SimpleNamespace(model_type="any", **config)
    told.get_text_config = lambda: told
    return SimpleNamespace(get_output_embeddings=lambda: linear, config=told), linear


def gradients(function, hidden, linear):
    for one in (hidden, *linear.parameters()):
        one.grad = None
    logps, entropies = function()
    weights = torch.linspace(-1, 2, STATES)
    ((logps * weights).sum() + (entropies * weights.flip(0)).sum()).backward()
    return [logps, entropies, hidden.grad, *(one.grad for one in linear.parameters())]


@pytest.mark.parametrize("bias, config, scale", [(False, {}, 1.0), (True, {"logit_scale": 0.5}, 0.5)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_numbers_and_gradients_are_those_of_autograd_and_of_trl(bias, config, scale, temperature):
    model, linear = model_of(bias, **config)
    hidden = torch.randn(STATES, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (STATES,))

    def plain():
        logps = (linear(hidden) * scale / temperature).log_softmax(-1)
        return logps.gather(1, targets[:, None])[:, 0], -(logps.exp() * logps).sum(-1)

    def trls():
        bias = linear.bias
        return ChunkedLogProbFunction.apply(
            hidden, linear.weight, bias, targets, temperature, 16, None, scale, ("entropy",)
        )[:2]

    expected = gradients(plain, hidden, linear)
    for function in (lambda: head.token_logps(model, hidden, targets, temperature, entropy=True), trls):
        for ours, theirs in zip(gradients(function, hidden, linear), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_softcap_goes_through_trls_kernel():
    model, linear = model_of(final_logit_softcapping=2.0)
    hidden, targets = torch.randn(5, WIDTH), torch.arange(5)
    found, _ = head.token_logps(model, hidden, targets, 1.0)
    expected = (2.0 * torch.tanh(linear(hidden) / 2.0)).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, expected)


def test_no_state_at_all():
    model, linear = model_of()
    hidden = torch.randn(0, WIDTH, requires_grad=True)
    logps, entropies = head.token_logps(model, hidden, torch.zeros(0, dtype=torch.long), 1.0, entropy=True)
    assert len(logps) == len(entropies) == 0
    logps.sum().backward()
    assert (linear.weight.grad == 0).all()

"""Advantages, returns, KL penalty and losses against a reference in float64, and cases worked by hand."""

import math
import random

import pytest
import torch

from align.ppo.advantages import (
    explained_variance,
    generalized_advantages,
    kl_k1,
    kl_k3,
    last_token,
    token_rewards,
    whiten,
)
from align.ppo.control import KLController, RunningMoments
from align.ppo.losses import approximate_kl, policy_loss, value_loss
from tests.ppo import reference

# An empty completion, one token, EOS at the first and at the last place, and what lies between.
LENGTHS = (7, 0, 1, 4, 7, 2)
WIDTH = 7
TIGHT = {"rtol": 1e-6, "atol": 1e-6}


def episodes(seed=0):
    draw = random.Random(seed)
    return [
        {
            "score": draw.gauss(0, 2),
            "logps": [-draw.expovariate(1) for _ in range(length)],
            "ref_logps": [-draw.expovariate(1) for _ in range(length)],
            "values": [draw.gauss(0, 1) for _ in range(length)],
        }
        for length in LENGTHS
    ]


def laid_out(rows, side, dtype=torch.float64):
    """[episodes, WIDTH] with junk for padding on `side`, and its mask."""
    table, mask = torch.full((len(rows), WIDTH), 9.0, dtype=dtype), torch.zeros(len(rows), WIDTH, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(WIDTH - len(row), WIDTH)
        table[number, place], mask[number, place] = torch.tensor(row, dtype=dtype), True
    return table, mask


def rows_of(table, mask):
    return [table[number][mask[number]].tolist() for number in range(len(table))]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("gamma, lam, beta", [(1.0, 0.95, 0.05), (0.9, 0.5, 0.3), (1.0, 1.0, 0.0), (0.97, 0.0, 1.0)])
def test_advantages_and_returns_equal_the_reference(side, gamma, lam, beta):
    told = episodes()
    logps, mask = laid_out([one["logps"] for one in told], side)
    ref_logps, values = (laid_out([one[key] for one in told], side)[0] for key in ("ref_logps", "values"))
    scores = torch.tensor([one["score"] for one in told], dtype=torch.float64)
    rewards = token_rewards(scores, kl_k1(logps, ref_logps), mask, beta)
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam)
    expected_rewards = [reference.rewards(one["score"], one["logps"], one["ref_logps"], beta) for one in told]
    expected = [
        reference.advantages(given, one["values"], gamma, lam)
        for given, one in zip(expected_rewards, told, strict=True)
    ]
    for found, wanted in zip(rows_of(rewards, mask), expected_rewards, strict=True):
        torch.testing.assert_close(found, wanted, **TIGHT)
    for found, wanted in zip(rows_of(advantages, mask), expected, strict=True):
        torch.testing.assert_close(found, wanted, **TIGHT)
    for found, wanted, one in zip(rows_of(returns, mask), expected, told, strict=True):
        torch.testing.assert_close(found, [a + v for a, v in zip(wanted, one["values"], strict=True)], **TIGHT)
    for table in (rewards, advantages, returns):
        assert (table[~mask] == 0).all()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_equals_the_reference(side, shift_mean):
    rows = [one["values"] for one in episodes(3)]
    table, mask = laid_out(rows, side)
    found = whiten(table, mask, shift_mean=shift_mean)
    for ours, theirs in zip(rows_of(found, mask), reference.whiten(rows, shift_mean), strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
    assert (found[~mask] == 0).all()


def test_whitening_one_token_or_none():
    one = torch.tensor([[3.0, 9.0]])
    assert whiten(one, torch.tensor([[True, False]])).tolist() == [[0.0, 0.0]]
    assert whiten(one, torch.tensor([[False, False]])).tolist() == [[0.0, 0.0]]


def test_losses_and_their_gradients_equal_the_reference():
    draw = random.Random(7)
    tokens = 200
    old, advantage, value, target = ([draw.gauss(0, 1) for _ in range(tokens)] for _ in range(4))
    logp = [one + draw.gauss(0, 0.4) for one in old]
    old_value = [one + draw.gauss(0, 0.4) for one in value]

    def leaf(rows):
        return torch.tensor(rows, dtype=torch.float64, requires_grad=True)

    logps, values = leaf(logp), leaf(value)
    policy, clipped = policy_loss(
        logps, torch.tensor(old, dtype=torch.float64), torch.tensor(advantage, dtype=torch.float64), 0.2, 0.28
    )
    critic, cut = value_loss(
        values, torch.tensor(old_value, dtype=torch.float64), torch.tensor(target, dtype=torch.float64), 0.2
    )
    (policy.sum() + critic.sum()).backward()
    expected = [reference.policy_loss(*one, 0.2, 0.28) for one in zip(logp, old, advantage, strict=True)]
    torch.testing.assert_close(policy.tolist(), [loss for loss, _ in expected], **TIGHT)
    torch.testing.assert_close(logps.grad.tolist(), [slope for _, slope in expected], **TIGHT)
    assert clipped.tolist() == [slope == 0.0 for _, slope in expected] and 0 < clipped.sum() < tokens
    expected = [reference.value_loss(*one, 0.2) for one in zip(value, old_value, target, strict=True)]
    torch.testing.assert_close(critic.tolist(), [loss for loss, _ in expected], **TIGHT)
    torch.testing.assert_close(values.grad.tolist(), [slope for _, slope in expected], **TIGHT)
    assert 0 < cut.sum() < tokens


def test_the_k3_term_and_its_gradient_equal_the_reference():
    draw = random.Random(11)
    logp, ref = ([-draw.expovariate(1) for _ in range(50)] for _ in range(2))
    logps = torch.tensor(logp, dtype=torch.float64, requires_grad=True)
    found = kl_k3(logps, torch.tensor(ref, dtype=torch.float64))
    found.sum().backward()
    expected = [reference.k3(*one) for one in zip(logp, ref, strict=True)]
    torch.testing.assert_close(found.tolist(), [value for value, _ in expected], **TIGHT)
    torch.testing.assert_close(logps.grad.tolist(), [slope for _, slope in expected], **TIGHT)
    assert min(found.tolist()) >= 0


def test_three_tokens_by_hand():
    """gamma 1, lambda 1/2, beta 1/10; KL 1, 0, 2; score 5; values 1, 2, 3."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    rewards = token_rewards(torch.tensor([5.0]), torch.tensor([[1.0, 0.0, 2.0]]), mask, 0.1)
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 0.0, 4.8]]))
    advantages, returns = generalized_advantages(rewards, torch.tensor([[1.0, 2.0, 3.0]]), mask, 1.0, 0.5)
    # deltas: -0.1 + 2 - 1 = 0.9;  0 + 3 - 2 = 1;  4.8 - 3 = 1.8
    torch.testing.assert_close(advantages, torch.tensor([[0.9 + 0.5 + 0.45, 1 + 0.9, 1.8]]))
    torch.testing.assert_close(returns, torch.tensor([[2.85, 3.9, 4.8]]))


def test_a_clip_by_hand():
    """Ratio 2 with advantage 1 is cut at 1.2 and has no slope; with advantage -1 nothing is cut."""
    logps = torch.tensor([math.log(2.0)] * 2, requires_grad=True)
    loss, clipped = policy_loss(logps, torch.zeros(2), torch.tensor([1.0, -1.0]), 0.2, 0.2)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([-1.2, 2.0]))
    assert clipped.tolist() == [True, False]
    torch.testing.assert_close(logps.grad, torch.tensor([0.0, 2.0]))


def test_the_last_token_with_padding_on_either_side():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]]).bool()
    assert last_token(mask).int().tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_the_mean_of_the_estimators_is_the_divergence():
    """Over every token, weighted by p, k1 and k3 are KL(p || q), and k2 is near it for near policies."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    q = torch.tensor([0.45, 0.33, 0.22], dtype=torch.float64).log()
    divergence = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * kl_k1(p, q)).sum(), divergence)
    torch.testing.assert_close((p.exp() * kl_k3(p, q)).sum(), divergence)
    torch.testing.assert_close((p.exp() * approximate_kl(q, p)).sum(), divergence, rtol=0.1, atol=0)


def test_explained_variance():
    mask = torch.ones(1, 4, dtype=torch.bool)
    returns = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.zeros(1, 4), returns, mask) == 0
    assert torch.isnan(explained_variance(returns, torch.ones(1, 4), mask))


def test_the_controller_moves_towards_its_target():
    """Ziegler et al. 2019: the error is clipped at a fifth; 100 of 1,000 episodes at 10% of it."""
    controller = KLController(0.5, target=6.0, horizon=1000)
    controller.update(12.0, 100)
    assert controller.beta == pytest.approx(0.5 * (1 + 0.2 * 0.1))
    controller.update(5.4, 100)
    assert controller.beta == pytest.approx(0.51 * (1 - 0.1 * 0.1))
    again = KLController(0.5, target=6.0, horizon=1000)
    again.load_state_dict(controller.state_dict())
    assert again == controller
    fixed = KLController(0.5)
    fixed.update(100.0, 100)
    assert fixed.beta == 0.5


def test_running_moments_are_those_of_all_scores():
    draw = random.Random(5)
    batches = [[draw.gauss(100, 3) for _ in range(size)] for size in (1, 5, 0, 17)]
    moments = RunningMoments()
    for batch in batches:
        moments.update(batch)
    every = torch.tensor([one for batch in batches for one in batch], dtype=torch.float64)
    assert moments.mean == pytest.approx(every.mean().item()) and moments.std == pytest.approx(every.std().item())
    again = RunningMoments()
    again.load_state_dict(moments.state_dict())
    assert again == moments

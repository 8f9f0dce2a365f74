"""PPO once more, in float64 and in plain Python loops over one episode at a time, straight from the formulas."""

import math


def rewards(score, logps, ref_logps, beta):
    """r_t = -beta (log pi - log pi_ref), and the score at the last token (arXiv:2203.02155, eq. 2)."""
    given = [-beta * (p - q) for p, q in zip(logps, ref_logps, strict=True)]
    if given:
        given[-1] += score
    return given


def advantages(rewards, values, gamma, lam):
    """A_t = sum_l (gamma lam)^l delta_{t+l} (arXiv:1506.02438, eq. 16), summed for each t anew."""
    length = len(rewards)
    following = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(length)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]


def whiten(rows, shift_mean=True, eps=1e-8):
    """Every number less the mean, over the standard deviation with Bessel's correction."""
    every = [one for row in rows for one in row]
    if not every:
        return rows
    mean = math.fsum(every) / len(every)
    if len(every) < 2:
        return [[one - mean if shift_mean else one for one in row] for row in rows]
    variance = math.fsum((one - mean) ** 2 for one in every) / (len(every) - 1)
    back = 0.0 if shift_mean else mean
    return [[(one - mean) / math.sqrt(variance + eps) + back for one in row] for row in rows]


def policy_loss(logp, old_logp, advantage, low, high):
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) (arXiv:1707.06347, eq. 7) and its derivative by logp."""
    ratio = math.exp(logp - old_logp)
    cut = min(max(ratio, 1 - low), 1 + high)
    loss = -min(ratio * advantage, cut * advantage)
    slope = -ratio * advantage if ratio * advantage <= cut * advantage else 0.0
    return loss, slope


def value_loss(value, old_value, target, clip):
    """max((V - R)^2, (clip(V, V_old +- clip) - R)^2) / 2 and its derivative by V."""
    cut = min(max(value, old_value - clip), old_value + clip)
    plain, clipped = (value - target) ** 2, (cut - target) ** 2
    inside = abs(value - old_value) < clip
    slope = value - target if plain >= clipped or inside else 0.0
    return 0.5 * max(plain, clipped), slope


def k3(logp, ref_logp):
    """q/p - 1 - log(q/p) and its derivative by log p."""
    ratio = math.exp(ref_logp - logp)
    return ratio - 1 - (ref_logp - logp), 1 - ratio

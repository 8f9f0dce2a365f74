"""A rollout: what all ranks generated and scored together, and the order in which an update goes through it."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class Rollout:
    """Episodes of all ranks, the same on each, on the CPU.

    Attributes:
        prompt_ids, completion_ids: tokens of each episode; a completion's include its end.
        logps, ref_logps, values: [episodes, longest completion], of each completion token, as they were when it was
            generated; 0 beside a completion.
        ended: [episodes], True where the completion ended by itself.
        rewards: [episodes, reward functions].
        mask: [episodes, longest completion], the tokens that are learnt from; set by the trainer, as are
        scores: [episodes], what the reward functions come to, and
        advantages, returns: [episodes, longest completion].
    """

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    logps: Tensor
    ref_logps: Tensor
    values: Tensor
    ended: Tensor
    rewards: Tensor
    mask: Tensor | None = None
    scores: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion."""
        return torch.tensor([len(ids) for ids in self.completion_ids])

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions together."""
        return sum(map(len, self.prompt_ids)) + sum(map(len, self.completion_ids))

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        named = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def padded(rows: list[Tensor]) -> Tensor:
    """Rows of different lengths as one tensor, 0 behind each."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else torch.zeros(0, 0)


def micro_batches(
    rollout: Rollout, *, seed: int, number: int, epoch: int, minibatch: int, accumulation: int
) -> list[list[list[int]]]:
    """For one pass over a rollout: the episodes of each minibatch, micro-batch by micro-batch.

    Which episodes make a minibatch depends on nothing but seed, rollout and pass, and not on the number of ranks.
    Within a minibatch, episodes of like length go together, so that ranks wait little for each other.

    Args:
        number: of the rollout in this run, from 0.
        minibatch: episodes an optimizer step, over all ranks.

    Returns:
        [minibatches][accumulation] lists of episode numbers, to be dealt out to the ranks in turn.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) * 1_009 + epoch)
    order = torch.randperm(len(rollout), generator=generator).tolist()
    size = minibatch // accumulation
    batches = []
    for start in range(0, len(order), minibatch):
        members = sorted(
            order[start : start + minibatch],
            key=lambda one: (len(rollout.prompt_ids[one]) + len(rollout.completion_ids[one]), one),
        )
        batches.append([members[place : place + size] for place in range(0, minibatch, size)])
    return batches


def prompt_order(prompts: int, *, per_rollout: int, number: int, seed: int, shuffle: bool) -> list[int]:
    """The prompts of rollout `number`: pass after pass over all of them, each in an order of its own.

    A function of its arguments alone, so that a resumed run needs no state to go on with the next prompts. What is
    left of a pass and fills no rollout is left out of that pass.
    """
    rollouts = prompts // per_rollout
    sweep, place = divmod(number, rollouts)
    order = list(range(prompts))
    if shuffle:
        order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed + sweep)).tolist()
    return order[place * per_rollout : (place + 1) * per_rollout]

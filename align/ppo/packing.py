"""Sequences of tokens side by side in few rows, so that hardly a position is padding.

Positions begin anew with each sequence, from which transformers' attention knows where one ends (`masking_utils`,
`find_packed_sequence_indices`, 5.23).
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A batch of whole sequences.

    Attributes:
        input_ids, position_ids: [rows, width].
        states: [n], where in the flattened batch the states are from which the scored tokens were chosen.
        targets: [n], the tokens chosen there; sequence after sequence, each in order.
    """

    input_ids: Tensor
    position_ids: Tensor
    states: Tensor
    targets: Tensor


def pack(
    sequences: list[list[int]],
    scored: list[int],
    *,
    side_by_side: bool,
    device: torch.device,
    hidden_size: int = 1,
    widest: int | None = None,
) -> Packed:
    """Lay sequences into rows, first fit, longest first.

    Rows are as wide as makes the least work: wider ones leave less room empty, and in an attention over more
    positions more of them are of other sequences.

    Args:
        sequences: token ids, none empty.
        scored: how many tokens at the end of each sequence are scored; the first of a sequence cannot be.
        side_by_side: False gives each sequence a row of its own, for models that would let neighbours in a row see
            each other.
        hidden_size: of the model, which says what attention weighs.
        widest: positions of a row, unless a sequence is longer; None is no limit.
    """
    lengths = [len(sequence) for sequence in sequences]
    rows = [[index] for index in range(len(lengths))]
    if side_by_side:
        longest = max(lengths)
        # Four times the longest leave little room empty; the more widths are tried, the longer it takes.
        limit = max(longest, min(widest or 4 * longest, sum(lengths), 4 * longest))
        tried = [_fill(lengths, eighths * longest // 8) for eighths in range(8, 8 * limit // longest + 1)]
        rows = min(tried, key=lambda rows: _work(rows, lengths, hidden_size))
    return _lay(rows, sequences, scored, device)


def in_one_row(sequences: list[list[int]], scored: list[int], *, device: torch.device) -> Packed:
    """The sequences side by side in a single row, in their order; arguments as for `pack`."""
    return _lay([list(range(len(sequences)))], sequences, scored, device)


def _lay(rows: list[list[int]], sequences: list[list[int]], scored: list[int], device: torch.device) -> Packed:
    """The batch whose rows hold these sequences, by their indices."""
    lengths = [len(sequence) for sequence in sequences]
    width = _width(rows, lengths)
    places = [(0, 0)] * len(sequences)
    for row, members in enumerate(rows):
        start = 0
        for index in members:
            places[index] = (row, start)
            start += lengths[index]
    # What is left of a row may be any token, as nobody looks ahead at it; transformers warns of pad tokens.
    input_ids = torch.full((len(rows), width), sequences[0][0], dtype=torch.long)
    position_ids = torch.zeros((len(rows), width), dtype=torch.long)
    states: list[int] = []
    targets: list[int] = []
    for (row, start), sequence, count in zip(places, sequences, scored, strict=True):
        end = start + len(sequence)
        input_ids[row, start:end] = torch.tensor(sequence)
        position_ids[row, start:end] = torch.arange(len(sequence))
        first = row * width + end - 1 - count
        states += range(first, first + count)
        targets += sequence[len(sequence) - count :]
    for row, members in enumerate(rows):
        used = sum(lengths[index] for index in members)
        position_ids[row, used:] = torch.arange(width - used)
    return Packed(
        input_ids.to(device),
        position_ids.to(device),
        torch.tensor(states, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
    )


def _fill(lengths: list[int], width: int) -> list[list[int]]:
    """Which sequences lie in each row of `width` positions."""
    rows: list[list[int]] = []
    left: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        row = next((row for row, room in enumerate(left) if room >= lengths[index]), len(rows))
        if row == len(rows):
            rows.append([])
            left.append(width)
        rows[row].append(index)
        left[row] -= lengths[index]
    return rows


def _width(rows: list[list[int]], lengths: list[int]) -> int:
    return max(sum(lengths[index] for index in members) for members in rows)


def _work(rows: list[list[int]], lengths: list[int], hidden_size: int) -> float:
    """What a layer computes, in that of its projections for one position.

    They take 24 h^2 operations a position, h the hidden size, and attention takes 4 h for each pair of positions.
    """
    width = _width(rows, lengths)
    return len(rows) * width * (1 + width / (6 * hidden_size))

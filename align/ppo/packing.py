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


def pack(sequences: list[list[int]], scored: list[int], *, side_by_side: bool, device: torch.device) -> Packed:
    """Lay sequences into rows as wide as the longest, first fit, longest first.

    Args:
        sequences: token ids, none empty.
        scored: how many tokens at the end of each sequence are scored; the first of a sequence cannot be.
        side_by_side: False gives each sequence a row of its own, for models that would let neighbours in a row see
            each other.
    """
    width = max(len(sequence) for sequence in sequences)
    places: list[tuple[int, int]] = [(0, 0)] * len(sequences)
    filled: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda one: -len(sequences[one])):
        need = len(sequences[index])
        row = next((row for row, used in enumerate(filled) if side_by_side and used + need <= width), None)
        if row is None:
            row = len(filled)
            filled.append(0)
        places[index] = (row, filled[row])
        filled[row] += need
    # What is left of a row may be any token, as nobody looks ahead at it; transformers warns of pad tokens.
    input_ids = torch.full((len(filled), width), sequences[0][0], dtype=torch.long)
    position_ids = torch.zeros((len(filled), width), dtype=torch.long)
    states: list[int] = []
    targets: list[int] = []
    for (row, start), sequence, count in zip(places, sequences, scored, strict=True):
        end = start + len(sequence)
        input_ids[row, start:end] = torch.tensor(sequence)
        position_ids[row, start:end] = torch.arange(len(sequence))
        first = row * width + end - 1 - count
        states += range(first, first + count)
        targets += sequence[len(sequence) - count :]
    for row, used in enumerate(filled):
        position_ids[row, used:] = torch.arange(width - used)
    return Packed(
        input_ids.to(device),
        position_ids.to(device),
        torch.tensor(states, dtype=torch.long, device=device),
        torch.tensor(targets, dtype=torch.long, device=device),
    )

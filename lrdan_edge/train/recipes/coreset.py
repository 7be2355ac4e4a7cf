"""A greedy coreset: the rows that leave no other row far from all of them (k-centre)."""

import torch
from torch import Tensor

PROJECTED = 64
"""Dimensions of the random projection in which rows are chosen."""


def greedy_coreset(rows: Tensor, size: int) -> Tensor:
    """Choose rows: the first, then always the one that is farthest from all chosen ones.

    Args:
        rows: float32 [n, K]; the distances are those of these rows, so project them before if K is large.
        size: Number of rows to choose, at most n.

    Returns:
        Their places, int64 [size], in the order of choice.
    """
    squares = rows.square().sum(1)
    least = torch.full_like(squares, torch.inf)
    places = torch.zeros(size, dtype=torch.int64, device=rows.device)
    for number in range(1, size):
        last = places[number - 1]
        torch.minimum(least, squares - 2 * (rows @ rows[last]) + squares[last], out=least)
        least[last] = -torch.inf  # a chosen row is not chosen again, also if all rows are alike
        places[number] = least.argmax()
    return places

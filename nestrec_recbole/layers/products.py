"""Matrix products with as many columns as there are items, at the speed of those with a rounder number."""

import torch
from torch import Tensor

ROW = 32  # elements: 64 bytes, a line of a CPU's cache, in 16 bits, 128 in 32


def aligned(n_columns: int) -> int:
    """The least multiple of ``ROW`` that is not below ``n_columns``.

    Rows of so many columns begin where a cache line does. To write a product to others takes a CPU up to twice as long.
    """
    return -(-n_columns // ROW) * ROW


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right.T`, (m, d) and (n, d) -> (m, n); each row in a piece of memory of :func:`aligned` length."""
    if torch.is_grad_enabled():
        return left @ right.T  # what is differentiated, here or later in place, cannot be written to given memory
    memory = left.new_empty(len(left), aligned(len(right)))
    return torch.mm(left, right.T, out=memory[:, : len(right)])

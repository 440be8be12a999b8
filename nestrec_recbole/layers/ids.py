"""Embeddings of item ids, and which of them count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ItemIds(nn.Module):
    """One vector for each item, which counts where training knows the item, and there is dropped at random.

    So a model learns to do without: items that came late rank by their content.
    Weights are N(0, 1) until a model starts them.

    Parameters
    ----------
    is_trained : Tensor (n_items,), bool
        Items that the training data has; False for the padding item.
    width : int
    dropout : float
        Share of the ids that do not count, drawn anew at each call while training.
    """

    is_trained: Tensor

    def __init__(self, is_trained: Tensor, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(len(is_trained), width))
        self.dropout = dropout
        self.register_buffer("is_trained", is_trained, persistent=False)

    def forward(self, items: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors (m, width) of items (m,), by default of all, and whether each counts: (m,) bool."""
        counts = rows_of(self.is_trained, items)
        if self.training and self.dropout and self.weight.requires_grad:
            counts = counts & (torch.rand(len(counts), device=counts.device) >= self.dropout)
        return rows_of(self.weight, items), counts

    def add_items(self, n: int) -> None:
        """Append ``n`` items that came after training: their ids do not count."""
        self.weight = nn.Parameter(F.pad(self.weight.detach(), (0, 0, 0, n)), self.weight.requires_grad)
        self.is_trained = F.pad(self.is_trained, (0, n))


def rows_of(table: Tensor, items: Tensor | None) -> Tensor:
    """The rows of items (m,) in a table (n_items, ...), or the table itself where items is None."""
    return table if items is None else table[items]

"""How much less, or more, likely an item is that the history already holds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SeenBias(nn.Module):
    """A number that the logits of a history's items get more than those of all others, learned.

    It starts where the training data puts it, at the log-odds of a target that its user took before: where nothing is
    ever taken twice, far below zero. Nothing else learns from it: a model is the same with it and without, and so are
    its ranks where seen items are left out (F). Where they are ranked too (U), they come as late as they should.

    Source: RepeatNet (Ren et al., 2019) learns when to repeat and when to explore; here this is one number for all.

    Parameters
    ----------
    n_repeats, n_interactions : int
        Of the training data: how many there are of an item that their user took before, and how many in all.
    """

    def __init__(self, n_repeats: int, n_interactions: int) -> None:
        super().__init__()
        odds = (n_repeats + 0.5) / (n_interactions - n_repeats + 0.5)
        self.bias = nn.Parameter(torch.tensor(math.log(odds)))

    def forward(self, scores: Tensor, history: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Add the bias, times the temperature, to the scores (B, N) of the items of histories (B, T), in place."""
        seen = distinct(history)
        return scores.scatter_add_(1, seen, (self.bias * temperature * (seen > 0)).to(scores.dtype))


def distinct(history: Tensor) -> Tensor:
    """Histories (B, T) with 0 in the place of all but the first occurrence of an item."""
    same = history[:, :, None] == history[:, None, :]
    return history.masked_fill(same.tril(-1).any(2), 0)


def seen_so_far(history: Tensor) -> Tensor:
    """The distinct items that each step of histories (B, T) has read, its own among them: (B, T, T), padded with 0."""
    return distinct(history)[:, None, :].expand(-1, history.shape[1], -1).tril()

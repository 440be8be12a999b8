"""The mean of a history so far, in which what came last counts most."""

import torch
from torch import Tensor, nn


class RecencyMean(nn.Module):
    """At every step the mean of the vectors so far, weighted by a learned decay, (B, T, d) -> (B, T, d).

    Of two vectors a step apart, the older one has `sigmoid(decay)` times the weight of the other; a half at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.0))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return means; that of step t depends on steps 1..t only."""
        step = torch.arange(vectors.shape[1], device=vectors.device)
        age = step[:, None] - step[None, :]  # (T, T): how many steps before t step s came
        weights = (torch.sigmoid(self.decay) ** age.clamp(min=0)) * (age >= 0)
        return weights / weights.sum(dim=1, keepdim=True) @ vectors

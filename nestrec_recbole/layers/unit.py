"""Vectors of one length, for scores that are cosines."""

import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-3  # a vector of zeros would pass on gradients a million million times as large


def unit(vectors: Tensor) -> Tensor:
    """Bring vectors (..., d) to length 1; those shorter than ``SHORTEST`` are divided by it, and stay shorter."""
    return F.normalize(vectors, dim=-1, eps=SHORTEST)

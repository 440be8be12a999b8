"""User vectors that look at a history's states, and a gate that mixes what they find."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.layers.attention import attend


class VectorAttention(nn.Module):
    """A vector for each step attends to the states that are visible to it, and is added to what it finds.

    There is always one more state, a learned one, so that a step without any visible state finds something.

    Parameters
    ----------
    width, heads : int
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_query, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.nothing = nn.Parameter(torch.zeros(width))
        for layer in (self.to_query, self.to_key_value, self.to_out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, vectors: Tensor, states: Tensor, visible: Tensor) -> Tensor:
        """Read states (B, S, width) with vectors (B, T, width), where ``visible`` (B, 1, T, S) says so."""
        states = torch.cat([self.nothing.expand(len(states), 1, -1), states], dim=1)
        visible = F.pad(visible, (1, 0), value=True)
        query = self.to_query(vectors).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.to_key_value(states).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = attend(query, key, value, visible)
        return vectors + self.to_out(found.transpose(1, 2).flatten(2))


class Gate(nn.Module):
    """Mix two vectors, channel by channel: `g * first + (1 - g) * second` with `g = sigmoid(W [first; second])`.

    It starts as their mean.
    """

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(2 * width, width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Mix (..., width) and (..., width)."""
        gate = torch.sigmoid(self.linear(torch.cat([first, second], dim=-1)))
        return gate * first + (1 - gate) * second

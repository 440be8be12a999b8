"""How much less, or more, likely an item is that the history already holds."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Seen(NamedTuple):
    """What positions have read, and what that does to logits.

    Attributes
    ----------
    items : Tensor (P, T), an integer type
        The items of each position, each once, padded with 0.
    bias : Tensor ()
        What their logits get more.
    """

    items: Tensor
    bias: Tensor


class SeenBias(nn.Module):
    """A number that the logits of a history's items get more than those of all others, learned beside the model.

    All other weights learn without it, see :func:`.full_softmax`: after every epoch they are what they are without it
    (but for ``clip_grad_norm``, which looks at all gradients together), and so are the ranks of targets that were not
    seen before where seen items are left out (F). Where they are ranked too (U), they come as late as they should.
    It knows of the items that the model reads, ``MAX_ITEM_LIST_LENGTH`` at most.
    A first guess is the log-odds of a target that its user took before, in the training data: where nothing is ever
    taken twice, far below zero.

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
        biased = scores.gather(1, history) + (self.bias * temperature).to(scores.dtype)
        return scores.scatter_(1, history, biased)  # of an item that is there twice, the same is written twice


def seen_so_far(history: Tensor) -> Tensor:
    """The items that each step of histories (B, T) has read, its own among them: (B, T, T), int32, padded with 0."""
    again = (history[:, :, None] == history[:, None, :]).tril(-1).any(2)
    first = history.masked_fill(again, 0).int()
    return first[:, None, :].expand(-1, history.shape[1], -1).tril()

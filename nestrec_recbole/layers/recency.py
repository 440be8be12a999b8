"""The mean of a history so far, in which what came last counts most."""

import torch
from torch import Tensor, nn

from nestrec_recbole.layers.dropout import Dropout
from nestrec_recbole.layers.unit import unit


class RecencyMean(nn.Module):
    """At every step the mean of the vectors so far, weighted by a learned decay, (B, T, d) -> (B, T, d).

    Given ``at`` (B,), at one step of each row alone: (B, 1, d).

    Of two vectors a step apart, the older one has `sigmoid(decay)` times the weight of the other; a half at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(0.0))

    def forward(self, vectors: Tensor, at: Tensor | None = None) -> Tensor:
        """Return means; that of step t depends on steps 1..t only."""
        step = torch.arange(vectors.shape[1], device=vectors.device)
        age = step[:, None] - step[None, :]  # (T, T): how many steps before t step s came
        weights = (torch.sigmoid(self.decay) ** age.clamp(min=0)) * (age >= 0)
        weights = weights / weights.sum(dim=1, keepdim=True)
        return (weights if at is None else weights[at][:, None]) @ vectors


class RecencyResidual(nn.Module):
    r"""Add what a history's last items are to its states: what goes together is then learned first.

    .. math:: s_t \leftarrow s_t + a \odot \mathrm{mean}_t(v_1, \ldots, v_t)

    The mean is that of :class:`RecencyMean`.

    Parameters
    ----------
    width : int
    scale : float
        Of the mean at first, the same in each feature of :math:`a`, which is learned.
    dropout : float
        Rate in 0..1 on the vectors of the items.
    cosine : bool
        Bring the mean and the sum to unit length: for scores that are cosines.
    """

    def __init__(self, width: int, scale: float, dropout: float = 0.0, cosine: bool = False) -> None:
        super().__init__()
        self.mean, self.dropout, self.cosine = RecencyMean(), Dropout(dropout), cosine
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, states: Tensor, items: Tensor, at: Tensor | None = None) -> Tensor:
        """Map states and vectors of items, both (B, T, width), to states; that of step t depends on steps 1..t only.

        Given ``at`` (B,), the states are those of one step of each row, (B, 1, width).
        """
        mean = self.mean(self.dropout(items), at)
        if not self.cosine:
            return states + self.scale * mean
        return unit(states + self.scale * unit(mean))

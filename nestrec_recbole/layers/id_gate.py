"""How much of an item is its content, and how much the embedding of its id."""

import torch
from torch import Tensor, nn


class IdGate(nn.Module):
    """``(1 - g) * content + g * id``, with ``g = sigmoid(MLP(content))`` for every feature, a quarter as wide inside.

    An item whose content says little may lean on its id. Where the id is not to be used, ``g`` is 0: pure content.

    Parameters
    ----------
    width : int
        Of contents and ids; at least 4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_inner = nn.Linear(width, width // 4)
        self.to_share = nn.Linear(width // 4, width)

    def share(self, content: Tensor) -> Tensor:
        """The share g of the id, in 0..1: (..., width) -> (..., width)."""
        return torch.sigmoid(self.to_share(torch.relu(self.to_inner(content))))

    def forward(self, content: Tensor, ids: Tensor, has_id: Tensor) -> Tensor:
        """Mix contents and ids (n, width); ``has_id`` (n,), bool, says whose id counts."""
        share = self.share(content) * has_id[:, None]
        return content + share * (ids - content)

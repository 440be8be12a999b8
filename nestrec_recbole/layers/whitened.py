"""What items are by their fields before anything is learned: principal directions, each as loud as the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WhitenedFields(nn.Module):
    r"""Items by the whitened fields, all of one length; zero where nothing is known of an item.

    .. math:: c_i = s \frac{x_i W}{\lVert x_i W \rVert}

    with :math:`x_i` the standardised features of all fields and :math:`W` the directions of largest variance, scaled to
    unit variance: raw sentence embeddings differ mostly in what does not tell items apart (WhitenRec, Zhang et al.
    2024). Nothing here is trained; :math:`W` is saved with the weights, so that it stays what they were trained with.

    Parameters
    ----------
    components : Tensor (sum of the fields' widths, directions)
        :math:`W`; where it has fewer directions than ``width``, the rest is zero.
    features : sequence of Tensor, each (n_items, width of the field)
    width : int
    scale : float
        The length :math:`s`.
    """

    components: Tensor
    vectors: Tensor

    def __init__(self, components: Tensor, features: Sequence[Tensor], width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("components", F.pad(components, (0, width - components.shape[1])))
        self.register_buffer("vectors", torch.empty(0, width), persistent=False)
        self.read(features)

    @torch.no_grad()
    def read(self, features: Sequence[Tensor]) -> None:
        """Compute the vectors of all items anew: their features or ``components`` are others now."""
        splits = self.components.split([field.shape[1] for field in features])
        projected = sum(field @ part for field, part in zip(features, splits, strict=True))
        assert isinstance(projected, Tensor)
        self.vectors = self.scale * F.normalize(projected, dim=-1)

    def forward(self, items: Tensor | slice) -> Tensor:
        """Vectors (m, width) of items (m,)."""
        return self.vectors[items]

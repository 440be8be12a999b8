"""Items like an item: the nearest by the angle between vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nestrec_recbole.layers.products import inner_products

ELEMENTS = 1 << 24  # of similarities held at once


def nearest(vectors: Tensor, items: Tensor, k: int, forbidden: Tensor) -> tuple[Tensor, Tensor]:
    """The ``k`` items of largest cosine similarity to each of some items, best first; fewer where there are no more.

    Parameters
    ----------
    vectors : Tensor (n_items, d)
        A vector of zeros is like nothing.
    items : Tensor (m,), int64
    k : int
    forbidden : Tensor (n_items,), bool
        Items that are not listed; an item is not listed beside itself either.

    Returns
    -------
    similarities : Tensor (m, k)
        -inf where there was no item left.
    neighbours : Tensor (m, k), int64
    """
    unit = F.normalize(vectors, dim=1)
    found = [
        _nearest(unit, part, min(k, len(vectors) - 1), forbidden)
        for part in items.split(max(1, ELEMENTS // max(1, len(vectors))))
    ]
    values, neighbours = zip(*found, strict=True) if found else ((), ())
    empty = torch.empty(0, min(k, len(vectors) - 1))
    return torch.cat([empty, *values]), torch.cat([empty.long(), *neighbours])


def _nearest(unit: Tensor, items: Tensor, k: int, forbidden: Tensor) -> tuple[Tensor, Tensor]:
    similarity = inner_products(unit[items], unit)
    similarity[:, forbidden] = -torch.inf
    similarity[torch.arange(len(items)), items] = -torch.inf
    best = similarity.topk(k)
    return best.values, best.indices

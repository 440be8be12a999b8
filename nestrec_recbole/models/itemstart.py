"""What the vectors of item ids are before any training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nestrec_recbole.data.cooccurrence import cooccurrence_vectors

STARTS = ("random", "cooccurrence")


@torch.no_grad()
def start_items(weight: Tensor, config: Any, dataset: Any, std: float = 0.02) -> None:
    """Draw vectors (n_items, d) from N(0, std^2); the padding item's is zero.

    With ``item_start: cooccurrence`` each has that of :func:`.cooccurrence_vectors` added, of a random vector's length:
    what is taken with the same items is alike from the first step.
    """
    weight.normal_(std=std)
    if config["item_start"] == "cooccurrence":
        width = weight.shape[1]
        vectors = torch.from_numpy(cooccurrence_vectors(dataset, width, config["seed"]))
        weight += std * width**0.5 * vectors.to(weight)
    weight[0] = 0


def in_basis_of(trained: Tensor, start: Tensor, rows: Tensor) -> Tensor:
    """Rows (m, d) that lie in the space of ``start`` (n, d), in that of ``trained``, the same n items after training.

    They are turned by the rotation that brings the one nearest to the other (orthogonal Procrustes, Schonemann 1966),
    and lengthened as those were.
    """
    left, _, right = torch.linalg.svd(start.T @ trained)
    return rows @ (left @ right) * (trained.norm() / start.norm())

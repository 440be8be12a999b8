"""Which items a loss takes for negatives, and which it must not."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Distribution = Literal["uniform", "popularity", "inverse_popularity"]


class NegativeSampler(nn.Module):
    r"""Draws item ids with replacement from :math:`Q(i) \propto \max(n_i, 1)^{\pm\alpha}`, never the padding id 0.

    Parameters
    ----------
    counts : Tensor (N,)
        Interactions per item id in the training data; entry 0, the padding, is not looked at.
    distribution : {"uniform", "popularity", "inverse_popularity"}
        Uniform is popularity with alpha 0, inverse popularity that with -alpha: what is rare is drawn most.
    alpha : float
        Exponent of popularity (0.75 in Mikolov et al. 2013).
    hidden : Tensor (N,), bool, optional
        Items that are never drawn.

    Attributes
    ----------
    log_q : Tensor (N,), float32
        Log-probability of each item in one draw, -inf for the padding.

    Raises
    ------
    ValueError
        If `distribution` is none of the above.
    """

    log_q: Tensor
    cumulative: Tensor

    def __init__(
        self,
        counts: Tensor,
        distribution: Distribution,
        alpha: float = 1.0,
        hidden: Tensor | None = None,
    ):
        super().__init__()
        exponents = {"uniform": 0.0, "popularity": alpha, "inverse_popularity": -alpha}
        if distribution not in exponents:
            raise ValueError(f"distribution must be one of {', '.join(exponents)}, not {distribution!r}")
        weights = counts.double().clamp(min=1.0) ** exponents[distribution]
        weights[0] = 0.0
        if hidden is not None:
            weights[hidden] = 0.0
        cumulative = weights.cumsum(0)
        self.register_buffer("cumulative", cumulative / cumulative[-1], persistent=False)  # float64: N may be 10^6
        self.register_buffer("log_q", (weights / weights.sum()).log().float(), persistent=False)

    def forward(self, n_negatives: int) -> Tensor:
        """Draw ids (n_negatives,), int64, on the sampler's device."""
        uniform = torch.rand(n_negatives, dtype=self.cumulative.dtype, device=self.cumulative.device)
        return torch.searchsorted(self.cumulative, uniform, right=True)


def log_inclusion(q: Tensor, n_draws: int) -> Tensor:
    r"""Log-probability of each item (N,) being among draws with replacement: :math:`\log(1 - (1 - q_i)^n)`, float32."""
    return (-torch.expm1(n_draws * torch.log1p(-q.double()))).log().float()


class KnownPairs(nn.Module):
    """Which (user, item) pairs are in the training data; 8 bytes each.

    Parameters
    ----------
    users, items : Tensor (n,), int64
    n_items : int
        Above every item id.
    """

    keys: Tensor

    def __init__(self, users: Tensor, items: Tensor, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        self.register_buffer("keys", (users * n_items + items).unique(), persistent=False)  # sorted

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return (P, K), bool: whether users (P,) have taken items (P, K)."""
        keys = users[:, None] * self.n_items + items
        place = torch.searchsorted(self.keys, keys).clamp_(max=len(self.keys) - 1)
        return self.keys[place] == keys


def in_batch_negatives(targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the batch's distinct targets as negatives, and the log-probability of each item being among them.

    Targets count as drawn by popularity, :math:`q_i = n_i / \sum n`.

    Parameters
    ----------
    targets : Tensor (P,), int64
    counts : Tensor (N,)
        Interactions per item id in the training data; those below one count as one, entry 0 is not looked at.

    Returns
    -------
    negatives : Tensor (K,), int64
        K <= P distinct ids.
    log_q : Tensor (N,), float32
        -inf for the padding id 0.
    """
    weights = counts.double().clamp(min=1.0)
    weights[0] = 0.0
    return targets.unique(), log_inclusion(weights / weights.sum(), len(targets))


def is_among(negatives: Tensor, ids: Tensor) -> Tensor:
    """Return (P, K): whether negative k of (K,) is one of row p of ids (P, m). Memory P x (K + m), not P x K x m."""
    ordered = negatives.sort().values
    column = torch.searchsorted(ordered, ids).clamp_(max=len(ordered) - 1)  # first of its equals
    column = torch.where(ordered[column] == ids, column, len(ordered))  # (P, m); not there: one column too many
    hit = torch.zeros(len(ids), len(ordered) + 1, dtype=torch.bool, device=ids.device).scatter_(1, column, True)
    return hit[:, torch.searchsorted(ordered, negatives)]


@torch.no_grad()
def near_duplicates(features: Tensor, threshold: float, most: int = 8, chunk_elements: int = 2**24) -> Tensor:
    """For each item the items that are all but the same: other sizes, other editions, listed twice.

    Taken for negatives they would teach a model to tell apart what the user cannot.

    Parameters
    ----------
    features : Tensor (N, d)
        Row 0, the padding item, and rows of zeros have no duplicates.
    threshold : float
        Smallest cosine of two near-duplicates.
    most : int
        Duplicates kept per item, the nearest first.
    chunk_elements : int
        Most cosines held at a time, at least N.

    Returns
    -------
    Tensor (N, most), int64
        Item ids, padded with 0.
    """
    unit = F.normalize(features.float(), dim=-1)
    unit[0] = 0.0
    most = min(most, len(unit))
    found = torch.zeros(len(unit), most, dtype=torch.int64, device=unit.device)
    rows = max(1, chunk_elements // len(unit))
    for start in range(0, len(unit), rows):
        cosines = unit[start : start + rows] @ unit.T
        own = torch.arange(start, start + len(cosines), device=unit.device)
        cosines[own - start, own] = -math.inf
        nearest = cosines.topk(most)
        found[start : start + rows] = torch.where(nearest.values >= threshold, nearest.indices, 0)
    return found

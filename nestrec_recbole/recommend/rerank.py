"""Lists that are not ten times the same: greedy re-ranking by relevance, likeness and novelty, all users at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nestrec_recbole.data.content import COMPARABLE, item_content
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.encode.unseen import UnseenField
from nestrec_recbole.errors import NestRecError

CANDIDATES = 100  # of each user, that a list is chosen from
ELEMENTS = 1 << 24  # of the candidates' features, held at once


def chooser(
    diversity: float, novelty: float, features: Callable[[], Tensor], information: Callable[[], Tensor]
) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """Build what takes scores (B, n_items) and k to the scores and ids (B, k) of the items to recommend, in order.

    Parameters
    ----------
    diversity, novelty : float
        See :func:`rerank`.
    features, information : callable
        Give :func:`item_features` and :func:`item_information`; asked only for what a weight needs.

    Raises
    ------
    NestRecError
        When a weight is below 0, or both are above 1 together.
    """
    if not (diversity >= 0 and novelty >= 0 and diversity + novelty <= 1):  # nor where one is NaN
        raise NestRecError(f"diversity {diversity} and novelty {novelty}: expected at least 0, together at most 1")
    if not diversity and not novelty:
        return _best
    vectors = features() if diversity else None
    bits = information() if novelty else None

    def choose(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        best, items = scores.topk(min(max(CANDIDATES, k), scores.shape[1] - 1))
        n_items = scores.shape[1]
        known = scores.new_zeros(n_items, 1) if vectors is None else vectors
        informs = scores.new_zeros(n_items) if bits is None else bits
        users = max(1, ELEMENTS // (items.shape[1] * known.shape[1]))
        parts = zip(best.split(users), items.split(users), strict=True)
        chosen = [rerank(*part, known, informs, k, diversity, novelty) for part in parts]
        places = torch.cat(chosen) if chosen else items[:, :k]
        return best.gather(1, places), items.gather(1, places)

    return choose


def item_features(model: Any, dataset: Any, added: Sequence[Sequence[UnseenField]] = ()) -> Tensor:
    """What items are compared by, their text and images where the model reads some, else its vectors: (n_items, f).

    Parameters
    ----------
    model : nestrec_recbole.models.base.SequenceModel
    dataset : nestrec_recbole.data.dataset.SequenceDataset
        Of the model.
    added : sequence of sequences of UnseenField
        Items that the model was given after training, each time with all of its fields: they come last.

    Raises
    ------
    NestRecError
        When there is nothing to compare items by.
    """
    _require_ours(dataset)
    fields = dataset.item_fields()
    if any(field.modality in COMPARABLE for field in fields):
        both = [[replace(f, values=new.values) for f, new in zip(fields, one, strict=True)] for one in added]
        return torch.from_numpy(np.concatenate([item_content(part) for part in (fields, *both)]))
    if not hasattr(model, "item_table"):
        raise NestRecError(
            f"{type(model).__name__} has no vectors of items, and its dataset no text or image to compare"
        )
    n_added = sum(len(one[0].mask) for one in added)
    return model.item_table()[: dataset.item_num + n_added].detach().float().cpu()


def item_information(dataset: Any) -> Tensor:
    """Bits that an item's name conveys, by how often it is in the training data: (n_items,)."""
    _require_ours(dataset)
    counts = torch.from_numpy(dataset.build()[0].item_counts()).clamp(min=1).double()
    return (counts.sum().log2() - counts.log2()).float()


def _require_ours(dataset: Any) -> None:
    if not isinstance(dataset, SequenceDataset):
        raise NestRecError("diversity and novelty need a checkpoint of this package; train the model with `nestrec`")


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = scores.topk(k)
    return best.values, best.indices


def rerank(
    scores: Tensor, items: Tensor, features: Tensor, information: Tensor, k: int, diversity: float, novelty: float
) -> Tensor:
    r"""Choose k of each user's candidates one by one, by maximal marginal relevance (Carbonell & Goldstein 1998).

    .. math:: \arg\max_i \; (1 - d - n) \, r_i + n \, h_i - d \max_{j \text{ chosen}} \cos(x_i, x_j)

    with relevance r and self-information h scaled to 0..1 among the user's candidates.

    Parameters
    ----------
    scores : Tensor (B, C)
        -inf where a candidate may not be chosen.
    items : Tensor (B, C), int64
        The candidates.
    features : Tensor (n_items, f)
        What items are compared by; an item without features, all zero, is like no other.
    information : Tensor (n_items,)
        Bits that an item's name conveys: what few have taken has many.
    k : int
        At most C.
    diversity, novelty : float
        d and n, from 0, together at most 1.

    Returns
    -------
    Tensor (B, k), int64
        Places among the candidates, in the order in which they were chosen.
    """
    allowed = scores > -torch.inf
    value = (1 - diversity - novelty) * _scaled(scores, allowed) + novelty * _scaled(information[items], allowed)
    unit = F.normalize(features[items], dim=-1)  # (B, C, f)
    # A candidate that may not be chosen comes after all others, one that has been chosen not again.
    value = value.masked_fill(~allowed, -1e9)
    likeness = torch.full_like(value, -1.0 if diversity else 0.0)
    chosen = torch.empty(len(items), k, dtype=torch.int64, device=items.device)
    for place in range(k):
        best = (value - diversity * likeness).argmax(dim=1, keepdim=True)
        chosen[:, place] = best[:, 0]
        value = value.scatter(1, best, -torch.inf)
        if diversity:
            last = unit.take_along_dim(best[..., None], dim=1)  # (B, 1, f)
            likeness = torch.maximum(likeness, (unit * last).sum(dim=-1))
    return chosen


def _scaled(values: Tensor, allowed: Tensor) -> Tensor:
    """Scale each row to 0..1 over what is allowed; a row of equals is 0."""
    low = values.masked_fill(~allowed, torch.inf).amin(dim=1, keepdim=True)
    high = values.masked_fill(~allowed, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(allowed, (values - low) / (high - low).clamp(min=1e-12), 0.0)

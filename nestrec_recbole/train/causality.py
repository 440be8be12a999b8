"""Does a model look ahead? Asked once before it trains: a leak makes a training look good and its ranking bad."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.models.base import SequenceModel

ROWS = 8


@torch.no_grad()
def refuse_looking_ahead(model: Any, dataset: Any) -> None:
    """Change the last item of some histories: no state before it may change.

    Models of this package are not asked, nor those with a loss of their own: a masked objective looks both ways.

    Parameters
    ----------
    model : nestrec_recbole.models.base.SequenceModel
    dataset : nestrec_recbole.data.dataset.SequenceDataset
        The training split.

    Raises
    ------
    NestRecError
        When a state of ``encode`` depends on an item after it.
    """
    if type(model).__module__.startswith("nestrec_recbole.") or not hasattr(dataset, "histories"):
        return  # of our models tests say so; RecBole's own dataset writes its rows otherwise
    if any(getattr(type(model), name) is not getattr(SequenceModel, name) for name in ("calculate_loss", "_loss")):
        return  # a loss of its own may hide items from a model that looks both ways
    longest = np.argsort(dataset.ends - dataset.starts, kind="stable")[-ROWS:]
    batch = dataset.histories(np.sort(longest)).to(model.device)
    items, lengths = batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN]
    rows, last = torch.arange(len(items), device=items.device), lengths - 1
    other = items.clone()
    other[rows, last] = items[rows, last] % (model.n_items - 1) + 1  # the next item, the first after the last
    was_training = model.training
    model.eval()
    before = model.encode(batch)
    if before.dim() != 3 or before.shape[:2] != items.shape:
        raise NestRecError(
            f"{type(model).__name__}.encode() gives states of shape {tuple(before.shape)} for histories of shape "
            f"{tuple(items.shape)}; expected {(*items.shape, 'd')}: one for each step"
        )
    batch.interaction[model.ITEM_SEQ] = other
    after = model.encode(batch)
    model.train(was_training)
    steps = torch.arange(items.shape[1], device=items.device)
    earlier = steps < last[:, None]
    largest = before[earlier].abs().amax() if earlier.any() else before.new_zeros(())
    same = (before - after).abs().amax(dim=-1) <= 1e-4 * largest.clamp(min=1e-6)  # never where one is NaN
    changed = ~same & earlier
    if changed.any():
        row, step = changed.nonzero()[0].tolist()
        raise NestRecError(
            f"{type(model).__name__}.encode(): state {step + 1} changes with item {int(lengths[row])} of a history; "
            "state t may depend on items 1..t only, else it sees its own target"
        )

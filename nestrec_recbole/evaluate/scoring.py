"""Scores of the whole catalogue from models of RecBole's that do not give them, or not from a history alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import ModelType
from torch import Tensor

from nestrec_recbole.data.dataset import SequenceDataset

PAIRS = 1 << 15  # scored at once


def catalogue_scores(model: Any, dataset: SequenceDataset, config: Any) -> Callable[[Any], Tensor]:
    """A function from B rows of a split to scores (B, n_items), or flattened, for any model of RecBole's.

    A model that only scores pairs of user and item is given every pair, which takes accordingly long.

    Parameters
    ----------
    model : recbole.model.abstract_recommender.AbstractRecommender
    dataset : SequenceDataset
        Has the features of users and items, where the model reads any.
    config : recbole.config.Config
    """
    score: Callable[[Any], Tensor] = model.full_sort_predict
    if type(model).full_sort_predict is AbstractRecommender.full_sort_predict:
        return _PairScores(model, dataset)
    if config["transform"] != "inverse_itemseq":  # the others are for training: their columns are not read here
        return score
    transform = construct_transform(config)
    return lambda interaction: score(transform(dataset, interaction))


class _PairScores:
    """Scores of every item by ``predict``, which sees nothing of the target: users, histories and candidates only."""

    def __init__(self, model: Any, dataset: SequenceDataset) -> None:
        self.model, self.dataset = model, dataset
        self.items = dataset.get_item_feature()
        self.lists = dataset.config["LIST_SUFFIX"], dataset.item_list_length_field

    def __call__(self, interaction: Any) -> Tensor:
        fields = interaction.interaction
        kept = [self.dataset.uid_field]
        if self.model.type == ModelType.SEQUENTIAL:
            kept += [name for name in fields if name.endswith(self.lists)]
        rows = Interaction({name: fields[name].cpu() for name in kept})
        if self.dataset.user_feat is not None:
            rows.update(self.dataset.user_feat[rows[self.dataset.uid_field]])
        n_items, at_once = len(self.items), max(1, PAIRS // len(self.items))
        scores = [self._of(rows[at : at + at_once]) for at in range(0, len(rows), at_once)]
        return torch.cat(scores).view(len(rows), n_items)

    def _of(self, rows: Any) -> Tensor:
        pairs = rows.repeat_interleave(len(self.items))
        pairs.update(self.items.repeat(len(rows)))
        parts = [pairs[at : at + PAIRS].to(self.model.device) for at in range(0, len(pairs), PAIRS)]
        return torch.cat([self.model.predict(part).reshape(-1) for part in parts])

"""The training interactions of a split as RecBole's general models want them: a row each, without a history."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.data.interaction import Interaction

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.variants import users_by_time


def flat_dataset(split: SequenceDataset) -> Dataset:
    """RecBole's own dataset of what a split may be trained on: its targets, and each user's first item.

    Parameters
    ----------
    split : SequenceDataset
        The training part of :meth:`SequenceDataset.build`; ids of users and items stay as they are there.

    Returns
    -------
    recbole.data.dataset.Dataset
        RecBole's ``KnowledgeBasedDataset`` where the split has a knowledge graph. ``inter_matrix``,
        ``history_item_matrix`` and the other methods of RecBole's mean what they mean there; its rows are in the order
        in which RecBole's own split leaves them.
    """
    kind = KnowledgeBasedDataset if isinstance(split, KnowledgeBasedDataset) else Dataset
    flat = kind.__new__(kind)
    lists = {field + split.config["LIST_SUFFIX"] for field in (split.iid_field, *split.columns)}
    lists.add(split.item_list_length_field)
    vars(flat).update({name: _without(value, lists) for name, value in vars(split).items()})
    places, (users, items) = split.rows.training_positions(), split.interactions()
    if split.times is not None:
        order = users_by_time(users, split.times[places])
        places, users, items = places[order], users[order], items[order]
    ids = {split.uid_field: torch.from_numpy(users), split.iid_field: torch.from_numpy(items)}
    flat.inter_feat = Interaction(
        ids | {name: torch.from_numpy(column[places]) for name, column in split.columns.items()}
    )
    return flat


def _without(value: Any, fields: set[str]) -> Any:
    """A copy of a table by field that names no field of histories; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {key: held for key, held in value.items() if key not in fields}

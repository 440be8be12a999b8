"""Sequences as some of RecBole's models want them: with a knowledge graph or negatives, in its order, written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import recbole.data.dataset
from recbole.data.dataset import KnowledgeBasedDataset
from recbole.utils import ModelType

from nestrec_recbole.data.dataset import SequenceDataset

_READS_WRITTEN_ROWS = ("FEARec",)  # looks histories up in the training split's table


class KnowledgeSequences(SequenceDataset, KnowledgeBasedDataset):
    """With a knowledge graph; as in RecBole, interactions with items that it does not know are left out."""


class DIENSequences(SequenceDataset):
    """With an item beside each interaction that is not its own, for DIEN's auxiliary loss."""

    def _index_interactions(self, table: pd.DataFrame) -> None:
        super()._index_interactions(table)
        random = np.random.default_rng(self.config["seed"])
        shift = random.integers(1, self.item_num - 1, len(self.items))  # never a whole turn: never the item itself
        negatives = (self.items.astype(np.int64) - 1 + shift) % (self.item_num - 1) + 1
        self.columns[self.config["NEG_PREFIX"] + self.iid_field] = negatives


def sequences_for(config: Any) -> SequenceDataset:
    """The sequences of a config's dataset, in the variant that its model of RecBole's wants."""
    custom = getattr(recbole.data.dataset, config["model"] + "Dataset", SequenceDataset)
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE or issubclass(custom, KnowledgeBasedDataset):
        return KnowledgeSequences(config)
    return (DIENSequences if config["model"] == "DIEN" else SequenceDataset)(config)


def write_rows_out(split: SequenceDataset, model: str) -> None:
    """Write the rows of a split out as RecBole does, for a model that reads them as one table."""
    if model in _READS_WRITTEN_ROWS:
        split._split_feat = split.histories(np.arange(len(split)))


def in_recboles_order(split: SequenceDataset) -> SequenceDataset:
    """The same rows in the order in which RecBole's split leaves them, so that one seed shuffles them alike."""
    if split.times is None:
        return split
    return split.select(users_by_time(split.users, split.times[split.ends]))


def users_by_time(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Places (n,) of rows sorted by (user, time) with the users in the order of their first time."""
    first = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    counts = np.diff(np.r_[first, len(users)])
    return np.lexsort((users, np.repeat(times[first], counts)))

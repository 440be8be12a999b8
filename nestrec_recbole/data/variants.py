"""Sequences with what some of RecBole's models want besides: a knowledge graph, negative histories, written rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import recbole.data.dataset
import torch
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
        self.columns[self.config["NEG_PREFIX"] + self.iid_field] = torch.from_numpy(negatives)


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

"""FastSASRec: an id-only causal transformer, the yardstick for everything that adds content."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nestrec_recbole.layers.transformer import CausalTransformer
from nestrec_recbole.models.base import SequenceModel


class FastSASRec(SequenceModel):
    """SASRec (Kang & McAuley, 2018) with pre-norm blocks, trained at every position against the whole catalogue.

    The item table is tied to the input embeddings. Klenitskiy & Vasilev (2023) show that the softmax over the whole
    catalogue, not BPR with one negative, is what makes SASRec strong.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        width = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, width, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, width)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        self.transformer = CausalTransformer(
            width, config["n_layers"], config["n_heads"], config["inner_size"], config["hidden_dropout_prob"]
        )
        for table in (self.item_embedding, self.position_embedding):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0

    def item_table(self) -> Tensor:
        return self.item_embedding.weight

    def encode(self, batch: Any) -> Tensor:
        history = batch[self.ITEM_SEQ]  # (B, T)
        places = torch.arange(history.shape[1], device=history.device)
        vectors = self.item_embedding(history) + self.position_embedding(places)  # (B, T, d)
        return self.transformer(self.dropout(vectors))

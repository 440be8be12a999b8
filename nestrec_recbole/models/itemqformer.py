"""ItemQFormer: the first storey of the nested stack, and a recommender of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nestrec_recbole.layers.dropout import Dropout
from nestrec_recbole.layers.fields import FieldTokens, with_rows
from nestrec_recbole.layers.qformer import QFormer
from nestrec_recbole.layers.recency import RecencyMean
from nestrec_recbole.models.base import SequenceModel


class ItemQFormer(SequenceModel):
    """Learned queries read an item's fields into ``q`` item tokens; an item is the mean of its tokens.

    Field embeddings (text, numbers, ...) are frozen features; missing fields are masked. A token is what the fields add
    to a query that has read none: what is common to all items would drown what tells them apart. An
    optional id embedding is added and dropped at random in training, so that items without a history still rank by
    content.
    As a recommender, the state of a history is a recency-weighted mean of its items, with a learned decay.

    Source: the Item Q-Former of UniRec (arXiv:2601.19423), after BLIP-2's Q-Former (Li et al., 2023).
    """

    needs_item_fields = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        width = self.width = config["hidden_size"]
        fields = dataset.item_fields()
        self.fields = FieldTokens(
            [f.values for f in fields],
            [f.mask for f in fields],
            [f.modality for f in fields],
            width,
            [f.views for f in fields],
        )
        self.item_qformer = QFormer(
            width=width,
            depth=config["item_layers"],
            heads=config["n_heads"],
            inner_width=config["inner_size"],
            encoder_width=width,
            cross_attention_frequency=config["item_cross_attention_frequency"],
            n_queries=config["item_queries"],
            dropout=config["qformer_dropout_prob"],
        )
        self.to_token = nn.Linear(width, width)
        nn.init.normal_(self.to_token.weight, std=0.02)
        self.id_embedding = nn.Embedding(self.n_items, width, padding_idx=0) if config["use_ids"] else None
        if self.id_embedding is not None:
            nn.init.normal_(self.id_embedding.weight, std=0.02)
            with torch.no_grad():
                self.id_embedding.weight[0] = 0
        self.id_dropout = config["id_dropout_prob"]
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self.recent_mean = RecencyMean()
        self._build_state(config)

    def _build_state(self, config: Any) -> None:
        """The layers between item tokens and states; each storey above has its own."""
        self.norm = nn.LayerNorm(self.width)
        self.to_state = nn.Linear(self.width, self.width)
        nn.init.eye_(self.to_state.weight)

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        self.fields.add_items(values, masks)
        if self.id_embedding is not None:
            self.id_embedding = with_rows(self.id_embedding, len(masks[0]))
        self.forget()

    def item_tokens(self) -> Tensor:
        """Tokens of every item: (n_items, q, width). Computed once per training step or evaluation."""
        return self.remember("item_tokens", self._compute_item_tokens)

    def _compute_item_tokens(self) -> Tensor:
        memory, mask = self.fields()
        without = self.item_qformer(memory[:1], torch.zeros_like(mask[:1]))  # the queries, having read nothing
        tokens = self.to_token(self.item_qformer(memory, mask) - without)
        if self.id_embedding is None:
            return tokens
        ids = self.id_embedding.weight
        if self.training and self.id_dropout:
            keep = torch.rand(len(ids), 1, device=ids.device) >= self.id_dropout
            ids = ids * keep
        return tokens + ids[:, None]

    def item_table(self) -> Tensor:
        return self.item_tokens().mean(dim=1)

    def encode(self, batch: Any) -> Tensor:
        vectors = self.dropout(self.item_table()[batch[self.ITEM_SEQ]])  # (B, T, d)
        return self.to_state(self.norm(self.recent_mean(vectors)))

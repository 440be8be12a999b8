"""GatedFusionRec: an item's content and its id, mixed by a gate that reads the content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.layers.dropout import Dropout
from nestrec_recbole.layers.fields import ALL, FieldSum
from nestrec_recbole.layers.id_gate import IdGate
from nestrec_recbole.layers.ids import ItemIds
from nestrec_recbole.layers.transformer import BidirectionalTransformer, CausalTransformer
from nestrec_recbole.layers.unit import unit
from nestrec_recbole.models.base import SequenceModel, item_counts
from nestrec_recbole.models.fastsasrec import build_recency
from nestrec_recbole.models.itemstart import start_items


class GatedFusionRec(SequenceModel):
    """Frozen field embeddings are summed to an item's content; a gate mixes it with the id; a transformer reads on.

    The content m is the sum of the fields that are there, of unit length. With ``g = sigmoid(MLP(m))`` an item is
    ``LayerNorm((1 - g) * m + g * id)``. An id counts where the item has a history in the training data; in training it
    is dropped at random, so that items without one rank by their content.

    Source: https://github.com/JANZeee/Generative-Multimodal-RecSys, which sums CLIP's image and text embeddings.
    ``preset: original`` is that model on this package's data: one target per history, a transformer that sees all of
    it, and targets of content only, told apart within the batch.
    """

    needs_item_fields = True
    computes_items = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        _check(config)
        width, dropout = config["hidden_size"], config["hidden_dropout_prob"]
        fields, in_training = dataset.item_fields(), item_counts(dataset) > 0
        self.fields = FieldSum(
            [f.values for f in fields],
            [f.mask for f in fields],
            width,
            [f.views for f in fields],
            config["raw_fields"],
            in_training.numpy(),
        )
        self.gate = IdGate(width) if config["use_ids"] else None
        self.id_embedding = ItemIds(in_training, width, config["id_dropout_prob"]) if config["use_ids"] else None
        self.norm = nn.LayerNorm(width)
        self.position_embedding = nn.Embedding(self.max_seq_length, width)
        self.dropout = Dropout(dropout)
        shape = (width, config["n_layers"], config["n_heads"], config["inner_size"], dropout)
        self.transformer = (BidirectionalTransformer if config["bidirectional"] else CausalTransformer)(*shape)
        self.ranks_content, self.cosine = config["item_table"] == "content", config["cosine"]
        self.recency = build_recency(config)
        if self.id_embedding is not None:
            start_items(self.id_embedding.weight, config, dataset)
        nn.init.normal_(self.position_embedding.weight, std=0.02)

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """As the base's: new items are their content alone."""
        self.fields.add_items(values, masks)
        if self.id_embedding is not None:
            self.id_embedding.add_items(len(masks[0]))
        self.forget()

    def content(self, items: Tensor | None = None) -> Tensor:
        """What the fields say of items (m,), or of all: (m, d), of length 1, or 0 where an item has none."""
        return self.remember("content", lambda: self.fields(ALL if items is None else items), items)

    def items(self, items: Tensor | None = None) -> Tensor:
        """Content and id of items (m,), or of all, in one: (m, d)."""
        return self.remember("items", lambda: self._fuse(items), items)

    def _fuse(self, items: Tensor | None) -> Tensor:
        content = self.content(items)
        if self.gate is None or self.id_embedding is None:
            return self.norm(content)
        return self.norm(self.gate(content, *self.id_embedding(items)))

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """As the base's: content and id, or content alone where ``item_table: content`` says so."""
        return self.content(items) if self.ranks_content else self._scaled(self.items(items))

    def encode(self, batch: Any) -> Tensor:
        """As the base's; but with ``bidirectional`` every state depends on the whole history."""
        return self._states(batch)

    def last_states(self, batch: Any) -> Tensor:
        """As the base's; of a causal transformer no others are computed where these do not depend on them."""
        if isinstance(self.transformer, BidirectionalTransformer):
            return super().last_states(batch)
        return self._states(batch, batch[self.ITEM_SEQ_LEN] - 1)[:, 0]

    def _states(self, batch: Any, at: Tensor | None = None) -> Tensor:
        """The states (B, T, d) of all steps, or those (B, 1, d) of the steps ``at`` (B,)."""
        history = batch[self.ITEM_SEQ]
        items = self.items(self.catalogue.items)[self.catalogue.row_of(history)]  # (B, T, d)
        vectors = self.dropout(items + self.position_embedding.weight[: history.shape[1]])
        if isinstance(self.transformer, BidirectionalTransformer):
            return self._scaled(self.transformer(vectors, history > 0))
        states = self._scaled(self.transformer(vectors, at=at))
        return states if self.recency is None else self.recency(states, items, at)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.cosine else vectors


def _check(config: Any) -> None:
    if config["hidden_size"] < 4:
        raise NestRecError(f"hidden_size is {config['hidden_size']}; the gate needs a whole number from 4")
    if config["bidirectional"] and config["targets"] != "last":
        raise NestRecError("bidirectional: True would show every position its own target; set `targets: last`")
    if config["bidirectional"] and config["recency_scale"]:
        raise NestRecError("recency_scale has no effect on a bidirectional transformer; set it to 0.0")

"""FastSASRec: an id-only causal transformer, the yardstick for everything that adds content."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nestrec_recbole.layers.dropout import Dropout
from nestrec_recbole.layers.ids import rows_of
from nestrec_recbole.layers.recency import RecencyResidual
from nestrec_recbole.layers.transformer import CausalTransformer
from nestrec_recbole.layers.unit import unit
from nestrec_recbole.models.base import SequenceModel
from nestrec_recbole.models.itemstart import start_items


class FastSASRec(SequenceModel):
    """SASRec (Kang & McAuley, 2018) with pre-norm blocks, trained at every position against the whole catalogue.

    The item table is tied to the input embeddings. Klenitskiy & Vasilev (2023) show that the softmax over the whole
    catalogue, not BPR with one negative, is what makes SASRec strong. ``activation: swiglu`` with ``residual: gated``
    are the LiGR blocks of eSASRec (Tikhonovich et al., 2025); ``cosine: True`` with a temperature of about 0.05 scores
    by direction alone. With ``recency_scale`` a state is the transformer's plus the recency-weighted mean of the items
    that it has read, so that what goes together is learned first: better where seen items are left out (F), worse where
    they are ranked too.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        width = config["hidden_size"]
        self.item_embedding = nn.Embedding(self.n_items, width, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length, width) if config["use_positions"] else None
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self.transformer = build_transformer(config)
        self.cosine = self.computes_items = config["cosine"]  # else rows of the table are there already
        self.recency = build_recency(config)
        start_items(self.item_embedding.weight, config, dataset)
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=0.02)

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """As the base's: the input embeddings, of unit length with ``cosine``."""
        return self._scaled(rows_of(self.item_embedding.weight, items))

    def encode(self, batch: Any) -> Tensor:
        """As the base's; of unit length with ``cosine``."""
        return self._states(batch)

    def last_states(self, batch: Any) -> Tensor:
        """As the base's; other states are computed only where these depend on them."""
        return self._states(batch, batch[self.ITEM_SEQ_LEN] - 1)[:, 0]

    def _states(self, batch: Any, at: Tensor | None = None) -> Tensor:
        """The states (B, T, d) of all steps, or those (B, 1, d) of the steps ``at`` (B,)."""
        items = vectors = self.item_embedding(batch[self.ITEM_SEQ])  # (B, T, d)
        if self.position_embedding is not None:
            vectors = vectors + self.position_embedding.weight[: vectors.shape[1]]
        states = self._scaled(self.transformer(self.dropout(vectors), at=at))
        return states if self.recency is None else self.recency(states, items, at)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.cosine else vectors


def build_recency(config: Any) -> RecencyResidual | None:
    """What adds the mean of the last items to the states, where ``recency_scale`` is set."""
    scale, dropout = config["recency_scale"], config["hidden_dropout_prob"]
    return RecencyResidual(config["hidden_size"], scale, dropout, config["cosine"]) if scale else None


def build_transformer(config: Any) -> CausalTransformer:
    """The blocks that a config names."""
    own = config["layer_dropout_prob"]
    return CausalTransformer(
        width=config["hidden_size"],
        depth=config["n_layers"],
        heads=config["n_heads"],
        inner_width=config["inner_size"],
        dropout=config["hidden_dropout_prob"] if own is None else own,
        attention_dropout=config["attn_dropout_prob"],
        activation=config["activation"],
        residual=config["residual"],
    )

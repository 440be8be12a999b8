"""ItemQFormer: the first level of the nested stack, and a recommender of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nestrec_recbole.data.content import warn_of_bare_items
from nestrec_recbole.data.reduction import Reduction
from nestrec_recbole.data.tokens import keep_tokens, tensors_hash
from nestrec_recbole.layers.dropout import Dropout
from nestrec_recbole.layers.fields import FieldTokens, MeanOfFields
from nestrec_recbole.layers.ids import ItemIds, rows_of
from nestrec_recbole.layers.qformer import QFormer
from nestrec_recbole.layers.recency import RecencyMean
from nestrec_recbole.layers.unit import unit
from nestrec_recbole.layers.whitened import WhitenedFields
from nestrec_recbole.models.base import SequenceModel, item_counts
from nestrec_recbole.models.fastsasrec import build_recency
from nestrec_recbole.models.itemstart import start_items

CHUNK = 32_768  # items whose activations are in memory together, where no gradient is wanted
ON_DEVICE = 1 << 32  # bytes of kept tokens that a GPU holds, at most; more stay in the file
WHITENED_BY = 100_000  # items, at most


class ItemQFormer(SequenceModel):
    """Learned queries read an item's fields into ``q`` item tokens; an item is the mean of its tokens.

    Field embeddings (text, numbers, ...) are frozen features; missing fields are masked. A token is what the fields add
    to a query that has read none: what is common to all items would drown what tells them apart. With
    ``whitened_scale`` tokens start from the whitened fields, in that length: what is alike is so from the first step,
    and Q-Former and ids learn what is left. An optional id embedding is added and dropped at random in training, so
    that items without a history still rank by content; of an item that no training interaction has, the id adds
    nothing. ``item_layers: 0`` is the plain way, one token that is the mean of the projected fields.
    As a recommender, the state of a history is a recency-weighted mean of its items, with a learned decay. ``cosine``
    and ``recency_scale`` are those of :class:`.FastSASRec`, of this model and of those above it.

    Source: the Item Q-Former of UniRec (arXiv:2601.19423), after BLIP-2's Q-Former (Li et al., 2023).
    """

    needs_item_fields = True
    computes_items = True

    def __init__(self, config: Any, dataset: Any) -> None:
        self.kept: tuple[Tensor, Tensor] | None = None  # content tokens on disk, and their means (n_items, width)
        super().__init__(config, dataset)
        width, self.n_heads = config["hidden_size"], config["n_heads"]
        self.width = width
        fields, in_training = dataset.item_fields(), item_counts(dataset) > 0
        self.fields = FieldTokens(
            [f.values for f in fields],
            [f.mask for f in fields],
            [f.modality for f in fields],
            width,
            [f.views for f in fields],
            in_training.numpy(),
        )
        if not config["use_ids"]:
            warn_of_bare_items(self.fields.mask.numpy(), dataset.field2id_token[dataset.iid_field])
        self.n_item_tokens = config["item_queries"] if config["item_layers"] else 1
        self.item_qformer = _reader(config, width) if config["item_layers"] else MeanOfFields()
        self.to_token = nn.Linear(width, width)
        nn.init.normal_(self.to_token.weight, std=0.02)
        self.whitened = self._whiten(config["whitened_scale"], in_training) if config["whitened_scale"] else None
        self.id_embedding = ItemIds(in_training, width, config["id_dropout_prob"]) if config["use_ids"] else None
        if self.id_embedding is not None:
            start_items(self.id_embedding.weight, config, dataset)
        self.dropout, self.drops = Dropout(config["hidden_dropout_prob"]), config["qformer_dropout_prob"] > 0
        self.recent_mean = RecencyMean()
        self.cosine, self.recency = config["cosine"], build_recency(config)
        self._build_state(config)

    def _build_state(self, config: Any) -> None:
        """The layers between item tokens and states; each level above has its own."""
        self.norm = nn.LayerNorm(self.width)
        self.to_state = nn.Linear(self.width, self.width)
        nn.init.eye_(self.to_state.weight)

    def _whiten(self, scale: float, in_training: Tensor) -> WhitenedFields:
        """By the items that training knows, where any of them has a field."""
        features, known = self.fields.features(), self.fields.mask.any(dim=1)
        rows = (known & in_training if (known & in_training).any() else known).nonzero()[:, 0]
        sample = torch.cat([field[rows[:: 1 + len(rows) // WHITENED_BY]] for field in features], dim=1).numpy()
        components = Reduction.fit(sample, min(self.width, sample.shape[1]), whiten=True, or_fewer=True).components
        return WhitenedFields(torch.from_numpy(components).float(), features, self.width, scale)

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """As the base's: new items are what their fields say, without an id."""
        self.kept = None
        self.fields.add_items(values, masks)
        if self.whitened is not None:
            self.whitened.read(self.fields.features())
        if self.id_embedding is not None:
            self.id_embedding.add_items(len(masks[0]))
        self.forget()

    # -- what no training changes -------------------------------------------------------------------------------

    def readers(self) -> list[nn.Module]:
        """What makes content tokens of features."""
        return [self.fields, self.item_qformer, self.to_token, *([] if self.whitened is None else [self.whitened])]

    @property
    def is_content_fixed(self) -> bool:
        """Whether nothing that makes content tokens is trained; they are then rounded to float16."""
        return not any(parameter.requires_grad for part in self.readers() for parameter in part.parameters())

    def train(self, mode: bool = True) -> ItemQFormer:
        """As torch's, but what is frozen stays as in evaluation, without dropout and altered views."""
        super().train(mode)
        for part in self.readers():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self

    @torch.no_grad()
    def keep_fixed(self, folder: Path) -> None:
        """Where all that reads fields is frozen, compute the catalogue's content tokens once.

        They go to ``<hash of weights and features>.npy`` in the folder, float16, and are mapped into memory from there,
        by every process that trains on the same. The file may be deleted when nobody does.
        """
        if not self.is_content_fixed:
            return
        parts, device = nn.ModuleList(self.readers()).eval(), self.fields.mask.device
        made_of = [*parts.named_parameters(), *parts.named_buffers(), ("heads", torch.tensor(self.n_heads))]
        path = folder / f"{tensors_hash(made_of)[:16]}.npy"
        tokens = (self._read(part) for part in torch.arange(self.n_items, device=device).split(CHUNK))
        kept = keep_tokens(path, tokens, (self.n_items, self.n_item_tokens, self.width))
        means = torch.cat([part.float().mean(dim=1) for part in kept.split(CHUNK)])
        if device.type != "cpu" and kept.nbytes <= ON_DEVICE:
            kept = kept.to(device)
        self.kept = kept, means.to(device)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As torch's; what was computed of other weights is dropped."""
        self.kept = None
        self.forget()
        found = super().load_state_dict(*args, **kwargs)
        if self.whitened is not None:
            self.whitened.read(self.fields.features())
        return found

    # -- what items are -----------------------------------------------------------------------------------------

    def content_tokens(self, items: Tensor | None = None) -> Tensor:
        """What the fields of items (m,), or of all, say: (m, q, width). In chunks where no gradient is wanted."""
        mask = self.fields.mask
        if self.kept is not None:
            tokens = self.kept[0]
            return rows_of(tokens, None if items is None else items.to(tokens.device)).to(mask.device).float()
        if torch.is_grad_enabled() and not self.is_content_fixed:
            return self._read(slice(None) if items is None else items)
        ids = torch.arange(len(mask), device=mask.device) if items is None else items
        tokens = torch.cat([self._read(part) for part in ids.split(CHUNK)])
        return tokens.half().float() if self.is_content_fixed else tokens

    def _read(self, items: Tensor | slice) -> Tensor:
        memory, mask = self.fields(items)
        without = self._without_fields(memory[:1], torch.zeros_like(mask[:1]))
        tokens = self.to_token(self.item_qformer(memory, mask) - without)
        return tokens if self.whitened is None else tokens + self.whitened(items)[:, None]

    def _without_fields(self, memory: Tensor, mask: Tensor) -> Tensor:
        """What the queries are that have read nothing: (1, q, width), without a dropout that all items would share."""
        drops = self.drops and self.item_qformer.training
        if drops:
            self.item_qformer.eval()
        found: Tensor = self.item_qformer(memory, mask)
        if drops:
            self.item_qformer.train()
        return found

    def item_ids(self, items: Tensor | None = None) -> Tensor | None:
        """What the ids of items (m,), or of all, add to their tokens: (m, width); None without ids."""
        return None if self.id_embedding is None else self.remember("ids", lambda: self._compute_item_ids(items), items)

    def _compute_item_ids(self, items: Tensor | None) -> Tensor:
        assert self.id_embedding is not None
        ids, counts = self.id_embedding(items)
        return ids * counts[:, None]

    def item_tokens(self, items: Tensor | None = None) -> Tensor:
        """Tokens of items (m,), or of all: (m, q, width). Computed once per training step or evaluation."""
        return self.remember("tokens", lambda: self._compute_item_tokens(items), items)

    def _compute_item_tokens(self, items: Tensor | None) -> Tensor:
        tokens, ids = self.content_tokens(items), self.item_ids(items)
        return tokens if ids is None else tokens + ids[:, None]

    def tokens_of(self, items: Tensor) -> Tensor:
        """Tokens of items (B, T), all of them among those that the step computes: (B, T, q, width)."""
        rows = self.catalogue.row_of(items)
        if self.kept is None:
            return self.item_tokens(self.catalogue.items)[rows]
        tokens, ids = self.content_tokens(items), self.item_ids(self.catalogue.items)
        return tokens if ids is None else tokens + ids[rows][..., None, :]

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """As the base's: the mean of an item's tokens, of unit length with ``cosine``."""
        return self.remember("table", lambda: self._compute_table(items), items)

    def _compute_table(self, items: Tensor | None) -> Tensor:
        if self.kept is None:
            return self._scaled(self.item_tokens(items).mean(dim=1))
        means, ids = rows_of(self.kept[1], items), self.item_ids(items)
        return self._scaled(means if ids is None else means + ids)

    def encode(self, batch: Any) -> Tensor:
        """As the base's: a linear map of the recency-weighted mean of the items so far."""
        rows = self.catalogue.row_of(batch[self.ITEM_SEQ])
        vectors = self.dropout(self.item_table(self.catalogue.items)[rows])  # (B, T, d)
        return self.finished(self.to_state(self.norm(self.recent_mean(vectors))), batch)

    def finished(self, states: Tensor, batch: Any) -> Tensor:
        """What ``cosine`` and ``recency_scale`` make of states (B, T, d)."""
        states = self._scaled(states)
        if self.recency is None:
            return states
        rows = self.catalogue.row_of(batch[self.ITEM_SEQ])
        return self.recency(states, self.item_table(self.catalogue.items)[rows])

    def _scaled(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.cosine else vectors


def _reader(config: Any, width: int) -> QFormer:
    """The Item Q-Former that a config describes."""
    return QFormer(
        width=width,
        depth=config["item_layers"],
        heads=config["n_heads"],
        inner_width=config["inner_size"],
        encoder_width=width,
        cross_attention_frequency=config["item_cross_attention_frequency"],
        n_queries=config["item_queries"],
        dropout=config["qformer_dropout_prob"],
        checkpointing=config["qformer_checkpointing"],
    )

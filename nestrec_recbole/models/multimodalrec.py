"""MultimodalRec: what is known of an item fused to one vector, and a network that scores pairs of user and item."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nestrec_recbole.data.domains import has_target
from nestrec_recbole.data.features import ItemField
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.layers.dropout import Dropout
from nestrec_recbole.layers.fields import ALL, BLOCK, FieldTokens
from nestrec_recbole.layers.fusion import build_fusion, masked_mean
from nestrec_recbole.layers.ids import ItemIds, rows_of
from nestrec_recbole.layers.losses import LearnableTemperature, gbce, info_nce
from nestrec_recbole.layers.negatives import KnownPairs, NegativeSampler
from nestrec_recbole.layers.pairs import PairScorer
from nestrec_recbole.layers.recency import RecencyMean
from nestrec_recbole.layers.transformer import CausalTransformer
from nestrec_recbole.layers.unit import unit
from nestrec_recbole.models.base import SequenceModel, item_counts
from nestrec_recbole.models.itemstart import start_items
from nestrec_recbole.models.objective import Drawn

ALIGNED = 1024  # items at most whose text and image are told from each other's, in a step


class MultimodalRec(SequenceModel):
    """Item fields and ids are fused (``concat gated attention cross_modal``); an MLP scores user and item.

    A user is an embedding of the id plus what the history says: the recency-weighted mean of its fused items. The id is
    dropped at random in training and zero where it was never trained, so that anybody with a history has scores.
    Trained by binary cross-entropy on sampled negatives; a contrastive loss may draw an item's text and image together.

    With ``history: True`` the same fused items feed a causal transformer instead, and are scored by inner product and
    trained by ``loss`` as in the other sequential models, so that fusions compare like with like.

    Source: a multimodal recommender built for PixelRec's data (Cheng et al. 2023, arXiv:2309.06789).
    """

    needs_item_fields = True
    computes_items = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        _check(config)
        width = self.width = config["hidden_size"]
        fields, in_training = dataset.item_fields(), item_counts(dataset) > 0
        self.read = fields_read(fields, _listed(config["modalities"]))
        fields = [fields[i] for i in self.read]
        kinds = [field.modality for field in fields]
        self.fields = None
        if fields:
            features = [f.values for f in fields], [f.mask for f in fields], kinds, width, [f.views for f in fields]
            self.fields = FieldTokens(*features, known=in_training.numpy())
        self.id_embedding = ItemIds(in_training, width, config["id_dropout_prob"]) if config["use_ids"] else None
        if self.id_embedding is not None:
            start_items(self.id_embedding.weight, config, dataset)
        tokens = [*kinds, *(["id"] if config["use_ids"] else [])]
        self.fusion = _fusion(config, tokens)
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self._build_alignment(config, kinds)
        self.scorer: PairScorer | None = None
        if config["history"]:
            self._build_history(config)
        else:
            self._build_pairs(config, dataset)

    def _build_alignment(self, config: Any, kinds: Sequence[str]) -> None:
        self.text, self.image = ([i for i, kind in enumerate(kinds) if kind == side] for side in ("text", "image"))
        self.alignment_weight = config["contrastive_weight"] if self.text and self.image else 0.0
        self.alignment_temperature = LearnableTemperature() if self.alignment_weight else None

    def _build_history(self, config: Any) -> None:
        dropout = config["hidden_dropout_prob"]
        shape = (self.width, config["n_layers"], config["n_heads"], config["inner_size"], dropout)
        self.position_embedding = _embedding(self.max_seq_length, self.width, 0.02)
        self.transformer = CausalTransformer(*shape)

    def _build_pairs(self, config: Any, dataset: Any) -> None:
        counts = item_counts(dataset)
        hidden = torch.from_numpy(dataset.hidden_items) if config["hidden_items"] else None
        self.sampler = NegativeSampler(counts, config["negatives"], config["popularity_exponent"], hidden)
        self.n_negatives = config["negatives_per_positive"]
        users, items = (torch.from_numpy(ids) for ids in dataset.interactions())
        self.known = KnownPairs(users, items, self.n_items) if config["mask_known"] else None
        # Zero, and so it stays where a user is not in the training data.
        self.user_embedding = _embedding(dataset.user_num, self.width, 0.0) if config["use_users"] else None
        if config["use_users"]:
            self.know_by_id(dataset, dataset.uid_field)
        self.user_dropout = config["user_dropout_prob"]
        self.recent_mean = RecencyMean()
        self.norm = nn.LayerNorm(self.width)
        self.to_state = nn.Linear(self.width, self.width)
        nn.init.eye_(self.to_state.weight)
        self.scorer = PairScorer(
            self.width,
            _listed(config["mlp_widths"]),
            config["mlp_activation"],
            config["mlp_norm"],
            config["mlp_dropout_prob"],
            config["mlp_init"],
            config["inner_product"],
        )

    def id_tables(self) -> dict[str, str]:
        """As the base's, and that of users."""
        known = self.scorer is not None and self.user_embedding is not None
        return super().id_tables() | ({"user_embedding.weight": self.USER_ID} if known else {})

    # -- items ------------------------------------------------------------------------------------------------------

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """As the base's, of items that have one of the fields this model reads; their ids have no say."""
        if self.fields is None:
            super().add_items(values, masks)
        else:
            if not np.any([masks[i] for i in self.read], axis=0).all():
                raise NestRecError("an item has none of the fields that this model reads (see `modalities`)")
            self.fields.add_items([values[i] for i in self.read], [masks[i] for i in self.read])
        if self.id_embedding is not None:
            self.id_embedding.add_items(len(masks[0]))
        self.forget()

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """As the base's: fields and id, fused."""
        return self.remember("fused", lambda: self._fuse(items), items)

    def _fuse(self, items: Tensor | None) -> Tensor:
        tokens, masks = [], []
        if self.fields is not None:
            tokens, masks = [self._field_tokens(items)], [rows_of(self.fields.mask, items)]
        if self.id_embedding is not None:
            ids, counts = self.id_embedding(items)
            tokens, masks = [*tokens, ids[:, None]], [*masks, counts[:, None]]
        return self.fusion(torch.cat(tokens, dim=1), torch.cat(masks, dim=1))

    def _field_tokens(self, items: Tensor | None) -> Tensor:
        """The tokens of the fields of items (m,), or of all: (m, n_fields, width)."""
        fields = self.fields
        assert fields is not None
        return self.remember("field_tokens", lambda: fields(ALL if items is None else items)[0], items)

    # -- users ------------------------------------------------------------------------------------------------------

    def encode(self, batch: Any) -> Tensor:
        """As the base's: the transformer's states with ``history``, else the mean of recent items plus the user."""
        items = self.item_table(self.catalogue.items)
        vectors = self.dropout(items[self.catalogue.row_of(batch[self.ITEM_SEQ])])  # (B, T, d)
        if self.scorer is None:
            return self.transformer(vectors + self.position_embedding.weight[: vectors.shape[1]])
        states = self.to_state(self.norm(self.recent_mean(vectors)))
        if self.user_embedding is None or self.USER_ID not in batch.interaction:
            return states
        users = self.user_embedding(batch[self.USER_ID])
        if self.training and self.user_dropout:
            users = users * (torch.rand(len(users), 1, device=users.device) >= self.user_dropout)
        return states + users[:, None]

    # -- training and scores ----------------------------------------------------------------------------------------

    def draw(self, interaction: Any) -> Drawn:
        """As the base's; of pairs, ``negatives_per_positive`` for every target."""
        if self.scorer is None:
            return super().draw(interaction)
        return self.sampler(len(self.targets(interaction)) * self.n_negatives), self.sampler.log_q

    def step_items(self, interaction: Any, drawn: Drawn) -> Tensor | None:
        """As the base's; pairs need no more than what is in the batch and what was drawn."""
        if self.scorer is None or drawn is None or not self.computes_items:
            return super().step_items(interaction, drawn)
        return self.items_of(interaction, drawn[0])

    def _loss(self, interaction: Any, drawn: Drawn) -> Tensor:
        if self.scorer is None or drawn is None:
            loss = super()._loss(interaction, drawn)
        else:
            loss = self._pair_loss(self.scorer, interaction, drawn[0])
        if not self.alignment_weight:
            return loss
        return loss + self.alignment_weight * self.alignment(self.targets(interaction))

    def _pair_loss(self, scorer: PairScorer, interaction: Any, negatives: Tensor) -> Tensor:
        """Binary cross-entropy of every target and its negatives; a negative that the user has taken does not count."""
        states, targets, rows = self.at_targets(self.encode(interaction), interaction)
        negatives = negatives.view(len(targets), -1)
        taken = negatives == targets[:, None]
        if self.known is not None:
            taken |= self.known(interaction[self.USER_ID][rows], negatives)
        items = self.catalogue.row_of(torch.cat([targets[:, None], negatives], dim=1))
        scores = scorer(states, self.item_table(self.catalogue.items), items)
        return gbce(scores[:, 0], scores[:, 1:].masked_fill(taken, -torch.inf), sampling_rate=1.0, calibration=0.0)

    def alignment(self, items: Tensor) -> Tensor:
        """Symmetric InfoNCE (Radford et al. 2021) between text and image of the items (n,) that have both."""
        assert self.fields is not None and self.alignment_temperature is not None
        items = items.unique()
        mask = self.fields.mask
        both = mask[items][:, self.text].any(dim=1) & mask[items][:, self.image].any(dim=1)
        items = items[both]
        items = items[torch.randperm(len(items), device=items.device)[:ALIGNED]]
        rows = self.catalogue.row_of(items)
        tokens, mask = self._field_tokens(self.catalogue.items)[rows], mask[items]
        text, image = (unit(masked_mean(tokens[:, side], mask[:, side])) for side in (self.text, self.image))
        if not len(items):
            return tokens.sum()
        return info_nce(text, image, items, temperature=self.alignment_temperature(), symmetric=True)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """As the base's; without ``history`` the network scores every pair."""
        if self.scorer is None:
            return super().full_sort_predict(interaction)
        return self.masked(self.scorer.catalogue(self.user_states(interaction), self.item_table()))

    def predict(self, interaction: Any) -> Tensor:
        """As the base's; without ``history`` the network scores each pair."""
        if self.scorer is None:
            return super().predict(interaction)
        items = interaction[self.ITEM_ID][:, None]
        scores = self.scorer(self.user_states(interaction), self.item_table(), items)[:, 0]
        return scores if self.rankable is None else scores.masked_fill(~self.rankable[items[:, 0]], -torch.inf)


def fields_read(fields: Sequence[ItemField], modalities: Sequence[str] | None) -> list[int]:
    """Places of the fields of these modalities (None: of all) that tell items apart; a warning names those that do not.

    Raises
    ------
    NestRecError
        When no field is of a modality that is named.
    """
    known = {field.modality for field in fields}
    missing = [str(name) for name in modalities or () if name not in known]
    if missing:
        raise NestRecError(f"modalities: {unknown('modality of item_fields', missing[0], known)}")
    wanted = [i for i, field in enumerate(fields) if modalities is None or field.modality in modalities]
    constant = [i for i in wanted if _is_constant(fields[i])]
    for i in constant:
        getLogger().warning("%s is the same for all items that have it, and is left out", fields[i].name)
    return [i for i in wanted if i not in constant]


def _is_constant(field: ItemField) -> bool:
    """Whether all items that have a field have the same; most fields differ among the first few."""
    rows = np.flatnonzero(field.mask)
    blocks = (rows[at : at + BLOCK] for at in range(0, len(rows), BLOCK))
    return all((field.values[block] == field.values[rows[0]]).all() for block in blocks)


def _fusion(config: Any, tokens: Sequence[str]) -> nn.Module:
    if not tokens:
        raise NestRecError("nothing is known of an item: use_ids is False and no item field is left; set use_ids: True")
    try:
        return build_fusion(config["fusion"], tokens, config["hidden_size"], config["n_heads"])
    except ValueError as error:
        raise NestRecError(f"fusion: {error}; change item_fields or modalities, or set fusion: attention") from None


def _embedding(n: int, width: int, std: float) -> nn.Embedding:
    embedding = nn.Embedding(n, width)
    nn.init.normal_(embedding.weight, std=std)
    return embedding


def _listed(value: Any) -> Any:
    """One value for a list of it, as RecBole lets it stand."""
    return value if value is None or isinstance(value, (list, tuple)) else [value]


def _check(config: Any) -> None:
    if min(_listed(config["mlp_widths"])) < 1:
        raise NestRecError(f"mlp_widths is {config['mlp_widths']}; expected whole numbers from 1")
    if config["history"]:
        return
    if config["loss"] != "full_softmax":
        raise NestRecError(f"loss: {config['loss']} has no effect on pairs, which BCE trains; set history: True")
    if config["seen_bias"]:
        raise NestRecError("seen_bias has no effect on pairs; set it to False, or history: True")
    if config["negatives"] == "in_batch":
        raise NestRecError("negatives: in_batch has no effect on pairs; set uniform, popularity or inverse_popularity")
    if has_target(config) and config["domain_loss"] != "all":
        raise NestRecError("pairs are trained on all domains; set domain_loss: all, or history: True")

"""UserQFormer: the second level of the nested stack, over item tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.layers.place import PlaceEmbedding
from nestrec_recbole.layers.qformer import QFormer
from nestrec_recbole.layers.time import TimeEmbedding
from nestrec_recbole.models.itemqformer import ItemQFormer


class UserQFormer(ItemQFormer):
    """At every step t, learned queries read the item tokens of steps 1..t into ``u`` user tokens.

    The queries of step t start from what the level below knows of it, the recency-weighted mean of items 1..t, and a
    user token is that mean plus what the queries read, scaled by 0.1 at first: training goes on from ItemQFormer. As a
    recommender, the state is the mean of the user tokens.

    Source: the User Q-Former of UniRec (arXiv:2601.19423), made causal so that one forward trains every position.
    """

    def _build_state(self, config: Any) -> None:
        self.position_embedding = nn.Embedding(self.max_seq_length, self.width)
        nn.init.normal_(self.position_embedding.weight, std=0.02)
        self.time_embedding = TimeEmbedding(self.width, config["times_per_second"]) if config["use_times"] else None
        self.coordinates = config["coordinates"]
        self.place_embedding = PlaceEmbedding(self.width) if self.coordinates else None
        self.user_qformer = self._build_users(config) if config["user_queries"] else None
        self._build_output(config)

    def _build_users(self, config: Any) -> QFormer:
        self.norm = nn.LayerNorm(self.width)
        self.user_scale = nn.Parameter(torch.full((self.width,), 0.1))  # LayerScale (Touvron et al. 2021)
        return QFormer(
            width=self.width,
            depth=config["user_layers"],
            heads=config["n_heads"],
            inner_width=config["inner_size"],
            encoder_width=self.width,
            cross_attention_frequency=config["user_cross_attention_frequency"],
            n_queries=config["user_queries"],
            dropout=config["qformer_dropout_prob"],
            checkpointing=config["qformer_checkpointing"],
        )

    def _build_output(self, config: Any) -> None:
        if self.user_qformer is None:
            raise NestRecError("user_queries is 0: UserQFormer has no state without user tokens; NestRec has")
        self.to_state = nn.Linear(self.width, self.width)
        nn.init.eye_(self.to_state.weight)

    def train(self, mode: bool = True) -> UserQFormer:
        """As :meth:`ItemQFormer.train`; a frozen User Q-Former too stays as in evaluation."""
        super().train(mode)
        if self.user_qformer is not None and not any(p.requires_grad for p in self.user_qformer.parameters()):
            self.user_qformer.eval()
        return self

    def history_tokens(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Item tokens (B, T, q, d) with their positions, and user tokens (B, T, u, d), u of them 0 or more."""
        history = batch[self.ITEM_SEQ]
        places = torch.arange(history.shape[1], device=history.device)
        about = self.position_embedding(places)[:, None]  # (T, 1, d)
        if self.time_embedding is not None:
            about = about + self.time_embedding(batch["exact_time_list"])[:, :, None]  # (B, T, 1, d)
        if self.place_embedding is not None:
            latitude, longitude = (batch[f"{column}_list"] for column in self.coordinates)
            about = about + self.place_embedding(latitude, longitude)[:, :, None]
        items = self.dropout(self.tokens_of(history) + about)
        if self.user_qformer is None:
            return items, items[:, :, :0]
        recent = self.norm(self.recent_mean(items.mean(dim=2)))[:, :, None]  # (B, T, 1, d)
        return items, recent + self.user_scale * self.user_qformer.forward_causal(items, recent)

    def encode(self, batch: Any) -> Tensor:
        """As the base's: a linear map of the mean of each step's user tokens."""
        _, users = self.history_tokens(batch)
        return self.finished(self.to_state(self.dropout(users.mean(dim=2))), batch)

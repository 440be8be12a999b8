"""UserPretraining: the User Q-Former learns to predict the tokens of the next item."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.models.objective import Drawn
from nestrec_recbole.models.userqformer import UserQFormer

_WITHOUT_EFFECT = {"loss": "full_softmax", "learn_temperature": False, "cosine": False, "recency_scale": 0.0}


class UserPretraining(UserQFormer):
    """UserQFormer over frozen items, trained by the mean squared error to the next item's tokens, at every position.

    The tokens are those of ``init_from``, a checkpoint of ItemPretraining; items rank by how near their tokens are to
    those predicted. For the contrastive pretext train UserQFormer itself, which tells the next item from all others.

    Source: the User Q-Former's pretext task in UniRec (arXiv:2601.19423).
    """

    ranks_by_softmax = False
    compiled = ("next_tokens",)

    def _build_output(self, config: Any) -> None:
        if self.user_qformer is None:
            raise NestRecError("user_queries is 0: UserPretraining predicts by user tokens; set it to 1 or more")
        if not config["init_from"]:
            raise NestRecError("UserPretraining predicts item tokens: set init_from to a checkpoint of ItemPretraining")
        for key, value in _WITHOUT_EFFECT.items():
            if config[key] != value:
                raise NestRecError(f"{key} has no effect on UserPretraining, which predicts tokens; leave it {value}")
        for part in (self.fields, self.item_qformer, self.to_token, self.id_embedding):
            if part is not None:
                part.requires_grad_(False)
        self.to_next = nn.Linear(self.width, self.n_item_tokens * self.width)

    def next_tokens(self, batch: Any) -> Tensor:
        """The tokens predicted at every step, side by side: (B, T, q * width)."""
        _, users = self.history_tokens(batch)
        return self.to_next(self.dropout(users.mean(dim=2)))

    def draw(self, interaction: Any) -> None:
        """Nothing: tokens are predicted, not told from others."""

    def step_items(self, interaction: Any, drawn: Drawn) -> Tensor:
        """The items of the batch: the loss looks at no others."""
        return self.items_of(interaction)

    def _loss(self, interaction: Any, drawn: Drawn) -> Tensor:
        predicted, targets, _ = self.at_targets(self.next_tokens(interaction), interaction)
        if self.counted_items is not None:
            counted = self.counted_items.to(targets.device)[targets]
            predicted, targets = predicted[counted], targets[counted]
        error = F.mse_loss(predicted, self.tokens_of(targets).flatten(1), reduction="none").mean(1)
        return error.sum() / max(1, len(error))

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """Tokens side by side, doubled, and their squared length with a minus: (n_items, q * width + 1)."""
        tokens = self.item_tokens(items).flatten(1)
        return torch.cat([2 * tokens, -tokens.square().sum(dim=1, keepdim=True)], dim=1)

    def encode(self, batch: Any) -> Tensor:
        """The tokens predicted, and a one: the product with an item is |predicted|^2 less the squared distance."""
        predicted = self.next_tokens(batch)
        return torch.cat([predicted, torch.ones_like(predicted[..., :1])], dim=-1)

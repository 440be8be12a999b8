"""ItemPretraining: the Item Q-Former learns what items are before it learns who takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.data.draws import share_of
from nestrec_recbole.layers.ids import rows_of
from nestrec_recbole.models.itemqformer import ItemQFormer
from nestrec_recbole.models.objective import Drawn


class ItemPretraining(ItemQFormer):
    """ItemQFormer without ids, whose tokens must also say what the item's fields were.

    The loss is ItemQFormer's own, items that follow each other in a training history are alike, plus the mean squared
    error of every field read back from the item's tokens (features are standardised: guessing the mean costs 1). Some
    items are held out (by their tokens and ``hidden_seed``), with those that are hidden from training: no gradient
    reaches the Q-Former from them, and :meth:`report` says how well they are read back.
    Train it, then start another model of the stack with ``init_from``.

    Source: the Item Q-Former's pre-training in UniRec (arXiv:2601.19423).
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.reconstruction_weight = config["reconstruction_weight"]
        n_features = self.n_item_tokens * self.width
        self.to_fields = nn.ModuleList(nn.Linear(n_features, width) for width in self.fields.widths)
        self.field_names = [field.name for field in dataset.item_fields()]
        tokens, seed = dataset.field2id_token[dataset.iid_field], config["hidden_seed"] or 0
        held_out = share_of(tokens, config["held_out_items"], seed, "held_out_items") | dataset.hidden_items
        self.held_out: Tensor
        self.register_buffer("held_out", torch.from_numpy(held_out), persistent=False)

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """As ItemQFormer's; new items are not among those held out."""
        super().add_items(values, masks)
        self.held_out = F.pad(self.held_out, (0, len(masks[0])))

    def _compute_item_tokens(self, items: Tensor | None) -> Tensor:
        tokens = super()._compute_item_tokens(items)
        return torch.where(rows_of(self.held_out, items)[:, None, None], tokens.detach(), tokens)

    def _loss(self, interaction: Any, drawn: Drawn) -> Tensor:
        loss = super()._loss(interaction, drawn)
        error = torch.stack([error for _, error, _ in self.reconstruct(~self.held_out)]).mean()
        return loss + self.reconstruction_weight * error

    def reconstruct(self, of: Tensor) -> list[tuple[str, Tensor, Tensor]]:
        """Read the fields of items back from their tokens, in training of those that the step looks at.

        Parameters
        ----------
        of : Tensor (n_items,), bool
            The items; those without a field do not count for it.

        Returns
        -------
        list of (field name, mean squared error, mean cosine)
            0 where no item has the field.
        """
        items = self.catalogue.items
        tokens, found = self.item_tokens(items).flatten(1), []
        for name, read, features, has in zip(
            self.field_names, self.to_fields, self.fields.features(), self.fields.mask.T, strict=True
        ):
            rows = rows_of(of & has, items).nonzero()[:, 0]
            one, other = read(tokens[rows]), rows_of(features, items)[rows]
            n = max(1, len(rows))
            error = (one - other).square().mean(dim=1).sum() / n
            found.append((name, error, F.cosine_similarity(one, other).sum() / n))
        return found

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """``mse_<field>`` and ``cosine_<field>`` over the held-out items."""
        errors = self.reconstruct(self.held_out)
        return {f"mse_{n}": float(e) for n, e, _ in errors} | {f"cosine_{n}": float(c) for n, _, c in errors}

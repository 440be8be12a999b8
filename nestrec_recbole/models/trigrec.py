"""TriGRec: a history in the target domain, read with the user's specific and cross-domain vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.layers.merged import MergedHistories
from nestrec_recbole.layers.transformer import steps_at, visible_at
from nestrec_recbole.layers.vector_attention import Gate, VectorAttention
from nestrec_recbole.models.fastsasrec import build_transformer
from nestrec_recbole.models.objective import Drawn
from nestrec_recbole.models.trigrecuser import TriGRecUser


class TriGRec(TriGRecUser):
    r"""Stage 3 of TriGRec: each of two user vectors attends to the states of the target domain's history, a gate mixes.

    A causal encoder reads the target domain's part of the history. At every position the user vectors are those of the
    history visible there (``user_vectors: visible``), by the encoders of :class:`TriGRecUser`, which train along; or
    they are computed once, from each user's whole training history and the weights of ``init_from``, and stay as they
    are (``frozen``, as TriGRec's authors export them). Only the target domain's items are predicted;
    ``user_loss_weight`` keeps the losses of the first stage, and with them what the source domain teaches.

    With :math:`h_t` the target domain's states, and s and x a user's specific and cross vectors, state t is

    .. math:: h_t + g \odot a(s) + (1 - g) \odot a'(x), \quad a(v) = v + \mathrm{Attention}(v; h_1, \ldots, h_t), \quad
              g = \sigma(W [a(s); a'(x)])

    all (d,). Without ``use_gate`` it has the mean of a(s) and a'(x), without one of the vectors the other alone.

    Source: ``recommendation_model`` of the repository TriGRec, there a BERT4Rec with one target per user.
    """

    ranks_by_softmax = True
    compiled = ("specific_states", "cross_states", "_common", "read")
    frozen_vectors: Tensor
    frozen_histories: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        width, heads = config["hidden_size"], config["n_heads"]
        self.is_frozen, self.user_loss_weight = config["user_vectors"] == "frozen", config["user_loss_weight"]
        if self.is_masked and not self.is_frozen:
            raise NestRecError("objective: masked sees the future of a position; set user_vectors: frozen")
        self.target_encoder = build_transformer(config)
        self.specific_attention = VectorAttention(width, heads) if config["use_specific"] else None
        self.cross_attention = VectorAttention(width, heads) if config["use_cross"] else None
        mixes = config["use_specific"] and config["use_cross"] and config["use_gate"]
        self.gate = Gate(width) if mixes else None
        if self.is_frozen and config["hidden_items"]:
            raise NestRecError("user_vectors: frozen are made of whole histories; set hidden_items: 0")
        if self.is_frozen and not config["init_from"]:
            raise NestRecError("user_vectors: frozen needs encoders that are trained: set init_from to a TriGRecUser's")
        if self.is_frozen:
            users, items = dataset.domains.training_histories(dataset.owners, dataset.items, self.max_seq_length)
            histories = torch.zeros(dataset.user_num, self.max_seq_length, dtype=torch.int64)
            histories[torch.from_numpy(users).long()] = torch.from_numpy(items)
            self.register_buffer("frozen_histories", histories, persistent=False)
            self.register_buffer("frozen_vectors", torch.full((dataset.user_num, 2, width), torch.nan))
            self.know_by_id(dataset, dataset.uid_field)
        self._keep_still(config)

    def _keep_still(self, config: Any) -> None:
        """Take out of training what nothing depends on."""
        if self.user_loss_weight:
            return
        still = [self.common, self.discriminator, self.common_discriminator]
        if self.is_frozen or not config["use_specific"]:
            still += [self.specific, self.domain_embedding]
        if self.is_frozen or not config["use_cross"]:
            still.append(self.transformer)
        for module in still:
            module.requires_grad_(False)

    @property
    def counted_items(self) -> Tensor:
        """As the base's; the losses of the first stage are means over each process's own targets."""
        return self.of_item == self.target

    def encode(self, batch: Any) -> Tensor:
        """What every prefix is in the target domain, read with its user vectors: (B, T, d)."""
        items = batch[self.ITEM_SEQ]
        histories, vectors = self.histories_of(items), self.item_embedding(items)
        if self.is_frozen:
            return self.read(histories, vectors, *self._frozen(batch))
        specific, cross = self.specific_states(histories, vectors), self.cross_states(histories, vectors)
        return self.read(histories, vectors, self.in_domain(histories, specific, self.target), cross)

    def last_states(self, batch: Any) -> Tensor:
        """As the base's; other states are computed only where these depend on them."""
        items, at = batch[self.ITEM_SEQ], batch[self.ITEM_SEQ_LEN] - 1
        histories, vectors = self.histories_of(items), self.item_embedding(items)
        if self.is_frozen:
            specific, cross = (vector[:, :1] for vector in self._frozen(batch))
        else:
            specific, cross = self.vectors_at(histories, vectors, self.target, at)
        return self.read(histories, vectors, specific, cross, at)[:, 0]

    def read(
        self, histories: MergedHistories, vectors: Tensor, specific: Tensor, cross: Tensor, at: Tensor | None = None
    ) -> Tensor:
        """The states (B, T, d) of the target domain's history, read with user vectors (B, T, d).

        Given ``at`` (B,), those of one step of each row, read with one vector each: (B, 1, d).
        """
        visible = histories.visible(same_domain=True, causal=True)
        states = self.run(self.target_encoder, vectors, histories.place, visible)
        wanted = torch.full_like(histories.domain, self.target)
        current = histories.at_latest(states, wanted, self._scaled(self.no_history_embedding[1]))
        current = current if at is None else steps_at(current, at)
        return self._scaled(current + self._mixed(histories, states, specific, cross, at))

    def _mixed(
        self, histories: MergedHistories, states: Tensor, specific: Tensor, cross: Tensor, at: Tensor | None
    ) -> Tensor:
        """What the user vectors (B, T, d), or (B, 1, d), make of the target domain's states (B, T, d)."""
        seen = histories.visible(same_domain=False, causal=True) & (histories.domain == self.target)[:, None, None, :]
        seen = seen if at is None else visible_at(seen, at, states.shape[1])
        found = []
        for attention, vectors in ((self.specific_attention, specific), (self.cross_attention, cross)):
            if attention is not None:
                found.append(attention(vectors, states, seen))
        if self.gate is not None:
            return self.gate(*found)
        return sum(found, torch.zeros_like(specific)) / max(1, len(found))

    def _frozen(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The user vectors that do not change, the same at each step: (B, 1 -> T, d)."""
        if self.USER_ID not in batch.interaction:
            raise NestRecError("user_vectors: frozen has vectors of known users only; give user_id, or set visible")
        if self.frozen_vectors[-1, 0, 0].isnan():  # the last that `freeze` writes
            self.freeze()
        shape = (-1, batch[self.ITEM_SEQ].shape[1], -1)
        specific, cross = self.frozen_vectors[batch[self.USER_ID]].unbind(1)
        return specific[:, None].expand(shape), cross[:, None].expand(shape)

    def starting_from(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the base's; frozen vectors are computed anew, of the users of these data."""
        return {name: weight for name, weight in super().starting_from(weights).items() if name != "frozen_vectors"}

    @torch.no_grad()
    def freeze(self, rows: int = 1024) -> None:
        """Compute the vectors of all users by the encoders as they are now."""
        was_training = self.training
        self.eval()
        for start in range(0, len(self.frozen_histories), rows):
            block = slice(start, start + rows)
            vectors = self.user_vectors(self.frozen_histories[block], self.target)
            self.frozen_vectors[block] = torch.stack(vectors, dim=1)
        self.train(was_training)

    def user_states(self, interaction: Any) -> Tensor:
        """As SequenceModel's: what reads the target domain is causal, whatever made the user vectors."""
        return super(TriGRecUser, self).user_states(interaction)

    def _loss(self, interaction: Any, drawn: Drawn) -> Tensor:
        targets = self.next_items(interaction)
        if self.is_frozen:
            loss = self._target_loss(self.encode(interaction), targets, interaction[self.ITEM_SEQ])
            return loss + self.user_loss_weight * super()._loss(interaction, drawn) if self.user_loss_weight else loss
        items = interaction[self.ITEM_SEQ]
        histories, vectors = self.histories_of(items), self.item_embedding(items)
        specific, cross = self.specific_states(histories, vectors), self.cross_states(histories, vectors)
        in_target = self.in_domain(histories, specific, self.target)
        loss = self._target_loss(self.read(histories, vectors, in_target, cross), targets, items)
        if not self.user_loss_weight:
            return loss
        return loss + self.user_loss_weight * self.user_loss(histories, vectors, targets, specific, cross)

    def _target_loss(self, states: Tensor, targets: Tensor, items: Tensor) -> Tensor:
        """The objective where the next item is of the target domain; 0 where it never is."""
        counted = self.of_item[targets] == self.target
        if not counted.any():
            return states.sum() * 0
        return self.objective(states[counted], self.item_table(), targets[counted], seen=self.seen(items, counted))

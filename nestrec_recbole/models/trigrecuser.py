"""TriGRecUser, stage 1 of TriGRec: specific, common and cross-domain encoders of a user."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.layers.adversarial import (
    DomainCentring,
    DomainDiscriminator,
    alignment,
    probe_accuracy,
    reverse_gradient,
    separation,
)
from nestrec_recbole.layers.merged import MergedHistories
from nestrec_recbole.models.fastsasrec import FastSASRec, build_transformer
from nestrec_recbole.models.objective import Drawn


class TriGRecUser(FastSASRec):
    r"""Three encoders of histories that are merged over domains, with one item table.

    *Specific* reads each domain apart and knows which one it is, *common* reads each domain apart and is to be blind to
    which (a discriminator behind a gradient reversal), *cross* reads the merged history. All predict the next item, at
    every position of every history (``objective: causal``), or items that are masked (``masked``, as BERT4Rec). The
    mean cross state is drawn to the mean common ones and kept away from the specific ones.

    With :math:`s_d, c_d` the means (B, d) of a user's specific and common states over the steps in domain d, and x that
    of the cross states, the loss is

    .. math:: L = \sum_e w_e L_e + w_{disc} \, CE(D(s_d), d) + CE(D'(R(c_d)), d)
              + w_{align} \lVert \hat x - \mathrm{sg}(\hat c) \rVert^2
              + w_{sep} \max(0, m - \lVert \hat x - \hat s_d \rVert)

    where :math:`L_e` is ``loss`` over the states of encoder e, D and D' are discriminators, c is the mean of the
    :math:`c_d`, and the gradient of R is that of the identity times :math:`-\lambda`, which rises from 0 to
    ``reversal_weight``, see :meth:`reversal`. Each w is a setting of ``<name>_weight``, m is ``separation_margin``.

    Scores, and with them the choice of the epoch, are those of the sum of the specific state in the target domain and
    the cross state.

    Source: ``user_representation_module`` of the repository TriGRec, whose encoders are bidirectional and predict
    masked items; the reversal is that of DANN (Ganin et al. 2016, arXiv:1505.07818).
    """

    of_item: Tensor
    ranks_by_softmax = False  # but by the sum of two encoders, each trained by a softmax of its own
    compiled: tuple[str, ...] = ("specific_states", "cross_states", "_common")
    n_losses: Tensor
    probed: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if getattr(dataset, "domains", None) is None or len(dataset.domains.names) < 2:
            raise NestRecError(f"model {config['model']!r} needs items of two domains; set target_domain to one")
        if self.objective.masks_known:
            raise NestRecError("mask_known has no effect here; set it to False")
        self.computes_items = False  # its losses read the whole table
        domains, width = dataset.domains, config["hidden_size"]
        self.target, self.n_domains = domains.target, len(domains.names)
        self.domain_names: tuple[str, ...] = domains.names
        self.register_buffer("of_item", torch.from_numpy(domains.of_item), persistent=False)
        self.specific, self.common = build_transformer(config), build_transformer(config)
        self.centring = DomainCentring(width, self.n_domains)
        self.domain_embedding = nn.Embedding(self.n_domains + 1, width, padding_idx=0)
        self.no_history_embedding = nn.Parameter(torch.zeros(2, width))  # of specific and common
        self.is_masked, self.mask_ratio = config["objective"] == "masked", config["mask_ratio"]
        self.mask_embedding = nn.Parameter(0.02 * torch.randn(width)) if self.is_masked else None
        self.discriminator = DomainDiscriminator(width, self.n_domains)
        self.common_discriminator = DomainDiscriminator(width, self.n_domains)
        nn.init.normal_(self.domain_embedding.weight, std=0.02)
        nn.init.normal_(self.no_history_embedding, std=0.02)
        names = ("specific", "cross", "common", "discriminator", "reversal", "alignment", "separation")
        self.weights: dict[str, float] = {name: config[f"{name}_weight"] for name in names}
        self.separation_margin, self.reversal_steps = config["separation_margin"], config["reversal_steps"]
        self.register_buffer("n_losses", torch.zeros((), dtype=torch.int64))
        self.register_buffer("probed", self._probed(dataset, config["probe_users"]), persistent=False)

    # -- encoders -----------------------------------------------------------------------------------------------

    def histories_of(self, items: Tensor) -> MergedHistories:
        """The domains of histories (B, T) of items, right-padded with 0."""
        return MergedHistories.of(self.of_item[items], self.n_domains)

    def run(
        self, encoder: nn.Module, vectors: Tensor, place: Tensor, visible: Tensor | None, at: Tensor | None = None
    ) -> Tensor:
        """States (B, T, d) of steps' vectors (B, T, d); or those (B, 1, d) of the steps ``at`` (B,).

        Parameters
        ----------
        encoder : CausalTransformer
        vectors : Tensor (B, T, d)
        place : Tensor (B, T) or (T,), int64
            Of each step in the history that the encoder reads, from 0.
        visible : Tensor (B, 1, T, T), bool, or None
            Which steps (last axis) each step sees; None: itself and all before it.
        at : Tensor (B,), int64, optional
        """
        if self.position_embedding is not None:
            last = len(self.position_embedding.weight) - 1
            vectors = vectors + self.position_embedding(place.clamp(max=last))
        return self._scaled(encoder(self.dropout(vectors), visible, at))

    def specific_states(self, histories: MergedHistories, vectors: Tensor, at: Tensor | None = None) -> Tensor:
        """What each step, or the steps ``at`` (B,), are in their own domain's history, of items' vectors (B, T, d)."""
        visible = histories.visible(same_domain=True, causal=not self.is_masked)
        return self.run(self.specific, vectors + self.domain_embedding(histories.domain), histories.place, visible, at)

    def common_states(self, histories: MergedHistories, vectors: Tensor) -> Tensor:
        """The same, by an encoder that is not told the domain, without each domain's mean: (B, T, d)."""
        return self._scaled(self.centring(self._common(histories, vectors), histories.domain))

    def _common(self, histories: MergedHistories, vectors: Tensor) -> Tensor:
        """The common states (B, T, d) before they are centred."""
        visible = histories.visible(same_domain=True, causal=not self.is_masked)
        return self.run(self.common, vectors, histories.place, visible)

    def cross_states(self, histories: MergedHistories, vectors: Tensor, at: Tensor | None = None) -> Tensor:
        """What each step, or the steps ``at`` (B,), are in the merged history, of items' vectors (B, T, d)."""
        steps = torch.arange(vectors.shape[1], device=vectors.device)
        visible = histories.visible(same_domain=False, causal=False) if self.is_masked else None
        states = self.run(self.transformer, vectors, steps, visible, at)
        return states if self.is_masked or self.recency is None else self.recency(states, vectors, at)

    def in_domain(self, histories: MergedHistories, specific: Tensor, domain: int) -> Tensor:
        """The specific states (B, T, d) of a domain: at each step the one of its last step there."""
        wanted = torch.full_like(histories.domain, domain)
        return histories.at_latest(specific, wanted, self._scaled(self.no_history_embedding[0]))

    def vectors_at(self, histories: MergedHistories, vectors: Tensor, domain: int, at: Tensor) -> tuple[Tensor, Tensor]:
        """The specific state of a domain so far and the cross one at the steps ``at`` (B,): both (B, 1, d)."""
        place = histories.last_step(domain, at)
        specific = self.specific_states(histories, vectors, place.clamp(min=0))
        specific = torch.where((place >= 0)[:, None, None], specific, self._scaled(self.no_history_embedding[0]))
        return specific, self.cross_states(histories, vectors, at)

    def encode(self, batch: Any) -> Tensor:
        """The specific state of the target domain so far plus the cross state: (B, T, d)."""
        items = batch[self.ITEM_SEQ]
        histories, vectors = self.histories_of(items), self.item_embedding(items)
        specific = self.in_domain(histories, self.specific_states(histories, vectors), self.target)
        return self._scaled(specific + self.cross_states(histories, vectors))

    def last_states(self, batch: Any) -> Tensor:
        """As the base's; other states are computed only where these depend on them."""
        items = batch[self.ITEM_SEQ]
        histories, vectors = self.histories_of(items), self.item_embedding(items)
        specific, cross = self.vectors_at(histories, vectors, self.target, batch[self.ITEM_SEQ_LEN] - 1)
        return self._scaled(specific + cross)[:, 0]

    def user_states(self, interaction: Any) -> Tensor:
        """As the base's; masked encoders read a mask, an item of the target domain, behind each history: (B, d)."""
        if not self.is_masked:
            return super().user_states(interaction)
        items = F.pad(interaction[self.ITEM_SEQ], (0, 1))
        end = interaction[self.ITEM_SEQ_LEN][:, None]
        domain = self.of_item[items].scatter(1, end, self.target)
        histories = MergedHistories.of(domain, self.n_domains)
        vectors = self._vectors(items, torch.zeros_like(items, dtype=torch.bool).scatter(1, end, True))
        states = self.specific_states(histories, vectors) + self.cross_states(histories, vectors)
        return self._scaled(self.gather_indexes(states, end[:, 0]))

    @torch.no_grad()
    def user_vectors(self, items: Tensor, domain: int) -> tuple[Tensor, Tensor]:
        """The specific vector in a domain and the cross one of whole histories (B, T), both (B, d).

        Causal encoders have read a history at its last step; of masked ones the mean over the steps is taken.
        """
        histories, vectors = self.histories_of(items), self.item_embedding(items)
        if self.is_masked:
            specific, cross = self.specific_states(histories, vectors), self.cross_states(histories, vectors)
            return histories.mean(specific, domain), histories.mean(cross)
        specific, cross = self.vectors_at(histories, vectors, domain, ((items > 0).sum(1) - 1).clamp(min=0))
        return specific[:, 0], cross[:, 0]

    # -- losses -------------------------------------------------------------------------------------------------

    def draw(self, interaction: Any) -> None:
        """Nothing: the loss of each encoder draws its own negatives."""

    def _loss(self, interaction: Any, drawn: Drawn) -> Tensor:
        items, targets = interaction[self.ITEM_SEQ], self.next_items(interaction)
        masked = None
        if self.is_masked:
            items, masked = self._draw(items, targets)
            targets = torch.where(masked, items, 0)
        histories, vectors = self.histories_of(items), self._vectors(items, masked)
        specific, cross = self.specific_states(histories, vectors), self.cross_states(histories, vectors)
        return self.user_loss(histories, vectors, targets, specific, cross)

    def user_loss(
        self, histories: MergedHistories, vectors: Tensor, targets: Tensor, specific: Tensor, cross: Tensor
    ) -> Tensor:
        """All losses of this stage, of histories with targets (B, T), items' vectors and states (B, T, d)."""
        self.n_losses += self.training
        common = self.common_states(histories, vectors)
        loss = self._prediction_loss(histories, targets, specific, cross, common)
        return loss + self._representation_loss(histories, specific, cross, common)

    def _draw(self, items: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Histories with their last target, (B, T + 1), and which of their items are masked: at least one a row."""
        length = (items > 0).sum(1, keepdim=True)
        final = targets.gather(1, length - 1)
        items = F.pad(items, (0, 1)).scatter(1, length, final)
        masked = (torch.rand(items.shape, device=items.device) < self.mask_ratio) & (items > 0)
        last = (items > 0).sum(1, keepdim=True) - 1
        return items, masked.scatter(1, last, masked.gather(1, last) | ~masked.any(1, keepdim=True))

    def _vectors(self, items: Tensor, masked: Tensor | None) -> Tensor:
        """Vectors (B, T, d) of items (B, T), of which ``masked`` (B, T), bool, are not read."""
        vectors = self.item_embedding(items)
        if masked is None or self.mask_embedding is None:
            return vectors
        return torch.where(masked[..., None], self.mask_embedding, vectors)

    def _prediction_loss(
        self, histories: MergedHistories, targets: Tensor, specific: Tensor, cross: Tensor, common: Tensor
    ) -> Tensor:
        """What each encoder's states say of the targets (B, T), specific and common ones in the target's domain."""
        is_target, table = targets > 0, self.item_table()
        wanted = self.of_item[targets]
        if not self.is_masked:
            nothing = self._scaled(self.no_history_embedding)
            specific = histories.at_latest(specific, wanted, nothing[0])
            common = histories.at_latest(common, wanted, nothing[1])
        loss = specific.new_zeros(())
        for name, states in (("specific", specific), ("cross", cross), ("common", common)):
            if self.weights[name]:
                loss = loss + self.weights[name] * self.objective(states[is_target], table, targets[is_target])
        return loss

    def _representation_loss(
        self, histories: MergedHistories, specific: Tensor, cross: Tensor, common: Tensor
    ) -> Tensor:
        """Discriminators, alignment and separation, over the mean states of each user in each domain that it has."""
        numbers = range(1, self.n_domains + 1)
        has = torch.stack([(histories.domain == d).any(1) for d in numbers], dim=1)  # (B, n_domains)
        of_specific = torch.stack([histories.mean(specific, d) for d in numbers], dim=1)  # (B, n_domains, d)
        of_common = torch.stack([histories.mean(common, d) for d in numbers], dim=1)
        label = has.nonzero()[:, 1]
        reversed_common = reverse_gradient(of_common[has], self.weights["reversal"] * self.reversal())
        told = F.cross_entropy(self.discriminator(of_specific[has]), label)
        blind = F.cross_entropy(self.common_discriminator(reversed_common), label)
        merged = histories.mean(cross)
        pairs = merged[:, None].expand_as(of_specific)[has]
        near = alignment(merged, of_common.sum(1) / has.sum(1, keepdim=True).clamp(min=1))
        apart = separation(pairs, of_specific[has], self.separation_margin)
        loss = self.weights["discriminator"] * told + blind
        return loss + self.weights["alignment"] * near + self.weights["separation"] * apart

    def reversal(self) -> float:
        r"""How far the reversal has come, from 0 to 1 in ``reversal_steps`` steps (schedule of Ganin et al. 2016).

        .. math:: \frac{2}{1 + e^{-10 p}} - 1, \quad p = \min(1, n_{losses} / n_{steps})
        """
        progress = min(1.0, float(self.n_losses) / self.reversal_steps) if self.reversal_steps else 1.0
        return 2 / (1 + math.exp(-10 * progress)) - 1

    # -- what the encoders know of the domain -------------------------------------------------------------------

    def _probed(self, dataset: Any, n_users: int) -> Tensor:
        """Training histories (n, T) of users in all domains, an even number of them."""
        if not n_users:
            return torch.zeros(0, 1, dtype=torch.int64)
        _, items = dataset.domains.training_histories(dataset.owners, dataset.items, self.max_seq_length)
        of_item = dataset.domains.of_item[items]
        in_all = items[np.stack([(of_item == d).any(1) for d in range(1, self.n_domains + 1)]).all(0)]
        step = max(1, len(in_all) // n_users)
        chosen = in_all[::step][:n_users]
        return torch.from_numpy(chosen[: len(chosen) // 2 * 2])

    @torch.no_grad()
    def report(self) -> dict[str, float]:
        """Accuracy of a fresh linear probe that tells the domain from mean states; chance is 1 / domains."""
        if len(self.probed) < 2 * self.n_domains:
            return {}
        histories, vectors = self.histories_of(self.probed), self.item_embedding(self.probed)
        self.centring.settle(self._common(histories, vectors), histories.domain)
        label = torch.arange(self.n_domains, device=vectors.device).repeat_interleave(len(self.probed))
        found = {}
        for name, states in (("common", self.common_states), ("specific", self.specific_states)):
            encoded = states(histories, vectors)
            means = torch.cat([histories.mean(encoded, d) for d in range(1, self.n_domains + 1)])
            found[f"domain_accuracy_{name}"] = probe_accuracy(means, label)
        return found

"""The training objective that a config names, over states, item table and targets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nestrec_recbole.data.domains import Domains
from nestrec_recbole.layers.full_softmax import full_softmax
from nestrec_recbole.layers.losses import LearnableTemperature, gbce, info_nce, sampled_softmax, triplet
from nestrec_recbole.layers.negatives import NegativeSampler, in_batch_negatives, is_among, near_duplicates
from nestrec_recbole.layers.seen import Seen

LOSSES = ("full_softmax", "sampled_softmax", "gbce", "info_nce", "triplet")
DRAWING = ("sampled_softmax", "gbce", "triplet")
NEGATIVES = ("uniform", "popularity", "inverse_popularity", "in_batch")
DOMAIN_LOSSES = ("own", "all", "target")

Drawn = tuple[Tensor, Tensor] | None  # negatives (K,), and the log-probability of every item to be one (n_items,)


class BaseObjective(nn.Module):
    """What the states of a model are trained for; by default something that needs the whole catalogue.

    Parameters
    ----------
    hidden : Tensor (n_items,), bool, optional
        Items that training does not know of.

    Attributes
    ----------
    samples : bool
        Whether it looks at targets and negatives only.
    visible : Tensor (m,), int64, or None
        Where it does not sample, the items that it looks at, the padding item first; None: all.
    draws : bool
        Whether :meth:`draw` has anything to give.
    masks_known : bool
        Whether it wants to know a user's other items, so as not to take them for negatives.
    """

    samples = False
    draws = False
    masks_known = False
    counted_items: Tensor | None = None  # (n_items,), bool: the targets that count, where these are not all
    visible: Tensor | None

    def __init__(self, hidden: Tensor | None = None) -> None:
        super().__init__()
        visible = (~hidden).nonzero()[:, 0] if hidden is not None and hidden.any() else None
        self.register_buffer("visible", visible, persistent=False)

    def draw(self, targets: Tensor) -> Drawn:
        """What a step has for negatives of targets (P,); None where the objective has none."""
        return None

    def current_temperature(self) -> float | Tensor:
        """What scores are divided by to be logits."""
        raise NotImplementedError

    def forward(
        self,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        positives: Tensor | None = None,
        drawn: Drawn = None,
        items: Tensor | None = None,
        seen: Seen | None = None,
    ) -> Tensor:
        """Mean loss of a batch's positions.

        Parameters
        ----------
        states : Tensor (P, d)
        table : Tensor (n_items, d), or (m, d) where ``items`` says of which
            Row 0 is the padding item.
        targets : Tensor (P,), int64
        positives : Tensor (P, m), int64, optional
            Other items of the row's user, which are no negatives; padded with 0.
        drawn : tuple of Tensor, optional
            From :meth:`draw`; drawn here by default.
        items : Tensor (m,), int64, ascending from 0, optional
            Holds all targets and all that was drawn.
        seen : Seen, optional
            What each position has read; of the full softmax only.
        """
        raise NotImplementedError


class Objective(BaseObjective):
    """``loss``, ``negatives``, ``n_negatives``, ``temperature``, ... of a config, as one call.

    Parameters
    ----------
    config : recbole.config.Config
    counts : Tensor (n_items,)
        Interactions of each item in the training data.
    content : Tensor (n_items, d), optional
        Item features, needed where ``mask_near_duplicates`` is set.
    hidden : Tensor (n_items,), bool, optional
        Items that training does not know of: they are no negatives either.
    """

    counts: Tensor
    duplicates: Tensor | None

    def __init__(
        self, config: Any, counts: Tensor, content: Tensor | None = None, hidden: Tensor | None = None
    ) -> None:
        super().__init__(hidden)
        self.loss, self.negatives, self.n_negatives = config["loss"], config["negatives"], config["n_negatives"]
        self.calibration, self.uses_log_q = config["calibration"], config["log_q"]
        learns = config["learn_temperature"]
        self.temperature = LearnableTemperature(config["temperature"]) if learns else config["temperature"]
        self.register_buffer("counts", counts, persistent=False)
        self.margin, self.symmetric = config["margin"], config["symmetric"]
        self.samples, self.draws = self.loss != "full_softmax", self.loss in DRAWING
        self.masks_known = self.samples and config["mask_known"]
        duplicates = None if content is None else near_duplicates(content, config["mask_near_duplicates"])
        self.register_buffer("duplicates", duplicates, persistent=False)
        self.sampler = None
        if self.draws and self.negatives != "in_batch":
            self.sampler = NegativeSampler(counts, self.negatives, config["popularity_exponent"], hidden)

    def draw(self, targets: Tensor) -> Drawn:
        """As the base's; info_nce too draws nothing: its negatives are the other targets."""
        if not self.draws:
            return None
        if self.sampler is None:
            return in_batch_negatives(targets, self.counts)
        return self.sampler(self.n_negatives), self.sampler.log_q

    def forward(
        self,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        positives: Tensor | None = None,
        drawn: Drawn = None,
        items: Tensor | None = None,
        seen: Seen | None = None,
    ) -> Tensor:
        positives, drawn = self._with_duplicates(targets, positives), drawn or self.draw(targets)
        if items is None and self.visible is not None and self.loss == "full_softmax":
            items, table = self.visible, table[self.visible]
        if items is not None:
            targets, positives, drawn = _in_rows_of(items, targets, positives, drawn)
            seen = None if seen is None else seen._replace(items=_numbered(items, seen.items))
        temperature = self.current_temperature()
        if self.loss == "full_softmax":
            return full_softmax(states, table, targets, temperature=temperature, seen=seen)
        if self.loss == "info_nce":
            how = {"forbidden": positives, "temperature": temperature, "symmetric": self.symmetric}
            return info_nce(states, table[targets], targets, **how)
        assert drawn is not None
        negatives, log_q = drawn
        if self.loss == "sampled_softmax":
            corrected = {"log_q": log_q} if self.uses_log_q else {}
            return sampled_softmax(
                states, table, targets, negatives, forbidden=positives, temperature=temperature, **corrected
            )
        excluded = targets[:, None] if positives is None else torch.cat([targets[:, None], positives], dim=1)
        states = states / temperature
        negative_logits = (states @ table[negatives].T).masked_fill(is_among(negatives, excluded), -math.inf)
        positive_logits = (states * table[targets]).sum(-1)
        if self.loss == "triplet":
            return triplet(positive_logits, negative_logits, self.margin)
        sampling_rate = min(1.0, len(negatives) / (len(self.counts) - 1))
        return gbce(positive_logits, negative_logits, sampling_rate, self.calibration)

    def current_temperature(self) -> float | Tensor:
        return self.temperature() if isinstance(self.temperature, nn.Module) else self.temperature

    def _with_duplicates(self, targets: Tensor, positives: Tensor | None) -> Tensor | None:
        """Add the near-duplicates of the targets to what is no negative."""
        if self.duplicates is None:
            return positives
        duplicates = self.duplicates[targets]
        return duplicates if positives is None else torch.cat([positives, duplicates], dim=1)


def _in_rows_of(
    items: Tensor, targets: Tensor, positives: Tensor | None, drawn: Drawn
) -> tuple[Tensor, Tensor | None, Drawn]:
    """Number items by their place in ``items``; positives that are not there are none that could be a negative."""
    if positives is not None:
        positives = _numbered(items, positives)
    if drawn is not None:
        drawn = torch.searchsorted(items, drawn[0]), drawn[1][items]
    return torch.searchsorted(items, targets), positives, drawn


def _numbered(items: Tensor, others: Tensor) -> Tensor:
    """The places of other items, of any shape, in ``items`` (m,), ascending from 0; 0 where they are not there."""
    place = torch.searchsorted(items, others.to(items.dtype)).clamp(max=len(items) - 1)
    return torch.where(items[place] == others, place, 0)


class DomainObjective(BaseObjective):
    """A softmax in which each target competes with the items of its own domain only.

    Parameters
    ----------
    objective : Objective
        Whose ``loss`` is ``full_softmax``.
    of_item : Tensor (n_items,), int64
        The domain of each item, from 1; 0 for the padding item and those that are no negatives.
    only : int
        The one domain whose targets count; 0: all do.
    """

    of_item: Tensor
    place: Tensor

    def __init__(self, objective: Objective, of_item: Tensor, only: int = 0) -> None:
        super().__init__()
        self.objective, self.only = objective, only
        self.counted_items = of_item == only if only else None
        self.n_domains = int(of_item.max())
        self.register_buffer("of_item", of_item, persistent=False)
        place = torch.zeros_like(of_item)
        for domain in range(1, self.n_domains + 1):
            rows = torch.cat([torch.zeros(1, dtype=torch.int64), (of_item == domain).nonzero()[:, 0]])
            self.register_buffer(f"rows_{domain}", rows, persistent=False)
            place[rows] = torch.arange(len(rows))
        self.register_buffer("place", place, persistent=False)

    def current_temperature(self) -> float | Tensor:
        """That of the softmax."""
        return self.objective.current_temperature()

    def forward(
        self, states: Tensor, table: Tensor, targets: Tensor, *sampled: Any, seen: Seen | None = None
    ) -> Tensor:
        """As the base's, 0 where no target counts; it samples nothing, so that no more is looked at."""
        domain = self.of_item[targets]
        total, n_targets = states.sum() * 0, 0
        for number in [self.only] if self.only else range(1, self.n_domains + 1):
            at = (domain == number).nonzero()[:, 0]
            if len(at):
                rows = getattr(self, f"rows_{number}")
                own = None if seen is None else Seen(self._in_domain(seen.items[at], number), seen.bias)
                loss = self.objective(states[at], table[rows], self.place[targets[at]], seen=own)
                total = total + len(at) * loss
                n_targets += len(at)
        return total / max(n_targets, 1)

    def _in_domain(self, items: Tensor, number: int) -> Tensor:
        """The places of items, of any shape, among those of a domain; 0 for items of others."""
        items = items.long()
        return torch.where(self.of_item[items] == number, self.place[items], 0)


def build_objective(
    config: Any, counts: Tensor, content: Tensor | None, hidden: Tensor | None, domains: Domains | None
) -> BaseObjective:
    """The objective of a config: over all items, or where ``domains`` are given those that ``domain_loss`` says."""
    if domains is None or config["domain_loss"] == "all":
        return Objective(config, counts, content, hidden)
    of_item = torch.from_numpy(domains.of_item)
    of_item = of_item if hidden is None else of_item.masked_fill(hidden, 0)
    only = domains.target if config["domain_loss"] == "target" else 0
    return DomainObjective(Objective(config, counts, content), of_item, only)

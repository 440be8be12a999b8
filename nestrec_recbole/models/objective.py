"""The training objective that a config names, over states, item table and targets."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nestrec_recbole.data.domains import Domains
from nestrec_recbole.layers.full_softmax import full_softmax
from nestrec_recbole.layers.losses import LearnableTemperature, gbce, info_nce, sampled_softmax, triplet
from nestrec_recbole.layers.negatives import (
    NegativeSampler,
    in_batch_negatives,
    is_among,
    log_inclusion,
    near_duplicates,
)
from nestrec_recbole.layers.seen import Seen

LOSSES = ("full_softmax", "sampled_softmax", "gbce", "info_nce", "triplet")
DRAWING = ("sampled_softmax", "gbce", "triplet")
NEGATIVES = ("uniform", "popularity", "inverse_popularity", "in_batch")
DOMAIN_LOSSES = ("own", "all", "target")

Drawn = tuple[Tensor, Tensor] | None  # negatives (K,), and the log-probability of each item to be among them (n_items,)


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


class _Trained(NamedTuple):
    """The positions that a step trains, and what they are told apart by; items are numbered by the rows of ``table``.

    Attributes are the parameters of :meth:`BaseObjective.forward`.
    """

    states: Tensor
    table: Tensor
    targets: Tensor
    positives: Tensor | None
    drawn: Drawn
    seen: Seen | None

    @property
    def negatives(self) -> tuple[Tensor, Tensor]:
        """Those of a loss that draws, (K,), and the log-probability of each item to be among them."""
        assert self.drawn is not None
        return self.drawn

    def in_rows_of(self, items: Tensor) -> _Trained:
        """The same where ``table`` has these items (m,); positives among others cannot be drawn, and are left out."""
        positives = None if self.positives is None else _numbered(items, self.positives)
        drawn = None if self.drawn is None else (torch.searchsorted(items, self.drawn[0]), self.drawn[1][items])
        seen = None if self.seen is None else self.seen._replace(items=_numbered(items, self.seen.items))
        targets = torch.searchsorted(items, self.targets)
        return self._replace(targets=targets, positives=positives, drawn=drawn, seen=seen)

    def logits(self, temperature: float | Tensor) -> tuple[Tensor, Tensor]:
        """Those of the targets (P,), and of the negatives (P, K), -inf where one is a target or a positive."""
        negatives, own = self.negatives[0], self.targets[:, None]
        excluded = own if self.positives is None else torch.cat([own, self.positives], dim=1)
        states = self.states / temperature
        of_negatives = (states @ self.table[negatives].T).masked_fill(is_among(negatives, excluded), -math.inf)
        return (states * self.table[self.targets]).sum(-1), of_negatives


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
    log_q: Tensor
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
        self.content, self.least_likeness = content, config["mask_near_duplicates"]
        self.register_buffer("duplicates", None, persistent=False)
        self.sampler = None
        if self.draws and self.negatives != "in_batch":
            self.sampler = NegativeSampler(counts, self.negatives, config["popularity_exponent"], hidden)
            log_q = log_inclusion(self.sampler.log_q.exp(), self.n_negatives)
            self.register_buffer("log_q", log_q, persistent=False)

    def draw(self, targets: Tensor) -> Drawn:
        """As the base's; info_nce too draws nothing: its negatives are the other targets."""
        if not self.draws:
            return None
        if self.sampler is None:
            return in_batch_negatives(targets, self.counts)
        return self.sampler(self.n_negatives), self.log_q

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
        """As the base's, by the ``loss`` of the config."""
        positives, drawn = self._with_duplicates(targets, positives), drawn or self.draw(targets)
        if items is None and self.visible is not None and self.loss == "full_softmax":
            items, table = self.visible, table[self.visible]
        trained = _Trained(states, table, targets, positives, drawn, seen)
        if items is not None:
            trained = trained.in_rows_of(items)
        loss: Tensor = getattr(self, f"_{self.loss}")(trained, self.current_temperature())
        return loss

    # One for each of LOSSES.

    def _full_softmax(self, trained: _Trained, temperature: float | Tensor) -> Tensor:
        states, table, targets = trained[:3]
        return full_softmax(states, table, targets, temperature=temperature, seen=trained.seen)

    def _info_nce(self, trained: _Trained, temperature: float | Tensor) -> Tensor:
        states, table, targets, forbidden = trained[:4]
        how = {"forbidden": forbidden, "temperature": temperature, "symmetric": self.symmetric}
        return info_nce(states, table[targets], targets, **how)

    def _sampled_softmax(self, trained: _Trained, temperature: float | Tensor) -> Tensor:
        states, table, targets, forbidden = trained[:4]
        negatives, log_q = trained.negatives
        how = {"log_q": log_q if self.uses_log_q else None, "forbidden": forbidden}
        return sampled_softmax(states, table, targets, negatives, temperature=temperature, **how)

    def _gbce(self, trained: _Trained, temperature: float | Tensor) -> Tensor:
        n_items = len(self.counts) - 1 if self.visible is None else len(self.visible) - 1  # but the padding item
        sampling_rate = min(1.0, len(trained.negatives[0]) / max(1, n_items - 1))
        return gbce(*trained.logits(temperature), sampling_rate, self.calibration)

    def _triplet(self, trained: _Trained, temperature: float | Tensor) -> Tensor:
        return triplet(*trained.logits(temperature), self.margin)

    def current_temperature(self) -> float | Tensor:
        return self.temperature() if isinstance(self.temperature, nn.Module) else self.temperature

    def _with_duplicates(self, targets: Tensor, positives: Tensor | None) -> Tensor | None:
        """Add the near-duplicates of the targets to what is no negative; looked for once something is trained."""
        if self.duplicates is None:
            if self.content is None:
                return positives
            self.duplicates = near_duplicates(self.content.to(targets.device), self.least_likeness)
            self.content = None
        duplicates = self.duplicates[targets]
        return duplicates if positives is None else torch.cat([positives, duplicates], dim=1)


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

"""The training objective that a config names, over states, item table and targets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nestrec_recbole.data.domains import Domains
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.layers.full_softmax import full_softmax
from nestrec_recbole.layers.losses import LearnableTemperature, gbce, info_nce, sampled_softmax, triplet
from nestrec_recbole.layers.negatives import NegativeSampler, in_batch_negatives, is_among, near_duplicates
from nestrec_recbole.layers.seen import SeenBias

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
    masks_known : bool
        Whether it wants to know a user's other items, so as not to take them for negatives.
    """

    samples = False
    masks_known = False
    visible: Tensor | None

    def __init__(self, hidden: Tensor | None = None) -> None:
        super().__init__()
        visible = (~hidden).nonzero()[:, 0] if hidden is not None and hidden.any() else None
        self.register_buffer("visible", visible, persistent=False)

    @property
    def seen_bias(self) -> SeenBias | None:
        """What the items of a history get more than others; with it, it wants to know what each position has read."""
        return None

    def draw(self, targets: Tensor) -> Drawn:
        """What a step has for negatives of targets (P,); None where the objective has none."""
        return None

    def current_temperature(self) -> float | Tensor:
        """What scores are divided by to be logits."""
        return 1.0

    def forward(
        self,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        positives: Tensor | None = None,
        drawn: Drawn = None,
        items: Tensor | None = None,
        seen: Tensor | None = None,
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
        seen : Tensor (P, n), int64, optional
            The items that each position has read, each once, padded with 0; needed where there is a ``seen_bias``.
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
    seen_bias : SeenBias, optional

    Raises
    ------
    NestRecError
        When there is a ``seen_bias``, and a loss that does not look at the items of a history.
    """

    counts: Tensor
    duplicates: Tensor | None

    def __init__(
        self,
        config: Any,
        counts: Tensor,
        content: Tensor | None = None,
        hidden: Tensor | None = None,
        seen_bias: SeenBias | None = None,
    ) -> None:
        super().__init__(hidden)
        if seen_bias is not None and config["loss"] != "full_softmax":
            raise NestRecError(f"seen_bias goes with loss: full_softmax, not {config['loss']}; set it to False")
        self.bias = seen_bias
        self.loss, self.negatives, self.n_negatives = config["loss"], config["negatives"], config["n_negatives"]
        self.calibration, self.uses_log_q = config["calibration"], config["log_q"]
        learns = config["learn_temperature"]
        self.temperature = LearnableTemperature(config["temperature"]) if learns else config["temperature"]
        self.register_buffer("counts", counts, persistent=False)
        self.margin, self.symmetric = config["margin"], config["symmetric"]
        self.samples = self.loss != "full_softmax"
        self.masks_known = self.samples and config["mask_known"]
        duplicates = None if content is None else near_duplicates(content, config["mask_near_duplicates"])
        self.register_buffer("duplicates", duplicates, persistent=False)
        self.sampler = None
        if self.loss in DRAWING and self.negatives != "in_batch":
            self.sampler = NegativeSampler(counts, self.negatives, config["popularity_exponent"], hidden)

    @property
    def seen_bias(self) -> SeenBias | None:
        return self.bias

    def draw(self, targets: Tensor) -> Drawn:
        """As the base's; info_nce too draws nothing: its negatives are the other targets."""
        if self.loss not in DRAWING:
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
        seen: Tensor | None = None,
    ) -> Tensor:
        positives, drawn = self._with_duplicates(targets, positives), drawn or self.draw(targets)
        if items is None and self.visible is not None and self.loss == "full_softmax":
            items, table = self.visible, table[self.visible]
        if items is not None:
            targets, positives, seen, drawn = _in_rows_of(items, targets, positives, seen, drawn)
        temperature = self.current_temperature()
        if self.loss == "full_softmax":
            biased = {} if self.bias is None else {"seen": seen, "seen_bias": self.bias.bias}
            return full_softmax(states, table, targets, temperature=temperature, **biased)
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
    items: Tensor, targets: Tensor, positives: Tensor | None, seen: Tensor | None, drawn: Drawn
) -> tuple[Tensor, Tensor | None, Tensor | None, Drawn]:
    """Number items by their place in ``items``; positives and seen items that are not there become 0."""

    def numbered(others: Tensor | None) -> Tensor | None:
        if others is None:
            return None
        place = torch.searchsorted(items, others).clamp(max=len(items) - 1)
        return torch.where(items[place] == others, place, 0)

    if drawn is not None:
        drawn = torch.searchsorted(items, drawn[0]), drawn[1][items]
    return torch.searchsorted(items, targets), numbered(positives), numbered(seen), drawn


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
        self.n_domains = int(of_item.max())
        self.register_buffer("of_item", of_item, persistent=False)
        place = torch.zeros_like(of_item)
        for domain in range(1, self.n_domains + 1):
            rows = torch.cat([torch.zeros(1, dtype=torch.int64), (of_item == domain).nonzero()[:, 0]])
            self.register_buffer(f"rows_{domain}", rows, persistent=False)
            place[rows] = torch.arange(len(rows))
        self.register_buffer("place", place, persistent=False)

    @property
    def seen_bias(self) -> SeenBias | None:
        """That of the softmax."""
        return self.objective.seen_bias

    def current_temperature(self) -> float | Tensor:
        """That of the softmax."""
        return self.objective.current_temperature()

    def forward(
        self, states: Tensor, table: Tensor, targets: Tensor, *sampled: Any, seen: Tensor | None = None
    ) -> Tensor:
        """As the base's, 0 where no target counts; it samples nothing, so that no more is looked at."""
        domain = self.of_item[targets]
        total, n_targets = states.sum() * 0, 0
        for number in [self.only] if self.only else range(1, self.n_domains + 1):
            at = (domain == number).nonzero()[:, 0]
            if len(at):
                rows = getattr(self, f"rows_{number}")
                own = None if seen is None else torch.where(self.of_item[seen[at]] == number, self.place[seen[at]], 0)
                loss = self.objective(states[at], table[rows], self.place[targets[at]], seen=own)
                total = total + len(at) * loss
                n_targets += len(at)
        return total / max(n_targets, 1)


def build_objective(
    config: Any,
    counts: Tensor,
    content: Tensor | None,
    hidden: Tensor | None,
    domains: Domains | None,
    seen_bias: SeenBias | None,
) -> BaseObjective:
    """The objective of a config: over all items, or where ``domains`` are given those that ``domain_loss`` says."""
    if domains is None or config["domain_loss"] == "all":
        return Objective(config, counts, content, hidden, seen_bias)
    of_item = torch.from_numpy(domains.of_item)
    of_item = of_item if hidden is None else of_item.masked_fill(hidden, 0)
    only = domains.target if config["domain_loss"] == "target" else 0
    return DomainObjective(Objective(config, counts, content, seen_bias=seen_bias), of_item, only)

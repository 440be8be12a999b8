"""Merged histories of several domains: what a step may see, and where each domain's last step was."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MergedHistories:
    """Masks and places of histories whose steps are of several domains.

    Attributes
    ----------
    domain : Tensor (B, T), int64
        Of each step, from 1; 0 is padding.
    place : Tensor (B, T), int64
        How many earlier steps of the row are of the same domain.
    latest : Tensor (B, T, n_domains), int64
        The last step of each domain that is no later than this one; -1 where there is none yet.
    """

    domain: Tensor
    place: Tensor
    latest: Tensor

    @classmethod
    def of(cls, domain: Tensor, n_domains: int) -> MergedHistories:
        """Take the domains of histories (B, T), right-padded with 0."""
        numbers = torch.arange(1, n_domains + 1, device=domain.device)
        is_of = domain[..., None] == numbers  # (B, T, n_domains)
        steps = torch.arange(domain.shape[1], device=domain.device)[:, None]
        latest = torch.where(is_of, steps, -1).cummax(dim=1).values
        count = (is_of.cumsum(1) - 1).gather(2, (domain - 1).clamp(min=0)[..., None])[..., 0]
        return cls(domain, count * (domain > 0), latest)

    def visible(self, same_domain: bool, causal: bool) -> Tensor:
        """Which steps (last axis) each step may see: (B, 1, T, T) bool; each sees itself."""
        length = self.domain.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=self.domain.device)
        seen = (seen.tril() if causal else seen).expand(len(self.domain), 1, -1, -1)
        if not causal:
            seen = seen & (self.domain > 0)[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=seen.device)
        if same_domain:
            seen = seen & (self.domain[:, :, None] == self.domain[:, None, :])[:, None]
        return seen

    def at_latest(self, states: Tensor, wanted: Tensor, nothing: Tensor) -> Tensor:
        """The states (B, T, d) of the last step of the wanted domain (B, T) so far; `nothing` (d,) where none is."""
        place = self.latest.gather(2, (wanted - 1).clamp(min=0)[..., None])  # (B, T, 1)
        found = states.gather(1, place.clamp(min=0).expand(-1, -1, states.shape[-1]))
        return torch.where(place >= 0, found, nothing)

    def last_step(self, domain: int, at: Tensor) -> Tensor:
        """The last step of a domain no later than the steps ``at`` (B,), from 0: (B,); -1 where there is none."""
        return self.latest[..., domain - 1].gather(1, at[:, None])[:, 0]

    def mean(self, states: Tensor, domain: int | None = None) -> Tensor:
        """Mean of the states (B, T, d) over a row's steps of one domain, or over all, 0 where it has none: (B, d)."""
        counted = (self.domain > 0 if domain is None else self.domain == domain).to(states.dtype)[..., None]
        return (states * counted).sum(1) / counted.sum(1).clamp(min=1)

"""What keeps two representations apart, or one free of what tells its origin: reversal, alignment, separation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * grads[0], None


def reverse_gradient(x: Tensor, scale: float = 1.0) -> Tensor:
    """The identity, whose gradient comes back times `-scale` (Ganin & Lempitsky 2015)."""
    return _Reversal.apply(x, scale)


class DomainDiscriminator(nn.Module):
    """Logits of the domain each of a batch's vectors comes from, (n, width) -> (n, n_domains).

    It reads them standardised over the batch: a difference between domains must not hide by being small.
    """

    def __init__(self, width: int, n_domains: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, n_domains))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=0)
        return self.layers(centred / (centred.square().mean(dim=0) + 1e-8).sqrt())


class DomainCentring(nn.Module):
    """Take each domain's mean state away, so that no mean tells a domain: (B, T, width) -> the same.

    As the shift of domain-specific batch normalisation (Chang et al. 2019): the batch's own means while training,
    afterwards those that :meth:`settle` has found, so that a state does not depend on its company.

    Parameters
    ----------
    width, n_domains : int
    """

    means: Tensor

    def __init__(self, width: int, n_domains: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(n_domains + 1, width))

    def forward(self, states: Tensor, domain: Tensor) -> Tensor:
        """Centre states by their domains (B, T), from 1; 0 is padding and stays as it is."""
        return states - (self._means(states, domain) if self.training else self.means)[domain]

    @torch.no_grad()
    def settle(self, states: Tensor, domain: Tensor) -> None:
        """Keep the means of these states."""
        self.means.copy_(self._means(states, domain))

    def _means(self, states: Tensor, domain: Tensor) -> Tensor:
        is_of = F.one_hot(domain, len(self.means)).flatten(0, 1).to(states.dtype)  # (B * T, n_domains + 1)
        is_of[:, 0] = 0
        return is_of.T @ states.flatten(0, 1) / is_of.sum(0).clamp(min=1)[:, None]


def alignment(vectors: Tensor, references: Tensor) -> Tensor:
    r"""Mean squared distance to fixed references, both (B, d) of unit length first; references get no gradient.

    .. math:: L = \frac{1}{B} \sum_b \lVert \hat v_b - \mathrm{sg}(\hat r_b) \rVert^2
    """
    return (F.normalize(vectors, dim=-1) - F.normalize(references.detach(), dim=-1)).square().sum(-1).mean()


def separation(vectors: Tensor, others: Tensor, margin: float = 1.0) -> Tensor:
    r"""Hinge on the distance of vectors that are to stay apart, both (B, d) of unit length first.

    .. math:: L = \frac{1}{B} \sum_b \max(0, m - \lVert \hat v_b - \hat o_b \rVert)

    Of unit vectors, a margin of 1 asks for an angle of 60 degrees.
    """
    squared = (F.normalize(vectors, dim=-1) - F.normalize(others, dim=-1)).square().sum(-1)
    return F.relu(margin - squared.clamp(min=1e-12).sqrt()).mean()  # the root of 0 has no gradient


def probe_accuracy(vectors: Tensor, labels: Tensor) -> float:
    """How well a fresh linear probe tells labels: fitted on every other row, its share right on the rest.

    Parameters
    ----------
    vectors : Tensor (n, d)
        At least four.
    labels : Tensor (n,), int64
        From 0. Neighbouring rows should not be of the same user.

    Returns
    -------
    float
        Chance is the share of the most frequent label.
    """
    x = vectors.detach().double()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    wanted = F.one_hot(labels).double()
    fit = torch.arange(len(x), device=x.device) % 2 == 0
    gram = x[fit].T @ x[fit] + 1e-2 * fit.sum() * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(gram, x[fit].T @ wanted[fit])
    return float(((x[~fit] @ weights).argmax(1) == labels[~fit]).double().mean())

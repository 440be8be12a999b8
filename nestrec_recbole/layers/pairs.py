"""How well a user and an item go together, by a network over both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.layers.dropout import Dropout
from nestrec_recbole.layers.products import inner_products

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
INITIALISATIONS: dict[str, Callable[[Tensor], Any]] = {
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
}
CPU_ELEMENTS, GPU_ELEMENTS = 1 << 19, 1 << 26  # of a hidden layer held at once; on a CPU as much as its cache holds


class PairScorer(nn.Module):
    r"""An MLP over a user's and an item's vector side by side, plus, if wanted, their inner product.

    .. math:: s(u, v) = [u \cdot v] + MLP([u; v])

    The first layer of [u; v] is a sum of a user's part and an item's part, so that over a catalogue each is computed
    once and not once per pair. An MLP alone is slow to learn an inner product (Rendle et al. 2020); with it this is
    NeuMF (He et al. 2017) on shared vectors.

    Parameters
    ----------
    width : int
        Of both vectors.
    widths : sequence of int
        Of the hidden layers, at least one.
    activation, norm, initialisation : str
        Keys of ``ACTIVATIONS``, ``NORMS`` and ``INITIALISATIONS``.
    dropout : float
        Rate in 0..1 after each hidden layer.
    has_product : bool
        Add the inner product.
    """

    def __init__(
        self,
        width: int,
        widths: Sequence[int],
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        initialisation: str = "xavier_uniform",
        has_product: bool = True,
    ) -> None:
        super().__init__()
        self.of_user, self.of_item = nn.Linear(width, widths[0]), nn.Linear(width, widths[0], bias=False)
        layers: list[nn.Module] = []
        for inner, outer in zip(widths, (*widths[1:], 1), strict=True):
            layers += [NORMS[norm](inner), ACTIVATIONS[activation](), Dropout(dropout), nn.Linear(inner, outer)]
        self.rest = nn.Sequential(*layers)
        self.widest, self.has_product = max(widths), has_product
        with torch.no_grad():
            both = torch.empty(widths[0], 2 * width)  # fan-in and fan-out are those of the layer that the two make up
            INITIALISATIONS[initialisation](both)
            self.of_user.weight.copy_(both[:, :width])
            self.of_item.weight.copy_(both[:, width:])
            nn.init.zeros_(self.of_user.bias)
            for layer in self.rest:
                if isinstance(layer, nn.Linear):
                    INITIALISATIONS[initialisation](layer.weight)
                    nn.init.zeros_(layer.bias)

    def forward(self, users: Tensor, table: Tensor, items: Tensor) -> Tensor:
        """Score some items of a table (N, width) for each of the users (P, width): items (P, K) -> (P, K)."""
        hidden = self.of_user(users)[:, None] + F.embedding(items, self.of_item(table))
        scores = self._rest_of(hidden)
        return scores + (F.embedding(items, table) @ users[..., None])[..., 0] if self.has_product else scores

    def catalogue(self, users: Tensor, table: Tensor) -> Tensor:
        """Score every item of a table (N, width) for each of the users (B, width): (B, N), a piece at a time."""
        of_user, of_item = self.of_user(users), self.of_item(table)
        most = CPU_ELEMENTS if users.device.type == "cpu" else GPU_ELEMENTS
        n_users = max(1, min(len(users), most // (self.widest * min(len(table), 64))))
        n_items = max(1, most // (self.widest * n_users))
        scores = inner_products(users, table) if self.has_product else users.new_zeros(len(users), len(table))
        for row in range(0, len(users), n_users):
            for item in range(0, len(table), n_items):
                hidden = of_user[row : row + n_users, None] + of_item[None, item : item + n_items]
                scores[row : row + n_users, item : item + n_items] += self._rest_of(hidden)
        return scores

    def _rest_of(self, hidden: Tensor) -> Tensor:
        """The layers after the first, (P, K, inner) -> (P, K)."""
        return self.rest(hidden.flatten(0, 1)).view(hidden.shape[:2])

"""From the tokens of an item's modalities to one vector, in four ways; what an item lacks has no say in any of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nestrec_recbole.layers.qformer import Attention


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of the tokens (N, M, width) that are there (N, M): (N, width), zero where none is."""
    total = tokens.masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


class Concat(nn.Module):
    """A linear map of all tokens side by side; where one is missing there are zeros."""

    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.to_item = nn.Linear(n_tokens * width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Fuse tokens (N, M, width), of which those count where the mask (N, M) is True, to (N, width)."""
        return self.to_item(tokens.masked_fill(~mask[..., None], 0.0).flatten(1))


class Gated(nn.Module):
    """A sum of tokens, every feature of each under a gate that looks at all of them (GMU, Arevalo et al. 2017)."""

    def __init__(self, n_tokens: int, width: int) -> None:
        super().__init__()
        self.to_gates = nn.Linear(n_tokens * width, n_tokens * width)
        self.to_item = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`Concat.forward`."""
        there = tokens.masked_fill(~mask[..., None], 0.0)
        gates = torch.sigmoid(self.to_gates(there.flatten(1))).view_as(there)
        return self.to_item((gates * there).sum(dim=1))


class Reading(nn.Module):
    """Tokens attend to the tokens of a memory that are there, and stay as they are (but for a norm) where none is."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, width, heads, dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Map x (N, n, width) with a memory (N, M, width) and its mask (N, M) to (N, n, width)."""
        seeing = mask.any(dim=1)[:, None, None]  # the softmax of no logits is not a number
        return self.attention(x, memory, mask[:, None, None] | ~seeing[..., None], seeing)


class SelfAttention(nn.Module):
    """The mean of the tokens after each has attended to all of them."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.reading = Reading(width, heads, dropout)
        self.to_item = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`Concat.forward`."""
        there = tokens.masked_fill(~mask[..., None], 0.0)
        return self.to_item(masked_mean(self.reading(there, there, mask), mask))


class CrossModal(nn.Module):
    """The mean of the tokens after text has attended to image, and image to text; others stay as they are.

    Parameters
    ----------
    modalities : sequence of str
        Of each token; text and image must be among them.
    width, heads, dropout
        Of the two attentions.
    """

    def __init__(self, modalities: Sequence[str], width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.places = [[i for i, name in enumerate(modalities) if name == side] for side in ("text", "image")]
        self.others = [i for i, name in enumerate(modalities) if name not in ("text", "image")]
        self.readings = nn.ModuleList(Reading(width, heads, dropout) for _ in self.places)
        self.to_item = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`Concat.forward`."""
        there = tokens.masked_fill(~mask[..., None], 0.0)
        text, image = self.places
        read = [
            reading(there[:, own], there[:, other], mask[:, other])
            for reading, own, other in zip(self.readings, (text, image), (image, text), strict=True)
        ]
        order = [*text, *image, *self.others]
        return self.to_item(masked_mean(torch.cat([*read, there[:, self.others]], dim=1), mask[:, order]))


FUSIONS = ("concat", "gated", "attention", "cross_modal")


def build_fusion(kind: str, modalities: Sequence[str], width: int, heads: int, dropout: float = 0.0) -> nn.Module:
    """Build one of ``FUSIONS``: tokens (N, M, width) and their mask (N, M) -> (N, width).

    Parameters
    ----------
    kind : str
    modalities : sequence of M str
        Of each token.
    width, heads : int
        Of the tokens; of the attentions, where there are some.
    dropout : float
        Rate in 0..1 inside the attentions.

    Raises
    ------
    ValueError
        When the kind is unknown, or cross-modal attention lacks one of its two sides.
    """
    if kind == "cross_modal" and not {"text", "image"} <= set(modalities):
        raise ValueError(f"cross_modal needs tokens of text and of image, not of {', '.join(modalities)} only")
    if kind == "concat":
        fusion: nn.Module = Concat(len(modalities), width)
    elif kind == "gated":
        fusion = Gated(len(modalities), width)
    elif kind == "attention":
        fusion = SelfAttention(width, heads, dropout)
    elif kind == "cross_modal":
        fusion = CrossModal(modalities, width, heads, dropout)
    else:
        raise ValueError(f"unknown fusion {kind!r}; known: {', '.join(FUSIONS)}")
    for module in fusion.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    return fusion

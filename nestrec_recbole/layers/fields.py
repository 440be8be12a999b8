"""Field embeddings of items: any number of fields, each in its own width, missing ones masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


class FieldTokens(nn.Module):
    """One token per item field: projected features, plus a learned field and a modality embedding.

    Parameters
    ----------
    values : sequence of numpy.ndarray, each of shape (n_items, width of the field)
        Frozen features; kept as buffers outside the state dict.
    masks : sequence of numpy.ndarray, each of shape (n_items,), bool
        True where the item has the field.
    modalities : sequence of str
        Modality of each field.
    width : int
        Width of the tokens.
    """

    mask: Tensor
    modality: Tensor

    def __init__(
        self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray], modalities: Sequence[str], width: int
    ) -> None:
        super().__init__()
        for index, (field, mask) in enumerate(zip(values, masks, strict=True)):
            self.register_buffer(f"features_{index}", torch.from_numpy(standardise(field, mask)), persistent=False)
        self.register_buffer("mask", torch.from_numpy(np.stack(masks, axis=1)), persistent=False)
        self.projections = nn.ModuleList(nn.Linear(field.shape[1], width) for field in values)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in values)
        self.widths = [field.shape[1] for field in values]
        names = sorted(set(modalities))
        self.register_buffer("modality", torch.tensor([names.index(m) for m in modalities]), persistent=False)
        self.field_embedding = nn.Parameter(torch.randn(len(values), width) * 0.02)
        self.modality_embedding = nn.Parameter(torch.randn(len(names), width) * 0.02)

    def features(self) -> list[Tensor]:
        """The standardised features of each field: (n_items, width of the field), zero where it is missing."""
        return [getattr(self, f"features_{index}") for index in range(len(self.widths))]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Tokens (n_items, n_fields, width) and their mask (n_items, n_fields), True where a field is there."""
        tokens = [
            norm(project(features))
            for features, project, norm in zip(self.features(), self.projections, self.norms, strict=True)
        ]
        kinds = self.field_embedding + self.modality_embedding[self.modality]  # (n_fields, width)
        return torch.stack(tokens, dim=1) + kinds, self.mask


def standardise(field: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Centre and scale each feature over the items that have the field; a constant feature becomes 0.

    Sentence embeddings all point much the same way; what tells items apart is the rest (Zhang et al. 2024, WhitenRec).

    Parameters
    ----------
    field : numpy.ndarray of shape (n_items, width)
    mask : numpy.ndarray of shape (n_items,), bool

    Returns
    -------
    numpy.ndarray of shape (n_items, width), float32
        Zero where the field is missing.
    """
    known = field[mask].astype(np.float64)
    spread = known.std(axis=0)
    scaled = np.zeros(field.shape, dtype=np.float32)
    scaled[mask] = (known - known.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    return scaled

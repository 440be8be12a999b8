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
    views : sequence of numpy.ndarray or None, each of shape (n_views - 1, n_items, width of the field), optional
        The fields of altered items (frozen encoders cannot alter them on the fly). While training, each item's view is
        drawn anew in each forward; in evaluation it is ``values``.
    """

    mask: Tensor
    modality: Tensor

    def __init__(
        self,
        values: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        modalities: Sequence[str],
        width: int,
        views: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        super().__init__()
        for index, (field, mask, more) in enumerate(zip(values, masks, views or [None] * len(values), strict=True)):
            features = np.stack([standardise(view, mask, field) for view in (field, *(() if more is None else more))])
            self.register_buffer(f"features_{index}", torch.from_numpy(features), persistent=False)
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
        return [views[0] for views in self._views()]

    def _views(self) -> list[Tensor]:
        return [getattr(self, f"features_{index}") for index in range(len(self.widths))]

    def forward(self) -> tuple[Tensor, Tensor]:
        """Tokens (n_items, n_fields, width) and their mask (n_items, n_fields), True where a field is there."""
        tokens = [
            norm(project(self._view(views)))
            for views, project, norm in zip(self._views(), self.projections, self.norms, strict=True)
        ]
        kinds = self.field_embedding + self.modality_embedding[self.modality]  # (n_fields, width)
        return torch.stack(tokens, dim=1) + kinds, self.mask

    def _view(self, features: Tensor) -> Tensor:
        """One view of each item, (n_items, width) of (n_views, n_items, width)."""
        n_views, n_items, _ = features.shape
        if not self.training or n_views == 1:
            return features[0]
        drawn = torch.randint(n_views, (n_items,), device=features.device)
        return features[drawn, torch.arange(n_items, device=features.device)]


def standardise(field: np.ndarray, mask: np.ndarray, by: np.ndarray | None = None) -> np.ndarray:
    """Centre and scale each feature over the items that have the field; a constant feature becomes 0.

    Sentence embeddings all point much the same way; what tells items apart is the rest (Zhang et al. 2024, WhitenRec).

    Parameters
    ----------
    field : numpy.ndarray of shape (n_items, width)
    mask : numpy.ndarray of shape (n_items,), bool
    by : numpy.ndarray of shape (n_items, width), optional
        What mean and scale are taken from; ``field`` by default.

    Returns
    -------
    numpy.ndarray of shape (n_items, width), float32
        Zero where the field is missing.
    """
    known = (field if by is None else by)[mask].astype(np.float64)
    spread = known.std(axis=0)
    scaled = np.zeros(field.shape, dtype=np.float32)
    scaled[mask] = (field[mask] - known.mean(axis=0)) / np.where(spread > 1e-6, spread, np.inf)
    return scaled

"""Field embeddings of items: any number of fields, each in its own width, missing ones masked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nestrec_recbole.layers.full_softmax import at_least_float32
from nestrec_recbole.layers.unit import unit

Scale = tuple[np.ndarray, np.ndarray]  # centre and spread of each feature
AS_IT_IS: Scale = np.zeros(1), np.ones(1)
ALL = slice(None)  # items
BLOCK = 1 << 14  # items whose features are held in float64 at once


class FrozenFields(nn.Module):
    """Features of items that no training changes, each field in its own width, missing ones masked.

    Parameters
    ----------
    values : sequence of numpy.ndarray, each of shape (n_items, width of the field)
        Frozen features; kept as buffers outside the state dict.
    masks : sequence of numpy.ndarray, each of shape (n_items,), bool
        True where the item has the field.
    views : sequence of numpy.ndarray or None, each of shape (n_views - 1, n_items, width of the field), optional
        The fields of altered items (frozen encoders cannot alter them on the fly). While training, each item's view is
        drawn anew in each forward; in evaluation it is ``values``.
    standardised : bool
        Centre and scale the features, see :func:`standardise`.
    known : numpy.ndarray of shape (n_items,), bool, optional
        Items that features are standardised by, such as those of the training data; all by default.
    """

    mask: Tensor

    def __init__(
        self,
        values: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        views: Sequence[np.ndarray | None] | None = None,
        standardised: bool = True,
        known: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.scales: list[Scale] = []
        for index, (field, mask, more) in enumerate(zip(values, masks, views or [None] * len(values), strict=True)):
            scale = scale_of(field, mask, known) if standardised else AS_IT_IS
            of_views = (field, *(() if more is None else more))
            features = np.zeros((len(of_views), *field.shape), dtype=np.float32)
            for target, view in zip(features, of_views, strict=True):
                _standardise_into(target, view, mask, scale)
            self.register_buffer(f"features_{index}", torch.from_numpy(features), persistent=False)
            self.scales.append(scale)
        self.register_buffer("mask", torch.from_numpy(np.stack(masks, axis=1)), persistent=False)
        self.widths = [field.shape[1] for field in values]

    def features(self) -> list[Tensor]:
        """The features of each field: (n_items, width of the field), zero where it is missing."""
        return [views[0] for views in self._views()]

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """Append items that came after training, on the scale of those before them.

        Parameters
        ----------
        values, masks : sequences of numpy.ndarray, each of shape (n, width of the field) and (n,)
            In the order of the fields.
        """
        for index, (field, mask, scale) in enumerate(zip(values, masks, self.scales, strict=True)):
            known = getattr(self, f"features_{index}")
            new = torch.from_numpy(standardise(field, mask, scale)).to(known.device)
            setattr(self, f"features_{index}", torch.cat([known, new.expand(len(known), -1, -1)], dim=1))
        new_mask = torch.from_numpy(np.stack(masks, axis=1)).to(self.mask.device)
        self.mask = torch.cat([self.mask, new_mask])

    def _views(self) -> list[Tensor]:
        return [getattr(self, f"features_{index}") for index in range(len(self.widths))]

    def _drawn(self, items: Tensor | slice = ALL) -> list[Tensor]:
        """One view of each item for every field, (m, width of the field) of (n_views, n_items, width)."""
        return [self._draw(views, items) for views in self._views()]

    def _draw(self, features: Tensor, items: Tensor | slice) -> Tensor:
        n_views, n_items, _ = features.shape
        if not self.training or n_views == 1:
            return features[0, items]
        ids = torch.arange(n_items, device=features.device)[items]
        return features[torch.randint(n_views, ids.shape, device=features.device), ids]


class FieldTokens(FrozenFields):
    """One token per item field: projected features, plus a learned field and a modality embedding.

    Parameters are those of :class:`FrozenFields`, and

    modalities : sequence of str
        Modality of each field.
    width : int
        Width of the tokens.
    """

    modality: Tensor

    def __init__(
        self,
        values: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        modalities: Sequence[str],
        width: int,
        views: Sequence[np.ndarray | None] | None = None,
        known: np.ndarray | None = None,
    ) -> None:
        super().__init__(values, masks, views, known=known)
        self.projections = nn.ModuleList(nn.Linear(field.shape[1], width) for field in values)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in values)
        names = sorted(set(modalities))
        self.register_buffer("modality", torch.tensor([names.index(m) for m in modalities]), persistent=False)
        self.field_embedding = nn.Parameter(torch.randn(len(values), width) * 0.02)
        self.modality_embedding = nn.Parameter(torch.randn(len(names), width) * 0.02)

    def forward(self, items: Tensor | slice = ALL) -> tuple[Tensor, Tensor]:
        """Tokens (m, n_fields, width) of items and their mask (m, n_fields), True where a field is there."""
        read = zip(self._drawn(items), self.projections, self.norms, strict=True)
        tokens = [norm(project(features)) for features, project, norm in read]
        kinds = self.field_embedding + self.modality_embedding[self.modality]  # (n_fields, width)
        return torch.stack(tokens, dim=1) + kinds, self.mask[items]


class MeanOfFields(nn.Module):
    """The plain way to one token: the mean of the fields that an item has, zero where it has none."""

    def forward(self, memory: Tensor, mask: Tensor) -> Tensor:
        """Average field tokens (m, n_fields, width) where ``mask`` (m, n_fields) is True: (m, 1, width)."""
        weights = mask.to(memory.dtype) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return weights[:, None] @ memory


class FieldSum(FrozenFields):
    """The sum of the fields that an item has, of unit length.

    Parameters are those of :class:`FrozenFields`, and

    width : int
        Of the sum. Fields are projected to it; raw ones only where they have another width.
    raw : bool
        Take features as they are, not standardised.
    """

    def __init__(
        self,
        values: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        width: int,
        views: Sequence[np.ndarray | None] | None = None,
        raw: bool = False,
        known: np.ndarray | None = None,
    ) -> None:
        super().__init__(values, masks, views, standardised=not raw, known=known)
        fits = [raw and field.shape[1] == width for field in values]
        self.projections = nn.ModuleList(
            nn.Identity() if fit else nn.Linear(field.shape[1], width) for field, fit in zip(values, fits, strict=True)
        )

    def forward(self, items: Tensor | slice = ALL) -> Tensor:
        """Sums (m, width) of length 1 of items (m,); zero where an item has no field."""
        parts = [project(features) for features, project in zip(self._drawn(items), self.projections, strict=True)]
        there = self.mask[items].T[:, :, None]  # (n_fields, m, 1)
        # In float32 from here on: of a row of zeros, the gradient before it meets the mask is too large for float16.
        wide = [part.to(at_least_float32(part)) for part in parts]
        return unit(torch.stack([part * has for part, has in zip(wide, there, strict=True)]).sum(dim=0))


def standardise(field: np.ndarray, mask: np.ndarray, scale: Scale | None = None) -> np.ndarray:
    """Centre and scale each feature over the items that have the field; a constant feature becomes 0.

    Sentence embeddings all point much the same way; what tells items apart is the rest (Zhang et al. 2024, WhitenRec).

    Parameters
    ----------
    field : numpy.ndarray of shape (n_items, width)
    mask : numpy.ndarray of shape (n_items,), bool
    scale : (centre, spread), optional
        By which; that of the field by default.

    Returns
    -------
    numpy.ndarray of shape (n_items, width), float32
        Zero where the field is missing.
    """
    scaled = np.zeros(field.shape, dtype=np.float32)
    _standardise_into(scaled, field, mask, scale or scale_of(field, mask))
    return scaled


def _standardise_into(target: np.ndarray, field: np.ndarray, mask: np.ndarray, scale: Scale) -> None:
    """:func:`standardise` into zeros, block by block."""
    centre, spread = scale
    for rows in np.array_split(np.flatnonzero(mask), len(field) // BLOCK + 1):
        target[rows] = (field[rows] - centre) / spread


def scale_of(field: np.ndarray, mask: np.ndarray, known: np.ndarray | None = None) -> Scale:
    """Mean and standard deviation of each feature over the items that have the field; infinity for a constant one.

    Only ``known`` items count, where any of them has the field.
    """
    rows = mask if known is None or not (mask & known).any() else mask & known
    blocks = np.array_split(np.flatnonzero(rows), len(field) // BLOCK + 1)
    n = max(1, int(rows.sum()))
    centre = sum(field[block].sum(axis=0, dtype=np.float64) for block in blocks) / n
    spread = np.sqrt(sum(((field[block] - centre) ** 2).sum(axis=0) for block in blocks) / n)
    return centre, np.where(spread > 1e-6, spread, np.inf)

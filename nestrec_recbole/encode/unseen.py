"""Items that came after training, encoded as the fields of a catalogue were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.data.reduction import Reduction
from nestrec_recbole.encode.engine import encode_shard, open_encoder
from nestrec_recbole.encode.image import Picture
from nestrec_recbole.encode.recipe import IMPORTED, Recipe
from nestrec_recbole.errors import NestRecError

BATCH = 64


@dataclass(frozen=True)
class UnseenField:
    """A field of items that are in no store.

    Attributes
    ----------
    values : numpy.ndarray of shape (n, width), float32
        Zero where the field is missing.
    mask : numpy.ndarray of shape (n,), bool
    """

    values: np.ndarray
    mask: np.ndarray


def can_encode(recipe: Recipe) -> bool:
    """Whether an item can be encoded by itself: by a model, not as part of a column."""
    return recipe.is_model and recipe.encoder != IMPORTED


def encode_unseen(recipe: Recipe, store: Path, inputs: Sequence[str | Path | None]) -> UnseenField:
    """Encode texts or image files as those of a store were.

    Parameters
    ----------
    recipe : Recipe
        Of the field.
    store : Path
        Of the field, see :class:`nestrec_recbole.data.features.FeatureStore`.
    inputs : sequence of n str, Path or None
        None where an item has no such text or image. An image that cannot be read counts as missing too.

    Raises
    ------
    NestRecError
        When the encoder cannot be loaded, or gives other features than those in the store.
    """
    known = FeatureStore.open(store)
    values = np.zeros((len(inputs), known.manifest.width), dtype=np.float32)
    mask = np.array([one is not None for one in inputs], dtype=bool)
    shard = [Picture(str(one), "") if isinstance(one, Path) else one for one in inputs if one is not None]
    if not shard:
        return UnseenField(values, mask)
    encoded = encode_shard(open_encoder(recipe), shard, recipe, BATCH)
    if recipe.is_fitted:
        encoded = Reduction.from_array(known.reduction()).apply(encoded).astype(np.float16)
    if encoded.shape[1] != values.shape[1]:
        raise NestRecError(
            f"encoder {recipe.encoder!r} gives {encoded.shape[1]} features, but {store} has {values.shape[1]}"
        )
    readable = np.isfinite(encoded).all(axis=1)
    mask[mask] = readable
    values[mask] = encoded[readable]
    return UnseenField(values, mask)

"""What encoding runs on, and how one shard is encoded wherever that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestrec_recbole.data.vectors import unit_rows
from nestrec_recbole.encode.encoder import Encoder
from nestrec_recbole.encode.image import Picture, open_image_encoder
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.text import open_text_encoder
from nestrec_recbole.errors import NestRecError

Shard = Sequence[str | Picture]


@dataclass(frozen=True)
class Engine:
    """What encoding runs on; the features are the same, to the bit, on one machine's engines.

    Attributes
    ----------
    name : str
        ``local``: this process. ``ray``: the workers of a Ray cluster.
    address : str, optional
        Of the cluster; a local one is started where it is left out.
    workers : int
        Of a cluster.
    batch_size : int
        Inputs per forward.
    progress : bool
        Show a progress bar.
    """

    name: str = "local"
    address: str | None = None
    workers: int = 2
    batch_size: int = 64
    progress: bool = True


def input_key(one: str | Picture) -> str:
    """What is equal for inputs that are encoded to the same."""
    return f"{one.digest} {one.view}" if isinstance(one, Picture) else one


def encode_shard(encoder: Encoder, shard: Shard, recipe: Recipe, batch_size: int) -> np.ndarray:
    """Encode one shard, batch by batch: (n, width) float16, rows of unit length."""
    values = encoder.in_batches(shard, batch_size)
    if recipe.width is not None and not recipe.is_fitted:
        if values.shape[1] < recipe.width:
            raise NestRecError(f"encoder {recipe.encoder!r} gives {values.shape[1]} features, width is {recipe.width}")
        values = values[:, : recipe.width]
    return unit_rows(values).astype(np.float16)


def open_encoder(recipe: Recipe) -> Encoder:
    """Load the encoder of a recipe for texts or images."""
    return open_text_encoder(recipe) if recipe.modality == "text" else open_image_encoder(recipe)

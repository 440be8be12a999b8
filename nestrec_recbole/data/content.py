"""What an item is by its fields, as one vector."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger

import numpy as np

from nestrec_recbole.data.features import ItemField
from nestrec_recbole.data.vectors import unit_rows
from nestrec_recbole.errors import NestRecError

COMPARABLE = ("text", "image")  # their cosines mean likeness; those of numbers do not


def item_content(fields: Sequence[ItemField]) -> np.ndarray:
    """Join text and image features, each of unit length, so that a cosine is the mean of the fields' cosines.

    Parameters
    ----------
    fields : sequence of ItemField

    Returns
    -------
    numpy.ndarray of shape (n_items, d), float32
        Rows of items without text and image are zero.

    Raises
    ------
    NestRecError
        When no field is text or image.
    """
    parts = [unit_rows(field.values) for field in fields if field.modality in COMPARABLE]
    if not parts:
        raise NestRecError("item_fields names no text or image: items cannot be told to be alike; add one, say a title")
    return np.concatenate(parts, axis=1)


def warn_of_bare_items(mask: np.ndarray, tokens: np.ndarray) -> None:
    """Say which items no field tells apart, where no id does either.

    Parameters
    ----------
    mask : numpy.ndarray of shape (n_items, n_fields), bool
        True where an item has a field; row 0 is the padding item.
    tokens : numpy.ndarray of shape (n_items,)
    """
    bare = 1 + np.flatnonzero(~mask[1:].any(axis=1))
    if len(bare):
        getLogger().warning(
            "%d of %d items, %r among them, have none of the item_fields and are all alike; add a field that they "
            "have, or set use_ids: True",
            len(bare),
            len(mask) - 1,
            str(tokens[bare[0]]),
        )

"""Categories to features: exact while there are few, hashed when there are many."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from nestrec_recbole.data.vectors import unit_rows
from nestrec_recbole.errors import NestRecError

MOST = 1024  # values that one-hot features are made of
BUCKETS = 256


def encode_categories(cells: Sequence[Sequence[str]], encoder: str = "one_hot", width: int | None = None) -> np.ndarray:
    """Encode the categories of each item, one or several.

    A linear layer over one-hot features is an embedding per value, which is what a category should have as long as most
    values are seen often enough to learn one; so that is the default, up to 1,024 values. Brands by the thousand are
    better hashed, or, where their names say something, encoded as text (``modality: text``).

    Parameters
    ----------
    cells : sequence of sequences of str
        The values of each item; at least one each.
    encoder : str
        ``one_hot``: a feature per value. ``hash``: each value adds a sign to two of ``width`` features, which keeps
        inner products right in the mean whatever the number of values (Weinberger et al., 2009).
    width : int, optional
        Features of ``hash``; 256 by default.

    Returns
    -------
    numpy.ndarray of shape (n, width), float32
        Rows of unit length, but for values that hashing cancels out.

    Raises
    ------
    NestRecError
        When there are too many values for one-hot features.
    """
    values = sorted({value for cell in cells for value in cell})
    if encoder == "one_hot":
        if len(values) > MOST:
            raise NestRecError(f"{len(values)} different values; use `encoder: hash`, or `modality: text`")
        codes = np.eye(len(values), dtype=np.float32)
    else:
        codes = np.stack([_hash(value, width or BUCKETS) for value in values])
    number = {value: place for place, value in enumerate(values)}
    return unit_rows(np.stack([codes[[number[value] for value in dict.fromkeys(cell)]].sum(axis=0) for cell in cells]))


def _hash(value: str, width: int) -> np.ndarray:
    code = np.zeros(width, dtype=np.float32)
    digest = hashlib.sha256(value.encode()).digest()
    for part in (digest[:8], digest[8:16]):
        number = int.from_bytes(part, "little")
        code[(number >> 1) % width] += 1 if number & 1 else -1
    return code

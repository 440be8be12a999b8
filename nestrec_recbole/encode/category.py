"""Categories to features: exact while there are few, hashed when there are many."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.sparse import csr_array, eye_array

from nestrec_recbole.errors import NestRecError

MOST = 1024  # values that one-hot features are made of
BUCKETS = 256


@dataclass(frozen=True)
class SparseRows:
    """A matrix (n, width) of few numbers other than 0, of which only the rows that are asked for are written out.

    Attributes
    ----------
    matrix : scipy.sparse.csr_array of shape (n, width)
    values : str
        A hash of what the columns stand for, where there is one for each value of the data.
    """

    matrix: csr_array
    values: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def dtype(self) -> np.dtype:
        return self.matrix.dtype

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        return self.matrix[part].toarray()


def encode_categories(cells: Sequence[Sequence[str]], encoder: str = "one_hot", width: int | None = None) -> SparseRows:
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
    SparseRows of shape (n, width), float32
        Rows of unit length, but for values that hashing cancels out.

    Raises
    ------
    NestRecError
        When there are too many values for one-hot features.
    """
    distinct = [dict.fromkeys(cell) for cell in cells]
    number = {value: place for place, value in enumerate(sorted(set(chain.from_iterable(distinct))))}
    if encoder == "one_hot":
        if len(number) > MOST:
            raise NestRecError(f"{len(number)} different values; use `encoder: hash`, or `modality: text`")
        codes = eye_array(len(number), dtype=np.float32, format="csr")
    else:
        codes = csr_array(np.stack([_hash(value, width or BUCKETS) for value in number]))
    columns = np.fromiter((number[value] for value in chain.from_iterable(distinct)), dtype=np.int64)
    starts = np.r_[0, np.cumsum([len(cell) for cell in distinct])]
    held = csr_array((np.ones(len(columns), dtype=np.float32), columns, starts), shape=(len(cells), len(number)))
    rows = csr_array(held @ codes)
    lengths = np.sqrt(rows.multiply(rows).sum(axis=1))
    rows.data /= np.repeat(np.where(lengths > 0, lengths, 1), np.diff(rows.indptr))
    one_each = hashlib.sha256("\x00".join(number).encode()).hexdigest() if encoder == "one_hot" else ""
    return SparseRows(rows, one_each)


def _hash(value: str, width: int) -> np.ndarray:
    code = np.zeros(width, dtype=np.float32)
    digest = hashlib.sha256(value.encode()).digest()
    for part in (digest[:8], digest[8:16]):
        number = int.from_bytes(part, "little")
        code[(number >> 1) % width] += 1 if number & 1 else -1
    return code

"""Users and items that are there too seldom, or too often."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def within_counts(
    columns: Sequence[np.ndarray], allowed: Sequence[Callable[[np.ndarray], np.ndarray]]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Leave out ids by how often they are there, and the rows that they are in, until every id may stay (k-core).

    Parameters
    ----------
    columns : sequence of numpy.ndarray of shape (n,), int64
        Ids from 0, such as users and items of interactions.
    allowed : sequence of callable
        Counts (n_ids,) -> whether an id of that column may be there so many times.

    Returns
    -------
    rows : numpy.ndarray of shape (n_kept,), int64
        Ascending.
    left_out : list of numpy.ndarray of shape (n_ids,), bool
        Of each column.
    """
    rows = np.arange(len(columns[0]))
    left_out = [np.zeros(column.max(initial=-1) + 1, dtype=bool) for column in columns]
    while True:
        may_stay = np.ones(len(rows), dtype=bool)
        for column, is_allowed, out in zip(columns, allowed, left_out, strict=True):
            counts = np.bincount(column[rows], minlength=len(out))
            out |= (counts > 0) & ~is_allowed(counts)
            may_stay &= ~out[column[rows]]
        if may_stay.all():
            return rows, left_out
        rows = rows[may_stay]

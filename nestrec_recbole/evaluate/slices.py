"""Where a model is good: its metric by length of history, popularity of the target, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

HEAD, MIDDLE = 0.5, 0.8  # shares of all training interactions that the most popular items hold
_LENGTHS = (1, 5, 10, 20, 50)


@dataclass(frozen=True)
class Slicing:
    """A division of held-out targets.

    Attributes
    ----------
    name : str
    labels : list of str
        What each slice is.
    slice_of : numpy.ndarray of shape (n_rows,), int64
        Place in ``labels``.
    """

    name: str
    labels: list[str]
    slice_of: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Rows in each slice."""
        return np.bincount(self.slice_of, minlength=len(self.labels))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of the values (n_rows,) in each slice, NaN where it is empty: (n_labels,)."""
        total = np.bincount(self.slice_of, weights=values, minlength=len(self.labels))
        counts = self.counts
        return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def slicings(ranks: pd.DataFrame, items: pd.DataFrame | None) -> list[Slicing]:
    """Divide a run's held-out targets in every way that its columns allow.

    Parameters
    ----------
    ranks : pandas.DataFrame
        With ``item``, and ``history_length`` and ``tied`` where they are known.
    items : pandas.DataFrame or None
        With ``item`` and ``train_count``, and ``has_text`` and ``has_image`` where they are known.
    """
    found = []
    if "history_length" in ranks:
        found.append(by_history_length(ranks["history_length"].to_numpy()))
    if "tied" in ranks:
        labels = ["no other item at the target's time", "order among equal times is arbitrary"]
        found.append(Slicing("time ties", labels, ranks["tied"].to_numpy().astype(np.int64)))
    if items is None:
        return found
    items = items.set_index("item")
    row = items.index.get_indexer(ranks["item"])
    found.append(by_popularity(items["train_count"].to_numpy(), row))
    for column, name in (("has_text", "text"), ("has_image", "image")):
        if column in items:
            known = (row >= 0) & items[column].to_numpy().astype(bool)[row]
            found.append(Slicing(name, [f"without {name}", f"with {name}"], known.astype(np.int64)))
    return found


def by_history_length(lengths: np.ndarray) -> Slicing:
    """Divide by how many items the user had taken before."""
    starts = np.array(_LENGTHS)
    labels = [f"{low} to {high - 1}" for low, high in pairwise(_LENGTHS)]
    slice_of = np.maximum(np.searchsorted(starts, lengths, side="right") - 1, 0)
    return Slicing("history length", [*labels, f"{_LENGTHS[-1]} and more"], slice_of)


def by_popularity(counts: np.ndarray, row: np.ndarray) -> Slicing:
    """Divide by the target's interactions in training: head, middle, tail, and cold items that have none.

    The head is the fewest items that hold half of all training interactions, head and middle those that hold 80 %;
    items of one count go together.

    Parameters
    ----------
    counts : numpy.ndarray of shape (n_items,)
        Interactions in training.
    row : numpy.ndarray of shape (n_rows,), int64
        Place of each target in ``counts``; -1 for an item that is not there.
    """
    descending = np.sort(counts)[::-1]
    held = descending.cumsum()
    head, middle = (
        max(int(descending[np.searchsorted(held, share * held[-1])]), 1) if len(held) and held[-1] else 1
        for share in (HEAD, MIDDLE)
    )
    own = np.where(row >= 0, counts[row], 0)
    slice_of = np.select([own >= head, own >= middle, own > 0], [0, 1, 2], 3)
    labels = [f"head: {head} and more", f"middle: {_span(middle, head)}", f"tail: {_span(1, middle)}", "cold: none"]
    return Slicing("training interactions of the target", labels, slice_of)


def _span(low: int, end: int) -> str:
    return "empty" if low >= end else str(low) if low == end - 1 else f"{low} to {end - 1}"

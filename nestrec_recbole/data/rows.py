"""Rows of (user, history, target) as three numbers each, over columns that hold every interaction once. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class RowIndex:
    """Of row i ``items[starts[i]:ends[i]]`` is the history and ``items[ends[i]]`` the target.

    Attributes
    ----------
    items : numpy.ndarray of shape (n_interactions,), int32
        Item ids, user after user, in time order.
    owners : numpy.ndarray of shape (n_interactions,), int32
        The user of each.
    times : numpy.ndarray of shape (n_interactions,), int64 or float64, or None
        When each was, as the file has it; integers where that loses nothing.
    columns : dict of str to numpy.ndarray of shape (n_interactions, ...)
        What else the file says of each, by its name.
    users, starts, ends : numpy.ndarray of shape (n_rows,)
        One entry a row; ends are ascending unless :meth:`select` has put the rows in another order.
    """

    items: np.ndarray
    owners: np.ndarray
    times: np.ndarray | None
    columns: dict[str, np.ndarray]
    users: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of_users(
        cls, items: np.ndarray, owners: np.ndarray, times: np.ndarray, columns: dict[str, np.ndarray]
    ) -> RowIndex:
        """A row for each interaction but every user's first, which has no history to be predicted from."""
        index_type = np.int32 if len(owners) < 2**31 else np.int64
        first = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        counts = np.diff(np.r_[first, len(owners)])
        is_target = np.ones(len(owners), dtype=bool)
        is_target[first] = False
        starts = np.repeat(first, counts)[is_target].astype(index_type)
        ends = np.flatnonzero(is_target).astype(index_type)
        return cls(items, owners, times, columns, owners[is_target], starts, ends)

    @classmethod
    def of_histories(cls, users: np.ndarray, histories: Sequence[np.ndarray], targets: np.ndarray) -> RowIndex:
        """Rows whose histories are written out, none of them empty: each becomes a stretch of its own."""
        lengths = np.array([len(history) for history in histories])
        ends = np.cumsum(lengths + 1) - 1
        items = np.empty(ends[-1] + 1, dtype=np.int32)
        items[ends] = targets
        in_history = np.ones(len(items), dtype=bool)
        in_history[ends] = False
        items[in_history] = np.concatenate(histories)
        owners = np.repeat(users, lengths + 1)
        return cls(items, owners, None, {}, users, (ends - lengths).astype(np.int32), ends.astype(np.int32))

    def __len__(self) -> int:
        return len(self.ends)

    def select(self, rows: np.ndarray) -> RowIndex:
        """These rows (n,), in this order, over the same interactions."""
        return replace(self, users=self.users[rows], starts=self.starts[rows], ends=self.ends[rows])

    def without(self, dropped: np.ndarray) -> RowIndex:
        """The same without some of the interactions, (n_interactions,) bool: histories are closed up where they stood.

        Rows that lose their target, or all of their history, go too.
        """
        kept = ~dropped
        if kept.all():
            return self
        place = (np.cumsum(kept) - kept).astype(self.ends.dtype)  # how many are kept before it
        starts, ends = place[self.starts], place[self.ends]
        rows = kept[self.ends] & (starts < ends)
        return RowIndex(
            self.items[kept],
            self.owners[kept],
            None if self.times is None else self.times[kept],
            {name: column[kept] for name, column in self.columns.items()},
            self.users[rows],
            starts[rows],
            ends[rows],
        )

    def blanked(self) -> RowIndex:
        """The same rows, with zeros for every interaction that is in none of them; whose it was stays."""
        n = len(self.items)
        change = np.bincount(self.starts, minlength=n + 1) - np.bincount(self.ends + 1, minlength=n + 1)
        is_seen = change[:n].cumsum() > 0
        columns = {name: _zeroed(column, ~is_seen) for name, column in self.columns.items()}
        times = None if self.times is None else _zeroed(self.times, ~is_seen)
        return replace(self, items=_zeroed(self.items, ~is_seen), times=times, columns=columns)

    def training_positions(self) -> np.ndarray:
        """Where every interaction lies that these rows may be trained on, targets and histories: (n,) int64.

        Rows of the same start are neighbours, the longest last; ascending unless the rows are in another order.
        """
        is_last = np.r_[self.starts[1:] != self.starts[:-1], True] if len(self) else np.zeros(0, dtype=bool)
        starts = self.starts[is_last].astype(np.int64)
        return ragged_positions(starts, self.ends[is_last] + 1 - starts)

    def interactions(self, in_order: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of every interaction that these rows may be trained on, both (n,) int64.

        Where histories are written out, one that another of its user continues is counted as a part of that one.
        ``in_order``, those of a user stand together and in order of time, whatever order the rows are in.
        """
        positions = self.known_positions()
        if in_order and self.times is not None:
            positions = np.sort(positions)
        return self.owners[positions].astype(np.int64), self.items[positions].astype(np.int64)

    def known_positions(self) -> np.ndarray:
        """Where the :meth:`interactions` lie: (n,) int64.

        They are in the order of :meth:`training_positions`, or where histories are written out by user and time.
        """
        return self.training_positions() if self.times is not None else self._positions_once()

    def _positions_once(self) -> np.ndarray:
        """As :meth:`training_positions`, of each user's shortest written-out history and of all targets, in order."""
        order = np.lexsort((self.ends - self.starts, self.users))
        users, starts, ends = self.users[order], self.starts[order].astype(np.int64), self.ends[order].astype(np.int64)
        is_shortest = np.r_[True, users[1:] != users[:-1]][: len(users)]
        starts = np.where(is_shortest, starts, ends)  # of a longer history only its target is new
        return ragged_positions(starts, ends + 1 - starts)

    def whole_histories(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts and stops, both (n,) int64, of all that users (n,) have taken, targets too; equal where there is none.

        Where histories are written out, that is a user's last row, the longest.
        """
        if self.times is not None:
            return np.searchsorted(self.owners, users), np.searchsorted(self.owners, users, "right")
        last = np.full(max(users.max(initial=0), self.users.max(initial=0)) + 1, -1)
        last[self.users] = np.arange(len(self))
        rows = last[users]
        starts, stops = (np.r_[ends, 0][rows].astype(np.int64) for ends in (self.starts, self.ends + 1))
        return starts, stops  # of -1, who is in no row, both are 0

    def windows(self, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts and ends, both (B,) int64, of the last ``width`` items of rows' histories."""
        ends = self.ends[rows].astype(np.int64)
        return np.maximum(self.starts[rows], ends - width), ends


def gather(column: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int) -> np.ndarray:
    """Cut ``column[start:end]`` for each row and pad it on the right with zeros.

    Parameters
    ----------
    column : numpy.ndarray of shape (n, ...)
    starts, ends : numpy.ndarray of shape (B,)
        With ``ends - starts <= width``.

    Returns
    -------
    numpy.ndarray of shape (B, width, ...)
    """
    place = starts[:, None] + np.arange(width)
    inside = place < ends[:, None]
    cut = column[np.minimum(place, len(column) - 1)]
    cut[~inside] = 0
    return cut


def ragged_positions(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers ``start, start + 1, ...``, so many as its length, of each stretch, one behind the other.

    >>> ragged_positions(np.array([7, 3]), np.array([2, 3])).tolist()
    [7, 8, 3, 4, 5]
    """
    before = np.cumsum(lengths) - lengths  # entries of the stretches before
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _zeroed(column: np.ndarray, places: np.ndarray) -> np.ndarray:
    column = column.copy()
    column[places] = 0
    return column

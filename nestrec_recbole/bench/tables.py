"""What a run leaves behind of every tested user: ranks, and what was recommended after what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.rows import ragged_positions
from nestrec_recbole.evaluate.ranking import Ranks, write_ranks

SHOWN = 10  # items of a history and of a list that are kept


def write_tables(ranks: Ranks, test: SequenceDataset, folder: Path) -> None:
    """Write ``ranks.parquet`` and ``lists.parquet``, one row per held-out target, in the order of the split.

    ``ranks``: user, item, rank (U), rank_unseen (F), history_length, tied. ``lists``: user, history (the last items
    that the model saw, oldest first), items (recommended, U) and items_unseen (F).
    """
    length = (test.ends - test.starts).astype(np.int64)
    write_ranks(ranks, test, folder / "ranks.parquet", history_length=length, tied=is_tied(test))
    tokens = test.field2id_token[test.iid_field].astype(str)
    seen = np.minimum(length, min(SHOWN, test.max_item_list_len))
    lists = {
        "user": pa.array(test.field2id_token[test.uid_field][ranks.users].astype(str)),
        "history": _lists(tokens, *_last(test, seen)),
        "items": _lists(tokens, *_rows(ranks.top[:, :SHOWN])),
        "items_unseen": _lists(tokens, *_rows(ranks.top_unseen[:, :SHOWN])),
    }
    pq.write_table(pa.table(lists), folder / "lists.parquet")


def is_tied(test: SequenceDataset) -> np.ndarray:
    """Whether another interaction of the user has the very time of a row's target: (n_rows,) bool.

    The order of such a pair is the file's, not time's. Before the target all interactions are looked at, after it
    those that are targets of this split.
    """
    if test.times is None:
        return np.zeros(len(test), dtype=bool)
    ends = test.ends.astype(np.int64)
    after = np.minimum(ends + 1, len(test.times) - 1)
    own = test.times[ends]
    # A user's first interaction is nobody's target, so the next one is the same user's if it is a target.
    return (test.times[ends - 1] == own) | (np.isin(ends + 1, ends) & (test.times[after] == own))


def _last(test: SequenceDataset, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Item ids of the last ``lengths`` items before each target, one after the other, and the lengths."""
    starts = test.ends.astype(np.int64) - lengths
    return test.items[ragged_positions(starts, lengths)], lengths


def _rows(top: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return top[top > 0], (top > 0).sum(axis=1)  # a list ends in zeros where a user has fewer items left


def _lists(tokens: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens).take(pa.array(ids)))

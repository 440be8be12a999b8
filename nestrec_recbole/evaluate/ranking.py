"""Exact ranks by counting, for both protocols from one scoring pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.processes import Processes

SCORE_BLOCK = 1 << 26  # scores held at once: 256 MiB of float32


@dataclass(frozen=True)
class Ranks:
    """Where each held-out target came out.

    Attributes
    ----------
    users, targets : numpy.ndarray of shape (n_rows,), int64
    rank : numpy.ndarray of shape (n_rows,), int64
        1 is best, every item of the catalogue ranked (protocol U, RecBole's sequential default). Items that tie with
        the target rank before it if their id is smaller.
    rank_unseen : numpy.ndarray of shape (n_rows,), int64
        The same with the items of the user's history left out (protocol F, what most papers report).
    top, top_unseen : numpy.ndarray of shape (n_rows, k), int32
        The recommended items under each protocol.
    n_items : int
        Size of the catalogue, the padding item included.
    """

    users: np.ndarray
    targets: np.ndarray
    rank: np.ndarray
    rank_unseen: np.ndarray
    top: np.ndarray
    top_unseen: np.ndarray
    n_items: int


@torch.no_grad()
def rank_targets(
    score: Callable[[Any], Tensor],
    dataset: SequenceDataset,
    *,
    k: int = 10,
    batch_size: int = 4096,
    device: torch.device | str = "cpu",
) -> Ranks:
    """Rank the target of every row against the whole catalogue; under ``torchrun`` the processes share the work.

    Parameters
    ----------
    score : callable
        Interaction of B rows -> scores (B, n_items); a model's ``full_sort_predict``, ours or RecBole's.
    dataset : SequenceDataset
        The split to evaluate.
    k : int
        Length of the recommended lists.
    batch_size : int
        Rows at most per forward; fewer where the catalogue is large.

    Returns
    -------
    Ranks
        In the order of the split's rows.

    Raises
    ------
    NestRecError
        When a score is NaN: it would compare as neither better nor worse, and rank first.
    """
    n_rows, n_items, processes = len(dataset), dataset.item_num, Processes.current()
    k = min(k, n_items - 1)
    users, targets = dataset.users.astype(np.int64), dataset.items[dataset.ends].astype(np.int64)
    rank, rank_unseen = np.zeros((2, n_rows), np.int64)
    top, top_unseen = np.zeros((2, n_rows, k), np.int32)
    batches = list(_by_length(dataset, min(batch_size, max(1, SCORE_BLOCK // n_items))))
    for rows in processes.part_of(batches):
        scores = score(dataset.histories(rows).to(device)).reshape(len(rows), n_items).float()
        if scores.isnan().any():
            raise NestRecError("the model's scores are not numbers (NaN); train anew with a lower learning_rate")
        scores[:, 0] = -torch.inf
        target = torch.from_numpy(targets[rows]).to(scores.device)
        rank[rows] = count_rank(scores, target)
        top[rows] = scores.topk(k).indices.cpu()
        row, item = (torch.from_numpy(x).to(scores.device) for x in seen_items(dataset, rows))
        is_target = item == target[row]
        scores[row[~is_target], item[~is_target]] = -torch.inf
        rank_unseen[rows] = count_rank(scores, target)
        top_unseen[rows] = scores.topk(k).indices.cpu()
    # Rows of other processes are 0 here, and a row is nobody else's: the sum is the whole.
    parts = zip(*processes.gather((rank, rank_unseen, top, top_unseen)), strict=True)
    rank, rank_unseen, top, top_unseen = (np.sum(part, axis=0) for part in parts)
    return Ranks(users, targets, rank, rank_unseen, top, top_unseen, n_items)


def count_rank(scores: Tensor, target: Tensor) -> np.ndarray:
    """Rank of ``target`` (B,) in each row of ``scores`` (B, n_items): 1 + better items + ties with a smaller id."""
    own = scores.gather(1, target[:, None])
    ties = scores == own
    ties &= torch.arange(scores.shape[1], device=scores.device) < target[:, None]
    return (1 + (scores > own).sum(dim=1) + ties.sum(dim=1)).cpu().numpy()


def seen_items(dataset: SequenceDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole histories of rows, not just their last L items, as (place in ``rows``, item) pairs."""
    starts, ends = dataset.starts[rows].astype(np.int64), dataset.ends[rows].astype(np.int64)
    lengths = ends - starts
    offset = np.repeat(starts - np.r_[0, np.cumsum(lengths)[:-1]], lengths)
    row = np.repeat(np.arange(len(rows)), lengths)
    return row, dataset.items[offset + np.arange(len(offset))].astype(np.int64)


def _by_length(dataset: SequenceDataset, size: int) -> Iterator[np.ndarray]:
    """Rows in batches of similar history length, so that little is computed on padding."""
    order = np.argsort(dataset.ends - dataset.starts, kind="stable")
    for at in range(0, len(order), size):
        yield order[at : at + size]

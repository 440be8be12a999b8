"""Exact ranks by counting, for both protocols from one scoring pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nestrec_recbole.bars import progress_bar
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.rows import ragged_positions
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.evaluate.candidates import candidates_of
from nestrec_recbole.files import written_whole
from nestrec_recbole.processes import Processes

CPU_SCORES, GPU_SCORES = 1 << 22, 1 << 26  # held at once; on a CPU a block much larger than its cache takes longer
FEWEST = 16  # histories of a block: the item table streams through memory for each, whatever its size
COUNTED = 1 << 17  # scores that a CPU compares at once, twice: they and what comes of it fit the cache of one core


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
        The recommended items under each protocol; k is 0 where no lists were asked for.
    n_items : int
        How many items are ranked, and the padding item.
    rank_candidates : numpy.ndarray of shape (n_rows,), int64, optional
        Among the candidates drawn for the row, where the setting ``candidates`` asks for them.
    groups : dict of str to numpy.ndarray of shape (n_rows,), bool
        Rows that are also reported apart: those of ``new`` and ``known`` users, and of ``cold`` and ``warm`` targets,
        where users or items were hidden from training.
    """

    users: np.ndarray
    targets: np.ndarray
    rank: np.ndarray
    rank_unseen: np.ndarray
    top: np.ndarray
    top_unseen: np.ndarray
    n_items: int
    rank_candidates: np.ndarray | None = None
    groups: dict[str, np.ndarray] = field(default_factory=dict)


@torch.no_grad()
def rank_targets(
    score: Callable[[Any], Tensor],
    dataset: SequenceDataset,
    *,
    k: int = 10,
    batch_size: int = 4096,
    device: torch.device | str = "cpu",
    show_progress: bool = False,
) -> Ranks:
    """Rank the target of every row against the whole catalogue; under ``torchrun`` the processes share the work.

    Items that are not ``dataset.ranked`` count for nothing. Where the dataset's config says ``candidates``, targets are
    ranked among those too, by the same scores.

    Parameters
    ----------
    score : callable
        Interaction of B rows -> scores (B, n_items), which are written to; a model's ``full_sort_predict``, ours or
        RecBole's.
    dataset : SequenceDataset
        The split to evaluate.
    k : int
        Length of the recommended lists; they take longer than the ranks. 0: none. Where a user has fewer items left,
        a list ends in zeros.
    batch_size : int
        Rows at most per forward; fewer where the catalogue is large.
    show_progress : bool
        Draw a bar of the rows; under ``torchrun`` the first process does, of its own.

    Returns
    -------
    Ranks
        In the order of the split's rows.

    Raises
    ------
    NestRecError
        When a score is NaN: it would compare as neither better nor worse, and rank first. When a target may not be
        recommended, or there are too few items to draw candidates from.
    """
    n_items, processes = dataset.item_num, Processes.current()
    users, targets = dataset.users.astype(np.int64), dataset.items[dataset.ends].astype(np.int64)
    excluded, pools = torch.from_numpy(~dataset.ranked), candidates_of(dataset)
    _check_targets(dataset, targets, excluded.numpy())
    highest = None if not excluded[1:].any() else torch.where(excluded, -torch.inf, torch.inf).to(device)
    n_ranked = int((~excluded).sum())
    k = min(k, n_ranked)
    n_scores = CPU_SCORES if torch.device(device).type == "cpu" else GPU_SCORES
    blocks = processes.part_of(list(_by_length(dataset, min(batch_size, max(FEWEST, n_scores // n_items)))))
    found = _nothing_yet(len(dataset), k, pools is not None)
    shown = show_progress and processes.is_first
    with progress_bar(total=sum(map(len, blocks)), desc="Evaluate", unit="row", shown=shown) as bar:
        for rows in blocks:
            scores = _checked(score(dataset.histories(rows).to(device)), len(rows), n_items)
            _leave_out(scores, highest)
            pool = None if pools is None else pools[rows]
            for name, values in _rank_block(scores, targets[rows], seen_items(dataset, rows), pool, k).items():
                found[name][rows] = values
            bar.update(len(rows))
    groups = _groups(dataset, users, targets)
    return Ranks(users, targets, n_items=n_ranked + 1, groups=groups, **_joined(found, processes))


def _nothing_yet(n_rows: int, k: int, has_candidates: bool) -> dict[str, np.ndarray]:
    """Zeros in place of what is to be found, by the name that it has in :class:`Ranks`."""
    names = ("rank", "rank_unseen", "rank_candidates") if has_candidates else ("rank", "rank_unseen")
    found = {name: np.zeros(n_rows, np.int64) for name in names}
    return found | {name: np.zeros((n_rows, k), np.int32) for name in ("top", "top_unseen")}


def _checked(scores: Tensor, n_rows: int, n_items: int) -> Tensor:
    """Scores as float32 (n_rows, n_items), none of them NaN but perhaps the padding item's, which is 0 now."""
    scores = scores.reshape(n_rows, n_items).float()
    scores[:, 0] = 0.0
    if scores.sum().isnan():
        raise NestRecError("the model's scores are not numbers (NaN); train anew with a lower learning_rate")
    return scores


def _leave_out(scores: Tensor, highest: Tensor | None) -> None:
    """Set the scores of what is not ranked to -inf: the padding item, and where ``highest`` (n_items,) is."""
    scores[:, 0] = -torch.inf
    if highest is not None:  # takes a fraction of the time of filling in where a mask says so
        torch.minimum(scores, highest.to(scores.device), out=scores)


def _rank_block(
    scores: Tensor, targets: np.ndarray, seen: tuple[np.ndarray, np.ndarray], pool: np.ndarray | None, k: int
) -> dict[str, np.ndarray]:
    """What :class:`Ranks` says of a block of rows.

    Parameters
    ----------
    scores : Tensor (B, n_items)
        -inf for items that are not ranked; written to.
    targets : numpy.ndarray of shape (B,)
    seen : (numpy.ndarray, numpy.ndarray), each of shape (n,)
        Pairs of a row and an item of its user's history.
    pool : numpy.ndarray of shape (B, n), optional
        The candidates of each row.
    k : int
        Length of the lists; 0 for none.

    Returns
    -------
    dict of str to numpy.ndarray, of shape (B,) or (B, k)
    """
    target, row, item = (torch.from_numpy(x).to(scores.device) for x in (targets, *seen))
    others = item != target[row]  # a target that was seen before stays in the ranking
    row, item = row[others], item[others]
    before, seen_before = count_before(scores, target, row, item)
    found = {"rank": 1 + before, "rank_unseen": 1 + before - seen_before}
    if pool is not None:
        candidates = torch.from_numpy(pool.astype(np.int64)).to(scores.device)
        found["rank_candidates"] = 1 + _count_pairs(scores, target, candidates)
    if k:
        found["top"] = _best(scores, k)
        scores[row, item] = -torch.inf
        found["top_unseen"] = _best(scores, k)
    return {name: values.cpu().numpy() for name, values in found.items()}


def _joined(found: dict[str, np.ndarray], processes: Processes) -> dict[str, np.ndarray]:
    """What all processes have found: a row of others is 0 here, and a row is nobody else's, so the sum is the whole."""
    parts = processes.gather(found)
    return {name: np.sum([part[name] for part in parts], axis=0, dtype=own.dtype) for name, own in found.items()}


def _groups(dataset: SequenceDataset, users: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that a metric is reported for besides all."""
    is_new, is_cold = dataset.hidden_users[users], dataset.hidden_items[targets]
    groups = {"new": is_new, "known": ~is_new} if dataset.config["hidden_users"] else {}
    return groups | ({"cold": is_cold, "warm": ~is_cold} if dataset.config["hidden_items"] else {})


def _check_targets(dataset: SequenceDataset, targets: np.ndarray, excluded: np.ndarray) -> None:
    if excluded[targets].any():
        item = str(dataset.field2id_token[dataset.iid_field][targets[excluded[targets]][0]])
        raise NestRecError(
            f"{int(excluded[targets].sum())} targets, {item!r} among them, are items that may not be recommended; "
            "leave their rows out of the evaluation"
        )


def _count_pairs(scores: Tensor, target: Tensor, pool: Tensor) -> Tensor:
    """How many items of each row's pool (B, n) rank before its target: (B,) int64."""
    own, target = scores.gather(1, target[:, None]), target[:, None]
    its = scores.gather(1, pool)
    return ((its > own) | ((its == own) & (pool < target))).sum(dim=1)


def _best(scores: Tensor, k: int) -> Tensor:
    """The items of the k highest scores, (B, k); 0 where there are fewer above -inf."""
    found = scores.topk(k)
    return found.indices.masked_fill(found.values == -torch.inf, 0)


def write_ranks(ranks: Ranks, dataset: SequenceDataset, path: str | Path, **more: np.ndarray) -> None:
    """Write the ranks of every row to a Parquet file, whole or not at all.

    Columns: ``user`` and ``item`` (tokens), ``rank`` (protocol U), ``rank_unseen`` (F), where candidates were drawn
    ``rank_candidates``, where users or items were hidden from training ``new``, ``known``, ``cold`` and ``warm``
    (bool), and those of ``more``, each (n_rows,); the order is the split's.
    """
    users, items = dataset.field2id_token[dataset.uid_field], dataset.field2id_token[dataset.iid_field]
    columns = {"user": users[ranks.users].astype(str), "item": items[ranks.targets].astype(str)}
    table = pd.DataFrame({**columns, "rank": ranks.rank, "rank_unseen": ranks.rank_unseen, **ranks.groups, **more})
    if ranks.rank_candidates is not None:
        table["rank_candidates"] = ranks.rank_candidates
    with written_whole(path) as draft:
        table.to_parquet(draft, index=False)


def count_before(scores: Tensor, target: Tensor, row: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Count the items that rank before the target: better ones, and those that tie with it and have a smaller id.

    Parameters
    ----------
    scores : Tensor (B, n_items)
    target : Tensor (B,)
    row, item : Tensor (n,)
        Pairs whose items are also counted apart, each pair once.

    Returns
    -------
    before, of_pairs : Tensor (B,), int64
        Of all items, and of those in the pairs.
    """
    own = scores.gather(1, target[:, None])
    n_rows = max(1, COUNTED // scores.shape[1]) if scores.device.type == "cpu" else len(scores)
    parts = zip(scores.split(n_rows), own.split(n_rows), strict=True)
    before, n_ties = map(torch.cat, zip(*(_better_and_equal(*part) for part in parts), strict=True))
    tied = (n_ties > 1).nonzero()[:, 0]
    if len(tied):
        smaller = torch.arange(scores.shape[1], device=scores.device) < target[tied, None]
        before[tied] += ((scores[tied] == own[tied]) & smaller).sum(dim=1)
    its, own_its = scores[row, item], own[row, 0]
    is_before = (its > own_its) | ((its == own_its) & (item < target[row]))
    return before, torch.zeros_like(before).index_add_(0, row, is_before.long())


def _better_and_equal(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores of each row (B, n_items) are greater than its own (B, 1), and how many are equal: (B,) int64."""
    # Floats, as they are compared and summed fastest; float32 counts to 2^24.
    exact = torch.float32 if scores.shape[1] < 2**24 else torch.float64
    mark = torch.empty_like(scores)
    better = torch.gt(scores, own, out=mark).sum(dim=1, dtype=exact).long()
    return better, torch.eq(scores, own, out=mark).sum(dim=1, dtype=exact).long()


def seen_items(dataset: SequenceDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole histories of rows, not just their last L items: (place in ``rows``, item) pairs, each once."""
    starts, ends = dataset.starts[rows].astype(np.int64), dataset.ends[rows].astype(np.int64)
    lengths = ends - starts
    row = np.repeat(np.arange(len(rows)), lengths)
    item = dataset.items[ragged_positions(starts, lengths)].astype(np.int64)
    pair = np.unique(row * dataset.item_num + item)
    return np.divmod(pair, dataset.item_num)


def _by_length(dataset: SequenceDataset, size: int) -> Iterator[np.ndarray]:
    """Rows in batches of similar history length, so that little is computed on padding."""
    order = np.argsort(dataset.ends - dataset.starts, kind="stable")
    for at in range(0, len(order), size):
        yield order[at : at + size]

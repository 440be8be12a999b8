"""Metrics of one held-out target per row, from its rank.

Row by row there is one relevant item, so RecBole's metrics have short forms: Hit = Recall = [rank <= k],
NDCG = [rank <= k] / log2(1 + rank), MRR = MAP = [rank <= k] / rank, Precision = [rank <= k] / k,
F1 = 2 [rank <= k] / (1 + k).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct

from nestrec_recbole.data.content import item_content
from nestrec_recbole.evaluate.beyond import look_at_content
from nestrec_recbole.evaluate.ranking import Ranks

RANK_METRICS = ("hit", "recall", "ndcg", "mrr", "map", "precision", "f1")


def row_values(metric: str, rank: np.ndarray, k: int) -> np.ndarray:
    """The value of a rank metric in every row.

    Parameters
    ----------
    metric : str
        One of ``RANK_METRICS``.
    rank : numpy.ndarray of shape (n_rows,)
        From 1.
    k : int

    Returns
    -------
    numpy.ndarray of shape (n_rows,), float64

    Examples
    --------
    >>> row_values("ndcg", np.array([1, 3, 11]), 10).round(4).tolist()
    [1.0, 0.5, 0.0]
    """
    hit = rank <= k
    if metric in ("hit", "recall"):
        return hit.astype(np.float64)
    if metric == "ndcg":
        return hit / np.log2(1.0 + rank)
    if metric in ("mrr", "map"):
        return hit / rank
    return hit / k if metric == "precision" else 2 * hit / (1 + k)


def coverage(top: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that is recommended to anybody; ``n_items`` counts the padding item."""
    return len(np.unique(top[top > 0])) / (n_items - 1)


def evaluate_ranks(ranks: Ranks, metrics: Sequence[str], topk: Sequence[int]) -> dict[str, float]:
    """Means of rank metrics: ``ndcg@10`` (protocol U), ``ndcg@10_f`` (F), and ``ndcg@10_c`` among candidates.

    All rows count in them. Where users or items are hidden from training, some rows are reported apart as well:
    ``ndcg@10_cold``, ``ndcg@10_f_cold``, ..., and nothing where a group has no row.
    """
    result = {}
    by_protocol = {"": ranks.rank, "_f": ranks.rank_unseen}
    if ranks.rank_candidates is not None:
        by_protocol["_c"] = ranks.rank_candidates
    for suffix, rank in by_protocol.items():
        for metric in metrics:
            for k in topk:
                values = row_values(metric, rank, k)
                result[f"{metric}@{k}{suffix}"] = float(values.mean())
                for group, rows in ranks.groups.items():
                    if rows.any():
                        result[f"{metric}@{k}{suffix}_{group}"] = float(values[rows].mean())
    return result


def recbole_metrics(ranks: Ranks, config: Any, train_data: Any) -> dict[str, float]:
    """The metrics a config asks for that do not follow from ranks alone, by RecBole's own classes (protocol U).

    The items that they count are those that are ranked: of a target domain its own, nowhere one that nobody took.
    """
    others = [metric for metric in config["metrics"] if metric.lower() not in RANK_METRICS]
    if not others:
        return {}
    struct, ranked = DataStruct(), train_data.dataset.ranked
    number = np.cumsum(ranked) * ranked  # among what is ranked, from 1
    missing = max(config["topk"]) - ranks.top.shape[1]  # where fewer items are ranked
    top = np.pad(ranks.top.astype(np.int64), ((0, 0), (0, max(0, missing))))
    struct.set("rec.items", torch.from_numpy(number[top]))
    hits = top == ranks.targets[:, None]
    struct.set("rec.topk", torch.from_numpy(np.column_stack([hits, np.ones(len(hits), dtype=bool)]).astype(np.int64)))
    ones = torch.ones(len(ranks.rank), 1, dtype=torch.float64)
    length = ones * (ranks.n_items - 1)
    struct.set("rec.meanrank", torch.cat([torch.from_numpy(ranks.rank)[:, None].double(), length, ones], dim=1))
    struct.set("data.num_items", 1 + int(ranked.sum()))
    struct.set("data.num_users", train_data.dataset.user_num)
    counts = train_data.dataset.item_counter.items()
    struct.set("data.count_items", Counter({int(number[item]): count for item, count in counts if ranked[item]}))
    struct.set("data.count_users", train_data.dataset.user_counter)
    if look_at_content(others):
        struct.set(
            "data.item_content", item_content(train_data.dataset.item_fields())[np.r_[0, np.flatnonzero(ranked)]]
        )
    evaluator = Evaluator(config)
    return {
        name: float(value)
        for metric in others
        for name, value in evaluator.metric_class[metric.lower()].calculate_metric(struct).items()
    }

"""Metrics that RecBole lacks, most of them beyond accuracy, as RecBole metrics: any model can be evaluated with them.

Name them in ``metrics`` as any other: ``metrics: [NDCG, Novelty, Serendipity]``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from recbole.evaluator.base_metric import AbstractMetric
from recbole.utils import EvaluatorType

from nestrec_recbole.data.vectors import unit_rows

ROWS = 1 << 14  # lists whose features are summed at once


def novelty(top: np.ndarray, counts: np.ndarray) -> np.ndarray:
    r"""Mean self-information of the first items of each list, in bits (Zhou et al. 2010; Vargas & Castells 2011).

    .. math:: \frac{1}{k} \sum_{i \in R_u^k} -\log_2 \frac{\max(n_i, 1)}{\sum_j n_j}

    Parameters
    ----------
    top : numpy.ndarray of shape (n_rows, K)
        Recommended items, best first; 0 where a list has ended, which counts for nothing.
    counts : numpy.ndarray of shape (n_items,)
        How often each item was a training target (RecBole counts no other interactions).

    Returns
    -------
    numpy.ndarray of shape (n_rows, K)
        Column k - 1 is the novelty at k.
    """
    information = np.log2(counts.sum()) - np.log2(np.maximum(counts, 1))
    return _means_so_far(information[top], top)


def serendipity(top: np.ndarray, is_hit: np.ndarray, counts: np.ndarray) -> np.ndarray:
    r"""How much higher the list has its hits than popularity has them (Kaminskas & Bridge 2016, as in RecTools).

    .. math:: \frac{1}{k} \sum_{i \in R_u^k} \max(p_u(i) - p_{pop}(i), 0) \, rel_u(i), \quad
              p(i) = \frac{N + 1 - rank(i)}{N}

    Parameters
    ----------
    top, is_hit : numpy.ndarray of shape (n_rows, K)
        Recommended items, and whether each is what the user took.
    counts : numpy.ndarray of shape (n_items,)
        Entry 0, the padding item, is left out; items as popular as each other rank by id.

    Returns
    -------
    numpy.ndarray of shape (n_rows, K)
    """
    n_items = len(counts) - 1
    popularity_rank = np.zeros(len(counts))
    popularity_rank[1 + np.argsort(-counts[1:], kind="stable")] = np.arange(1, n_items + 1)
    ahead = (popularity_rank[top] - np.arange(1, top.shape[1] + 1)) / n_items
    return (np.maximum(ahead, 0) * is_hit).cumsum(axis=1) / np.arange(1, top.shape[1] + 1)


def diversity(top: np.ndarray, features: np.ndarray) -> np.ndarray:
    r"""Mean distance between the items of a list, 1 - cosine of their features (Ziegler et al. 2005).

    .. math:: \frac{2}{k (k - 1)} \sum_{i < j \in R_u^k} (1 - \cos(x_i, x_j))

    Parameters
    ----------
    top : numpy.ndarray of shape (n_rows, K)
        Recommended items, best first; 0 where a list has ended.
    features : numpy.ndarray of shape (n_items, d)
        Row 0 is zero. An item without features is at distance 1 from all others.

    Returns
    -------
    numpy.ndarray of shape (n_rows, K)
        Column k - 1 is the diversity at k; that of one item is 0.
    """
    unit, is_known = unit_rows(features), (np.linalg.norm(features, axis=1) > 0).astype(np.float64)
    blocks = np.array_split(top, len(top) // ROWS + 1)
    return np.concatenate([_diversity(block, unit, is_known) for block in blocks])


def _diversity(top: np.ndarray, unit: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    together, n_known = np.zeros((len(top), unit.shape[1])), np.zeros(len(top))
    values, length = np.zeros(top.shape), (top > 0).cumsum(axis=1)
    for place, items in enumerate(top.T):  # list by list would hold n_rows x K x d
        together += unit[items]
        n_known += is_known[items]
        pairs, several = length[:, place] * (length[:, place] - 1), length[:, place] > 1
        likeness = (together**2).sum(axis=1) - n_known  # |sum x|^2 = sum |x|^2 + 2 sum over pairs of x_i x_j
        values[several, place] = 1 - likeness[several] / pairs[several]
    return values


def _means_so_far(values: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Means (n_rows, K) over the items of each list up to each place; what is behind its end counts for nothing."""
    is_item = top > 0
    return (values * is_item).cumsum(axis=1) / is_item.cumsum(axis=1).clip(min=1)


class _Beyond(AbstractMetric):
    """A metric of lists that RecBole's collector has gathered."""

    metric_type = EvaluatorType.RANKING

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.topk = config["topk"]

    def means(self, top: np.ndarray, dataobject: Any) -> np.ndarray:
        """Means over all lists (n_rows, K) when they are cut after 1..K items: (K,)."""
        raise NotImplementedError

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """RecBole's interface: ``{"novelty@10": ..., ...}``."""
        means = self.means(dataobject.get("rec.items").numpy(), dataobject)
        name = type(self).__name__.lower()
        return {f"{name}@{k}": round(float(means[min(k, len(means)) - 1]), self.decimal_place) for k in self.topk}


class Novelty(_Beyond):
    """:func:`novelty` as a RecBole metric."""

    metric_need: ClassVar[list[str]] = ["rec.items", "data.count_items", "data.num_items"]

    def means(self, top: np.ndarray, dataobject: Any) -> np.ndarray:
        return novelty(top, _counts(dataobject)).mean(axis=0)


class Serendipity(_Beyond):
    """:func:`serendipity` as a RecBole metric."""

    metric_need: ClassVar[list[str]] = ["rec.items", "rec.topk", "data.count_items", "data.num_items"]

    def means(self, top: np.ndarray, dataobject: Any) -> np.ndarray:
        is_hit = dataobject.get("rec.topk")[:, : top.shape[1]].numpy().astype(bool)
        return serendipity(top, is_hit, _counts(dataobject)).mean(axis=0)


class Diversity(_Beyond):
    """:func:`diversity` of text and image features as a RecBole metric; it needs ``item_fields``."""

    metric_need: ClassVar[list[str]] = ["rec.items", "data.item_content"]

    def means(self, top: np.ndarray, dataobject: Any) -> np.ndarray:
        return diversity(top, dataobject.get("data.item_content")).mean(axis=0)


class AveragePopularity(_Beyond):
    """How often an item of a list was a training target: RecBole's, which counts the padding of short lists too."""

    metric_need: ClassVar[list[str]] = ["rec.items", "data.count_items", "data.num_items"]
    smaller = True

    def means(self, top: np.ndarray, dataobject: Any) -> np.ndarray:
        return _means_so_far(_counts(dataobject)[top], top).mean(axis=0)


class GiniIndex(_Beyond):
    """How unequally the lists name the items: RecBole's, which counts the padding of short lists too."""

    metric_need: ClassVar[list[str]] = ["rec.items", "data.num_items"]
    smaller = True

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """RecBole's interface: ``{"giniindex@10": ...}``, 0 where all items are listed as often as each other."""
        top, n_items = dataobject.get("rec.items").numpy(), dataobject.get("data.num_items")
        weights = 2 * np.arange(1, n_items + 1) - n_items - 1
        found: dict[str, float] = {}
        for k in self.topk:
            items = top[:, :k]
            counts = np.sort(np.bincount(items[items > 0], minlength=n_items))
            found[f"giniindex@{k}"] = round(float(weights @ counts / counts.sum() / n_items), self.decimal_place)
        return found


class ItemCoverage(_Beyond):
    """Share of the items that any list names: RecBole's, which counts the padding of short lists as an item."""

    metric_need: ClassVar[list[str]] = ["rec.items", "data.num_items"]

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """RecBole's interface: ``{"itemcoverage@10": ...}``, of all items and, as RecBole counts, the padding item."""
        top, n_items = dataobject.get("rec.items").numpy(), dataobject.get("data.num_items")
        named = {k: len(np.setdiff1d(top[:, :k], [0])) for k in self.topk}
        return {f"itemcoverage@{k}": round(n / n_items, self.decimal_place) for k, n in named.items()}


class ShannonEntropy(_Beyond):
    """How evenly the lists name items: RecBole's, which counts the padding of short lists as an item."""

    metric_need: ClassVar[list[str]] = ["rec.items"]

    def calculate_metric(self, dataobject: Any) -> dict[str, float]:
        """RecBole's interface: ``{"shannonentropy@10": ...}``, in nats over the number of items that are named."""
        top = dataobject.get("rec.items").numpy()
        found: dict[str, float] = {}
        for k in self.topk:
            counts = np.bincount(top[:, :k].ravel())[1:]
            share = counts[counts > 0] / counts.sum()
            entropy = -(share * np.log(share)).sum() / len(share)
            found[f"shannonentropy@{k}"] = round(float(entropy), self.decimal_place)
        return found


class TailPercentage(_Beyond):
    """Share of the least popular items in the lists: RecBole's, which counts the padding of short lists too.

    ``tail_ratio`` says which: a share of the items that have a training target, or, above 1, how many targets at most.
    """

    metric_need: ClassVar[list[str]] = ["rec.items", "data.count_items", "data.num_items"]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        ratio = config["tail_ratio"]
        self.tail = 0.1 if ratio is None or ratio <= 0 else ratio

    def means(self, top: np.ndarray, dataobject: Any) -> np.ndarray:
        counts = _counts(dataobject)
        known = np.flatnonzero(counts)
        rarest = known[np.argsort(counts[known], kind="stable")]
        tail = known[counts[known] <= self.tail] if self.tail > 1 else rarest[: max(int(len(known) * self.tail), 1)]
        return _means_so_far(np.isin(top, tail), top).mean(axis=0)


class F1(_Beyond):
    """Harmonic mean of each list's precision and recall, as a RecBole metric; 0 for a list without a hit."""

    metric_need: ClassVar[list[str]] = ["rec.items", "rec.topk"]

    def means(self, top: np.ndarray, dataobject: Any) -> np.ndarray:
        hits = dataobject.get("rec.topk").numpy()
        so_far, n_relevant = hits[:, :-1].cumsum(axis=1), hits[:, -1:]
        return (2 * so_far / (np.arange(1, hits.shape[1]) + n_relevant)).mean(axis=0)


def _counts(dataobject: Any) -> np.ndarray:
    counts = np.zeros(dataobject.get("data.num_items"))
    for item, count in dict(dataobject.get("data.count_items")).items():
        counts[item] = count
    return counts


METRICS = (
    *(Novelty, Serendipity, Diversity, F1),
    *(AveragePopularity, GiniIndex, ItemCoverage, ShannonEntropy, TailPercentage),
)


def look_at_content(metrics: Iterable[str]) -> bool:
    """Whether one of the metrics compares items by their fields, which must be there then: diversity does."""
    comparing = {metric.__name__.lower() for metric in METRICS if "data.item_content" in metric.metric_need}
    return any(metric.lower() in comparing for metric in metrics)

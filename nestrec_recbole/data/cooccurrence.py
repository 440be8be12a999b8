"""What items are by what they are taken with: vectors from the training histories, before any training."""

from __future__ import annotations

from logging import getLogger
from time import perf_counter
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd

WINDOW, DECAY = 5, 0.7  # steps that a pair may be apart at most, and what each step more takes of its weight
NOISE = 1e-5  # of the longest vector: what is shorter is rounding
SMOOTHING = 0.75  # exponent of the contexts' counts: else rare items are tied to those that they happened to be beside


def cooccurrence_vectors(dataset: Any, width: int, seed: int = 0) -> np.ndarray:
    """Vectors of items, alike where these are taken close to the same others more often than by chance.

    They are the truncated SVD, ``U sqrt(S)``, of the positive pointwise mutual information of items that are at most
    ``WINDOW`` steps apart in a training history, nearer pairs counting more. Each is brought to unit length. Two items
    that are taken with each other and with nothing else have no others in common: they are not alike.

    Parameters
    ----------
    dataset : SequenceDataset
        The training split; nothing that is held out is read.
    width : int
    seed : int
        Of the randomised SVD.

    Returns
    -------
    numpy.ndarray of shape (n_items, width), float32
        Zeros for the padding item, for those that are taken together with nothing and those of which the first
        ``width`` components say nothing; features past the matrix's rank are zero too.

    Notes
    -----
    Source: Levy & Goldberg, "Neural word embedding as implicit matrix factorization", NeurIPS 2014; weights by
    distance, smoothed contexts and ``sqrt(S)`` as in Levy, Goldberg & Dagan, TACL 2015; the SVD of Halko, Martinsson &
    Tropp, SIAM Review 2011.
    """
    users, items = dataset.interactions(in_order=True)
    information = positive_information(pair_counts(users, items, dataset.item_num))
    vectors = np.zeros((dataset.item_num, width), np.float32)
    n_features = min(width, dataset.item_num - 1)
    if information.nnz:
        began = perf_counter()
        left, strengths, _ = randomized_svd(information, n_features, random_state=seed)
        vectors[:, :n_features] = left * np.sqrt(strengths)
        seconds, n_pairs = perf_counter() - began, information.nnz
        getLogger().info("item_start: an SVD of %d pairs of items took %.1f s", n_pairs, seconds)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    known = lengths > NOISE * lengths.max()
    return np.where(known, vectors / np.where(known, lengths, 1), 0).astype(np.float32)


def pair_counts(users: np.ndarray, items: np.ndarray, n_items: int) -> csr_matrix:
    """How often two items are near each other: symmetric, (n_items, n_items), float32.

    Parameters
    ----------
    users, items : numpy.ndarray of shape (n,), int64
        Interactions, those of a user together and in order of time.
    """
    counts = csr_matrix((n_items, n_items), dtype=np.float32)
    for apart in range(1, WINDOW + 1):
        near = (users[apart:] == users[:-apart]) & (items[apart:] != items[:-apart])
        earlier, later = items[:-apart][near], items[apart:][near]
        weights = np.full(len(earlier), DECAY ** (apart - 1), np.float32)
        counts += csr_matrix((weights, (earlier, later)), counts.shape)
    return counts + counts.T


def positive_information(counts: csr_matrix) -> csr_matrix:
    r"""Positive pointwise mutual information of pairs, of as many rows and columns as ``counts``.

    .. math:: \max\left(0, \log \frac{n_{ij}}{n_i \, p_j}\right), \quad p_j = \frac{n_j^{0.75}}{\sum_k n_k^{0.75}}
    """
    pairs, totals = counts.tocoo(), np.asarray(counts.sum(axis=1), np.float64)[:, 0]
    contexts = totals**SMOOTHING / max(1e-12, (totals**SMOOTHING).sum())
    information = np.log(pairs.data / (totals[pairs.row] * contexts[pairs.col]))
    positive = information > 0
    entries = information[positive].astype(np.float32), (pairs.row[positive], pairs.col[positive])
    return csr_matrix(entries, counts.shape)

"""Candidate pools: a few items drawn for every row, among which its target is ranked too."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.draws import mix, token_keys, uniform
from nestrec_recbole.errors import NestRecError

BLOCK = 1 << 22  # numbers drawn at once
KEPT = 1 << 28  # bytes of a split's candidates that stay for its next evaluation, as after every epoch
_kept: WeakKeyDictionary[SequenceDataset, tuple[tuple[int, int], np.ndarray]] = WeakKeyDictionary()


def candidates_of(dataset: SequenceDataset) -> np.ndarray | None:
    """What ``candidates`` and ``candidate_seed`` draw for the rows of a split; None where they ask for none.

    Drawn once, unless they take more than ``KEPT`` bytes.
    """
    asked = dataset.config["candidates"], dataset.config["candidate_seed"]
    if not asked[0]:
        return None
    known = _kept.get(dataset)
    if known is not None and known[0] == asked:
        return known[1]
    drawn = draw_candidates(dataset, *asked)
    drawn.setflags(write=False)
    if drawn.nbytes <= KEPT:
        _kept[dataset] = asked, drawn
    return drawn


def draw_candidates(dataset: SequenceDataset, n: int, seed: int) -> np.ndarray:
    """Draw ``n`` items for every row, uniformly and without replacement, from what its user never interacted with.

    Only items that evaluation ranks (``dataset.ranked``) are drawn. A draw depends on the seed and on the tokens
    of user, target and catalogue: it is the same for every model, in whatever order the rows come.

    Parameters
    ----------
    dataset : SequenceDataset
        The split whose rows are evaluated; what its users took in other splits is not drawn either.
    n : int
    seed : int

    Returns
    -------
    numpy.ndarray of shape (n_rows, n), int32
        Item ids, in the order of the split's rows.

    Raises
    ------
    NestRecError
        When a user has fewer than ``n`` items left.
    """
    tokens, users = dataset.field2id_token[dataset.iid_field], dataset.users.astype(np.int64)
    pool = np.flatnonzero(dataset.ranked)
    pool = pool[np.argsort(tokens[pool].astype(str), kind="stable")]
    taken, offsets = _taken(dataset, pool)
    left = len(pool) - np.diff(offsets)[users]
    if len(left) and left.min() < n:
        row = int(left.argmin())
        user = str(dataset.field2id_token[dataset.uid_field][users[row]])
        raise NestRecError(f"candidates is {n}, but user {user!r} has {left[row]} items left to draw from; lower it")
    user_keys = token_keys(dataset.field2id_token[dataset.uid_field], seed, "user")[users]
    keys = mix(user_keys ^ token_keys(tokens, seed, "target")[dataset.items[dataset.ends]])
    drawn, step = np.empty((len(users), n), dtype=np.int32), max(1, BLOCK // (4 * n))
    for at in range(0, len(users), step):
        rows = slice(at, at + step)
        places = distinct(keys[rows], left[rows], n)  # among the items that the user has not taken
        of_user = users[rows, None]
        before = np.searchsorted(taken, of_user * len(pool) + places, side="right") - offsets[of_user]
        drawn[rows] = pool[places + before]
    return drawn


def _taken(dataset: SequenceDataset, pool: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What to step over: for every item of the pool that a user took, ``user * len(pool) +`` untaken items before it.

    Returns
    -------
    taken : numpy.ndarray of shape (n_pairs,), int64
        Ascending.
    offsets : numpy.ndarray of shape (n_users + 1,), int64
        Where the pairs of each user begin.
    """
    place = np.full(dataset.item_num, -1)
    place[pool] = np.arange(len(pool))
    places, owners = place[dataset.items], dataset.owners.astype(np.int64)
    pairs = np.unique((owners * len(pool) + places)[places >= 0])
    offsets = np.searchsorted(pairs, np.arange(dataset.user_num + 1) * len(pool))
    return pairs - (np.arange(len(pairs)) - offsets[pairs // len(pool)]), offsets


def distinct(keys: np.ndarray, sizes: np.ndarray, n: int) -> np.ndarray:
    """Draw ``n`` different whole numbers below ``sizes[row]`` in every row, each such set equally likely.

    Parameters
    ----------
    keys : numpy.ndarray of shape (B,), uint64
        What each row's draw depends on.
    sizes : numpy.ndarray of shape (B,)
        At least ``n``.

    Returns
    -------
    numpy.ndarray of shape (B, n), int64
    """
    found, most = np.empty((len(keys), n), dtype=np.int64), sizes < 4 * n
    found[most] = _shuffled(keys[most], sizes[most], n)[:, :n]
    found[~most] = _redrawn(keys[~most], sizes[~most], n)
    return found


def _shuffled(keys: np.ndarray, sizes: np.ndarray, n: int) -> np.ndarray:
    """All numbers below each row's size in random order, then those from it on: (B, n or more)."""
    numbers = np.arange(sizes.max(initial=n))
    order = uniform(mix(keys[:, None] + numbers.astype(np.uint64)))
    return np.argsort(np.where(numbers < sizes[:, None], order, 2.0), axis=1, kind="stable")


def _redrawn(keys: np.ndarray, sizes: np.ndarray, n: int) -> np.ndarray:
    """Numbers below each row's size, (B, n); what was drawn twice is drawn again."""
    column = np.arange(n, dtype=np.uint64)
    drawn = (uniform(mix(keys[:, None] + column)) * sizes[:, None]).astype(np.int64)
    rows, attempt = np.arange(len(keys)), 1
    while len(rows):
        ordered = np.sort(drawn[rows] * n + column.astype(np.int64), axis=1)  # with their columns: faster than argsort
        row, place = np.nonzero(ordered[:, 1:] // n == ordered[:, :-1] // n)
        rows, place = rows[row], ordered[row, place + 1] % n
        again = uniform(mix(keys[rows] + column[place] + np.uint64(attempt * n)))
        drawn[rows, place] = (again * sizes[rows]).astype(np.int64)
        rows, attempt = np.unique(rows), attempt + 1
    return drawn

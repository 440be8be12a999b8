"""Interactions by what they are, not by where they stand: the same in every file that has them."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestrec_recbole.data.draws import mix, token_keys


def interaction_keys(
    users: np.ndarray, items: np.ndarray, times: np.ndarray | None, user_tokens: np.ndarray, item_tokens: np.ndarray
) -> np.ndarray:
    """A number for each (user, item, time): (n,) uint64.

    Parameters
    ----------
    users, items : numpy.ndarray of shape (n,)
        Ids.
    times : numpy.ndarray of shape (n,), optional
        int64 or float64; without, a user's interactions with one item have one number.
    user_tokens, item_tokens : numpy.ndarray
        Of the ids.
    """
    keys = token_keys(user_tokens, 0, "user")[users]
    parts = [token_keys(item_tokens, 0, "item")[items]]
    if times is not None:
        parts.append(np.asarray(times, dtype=np.float64).view(np.uint64))
    for part in parts:
        keys = mix(keys ^ mix(part))
    return keys


def keys_of(training: Any) -> tuple[np.ndarray, np.ndarray]:
    """The keys of all interactions of a training split's data, and of those it may be trained on, ascending: uint64.

    Parameters
    ----------
    training : nestrec_recbole.data.dataset.SequenceDataset
        The first split that its ``build`` gives.
    """
    rows = training.rows
    tokens = (training.field2id_token[field] for field in (training.uid_field, training.iid_field))
    keys = interaction_keys(rows.owners, rows.items, rows.times, *tokens)
    return keys, np.sort(keys[rows.known_positions()])

"""RecBole's negative samplers, draw for draw, with arrays in place of a set and a loop step per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.sampler import RepeatableSampler, Sampler
from torch import Tensor

from nestrec_recbole.errors import NestRecError


class UnseenSampler(Sampler):
    """Negatives that the user has no training interaction with: RecBole's ``Sampler`` in its phase ``train``.

    Parameters
    ----------
    phase : str
    dataset : recbole.data.dataset.Dataset
        The training interactions; popularity too is theirs alone.
    distribution : str
        ``uniform`` or ``popularity``.
    alpha : float
        The power of popularity.
    """

    def get_used_ids(self) -> np.ndarray:
        """The pairs of user and item that are taken, sorted: user x n_items + item."""
        feat = self.datasets[0].inter_feat
        pairs = np.unique(feat[self.uid_field].numpy() * np.int64(self.item_num) + feat[self.iid_field].numpy())
        users, counts = np.unique(pairs // self.item_num, return_counts=True)
        if counts.max(initial=0) >= self.item_num - 1:
            user = self.datasets[0].field2id_token[self.uid_field][users[counts.argmax()]]
            raise NestRecError(f"user {user} has taken every item: no negative can be drawn; filter such users out")
        return pairs

    def sample_by_user_ids(self, user_ids: np.ndarray, item_ids: np.ndarray, num: int) -> Tensor:
        """Items (num * B,), entry i for user ``i % B``."""
        base = np.tile(np.asarray(user_ids, dtype=np.int64) * self.item_num, num)

        def is_used(places: np.ndarray, values: np.ndarray) -> np.ndarray:
            pairs = base[places] + values
            at = np.minimum(np.searchsorted(self.used_ids, pairs), len(self.used_ids) - 1)
            return self.used_ids[at] == pairs

        return _draw(self, len(base), is_used)


class OtherSampler(RepeatableSampler):
    """Negatives that are not the target itself: RecBole's ``RepeatableSampler``, which sequential models use."""

    def get_used_ids(self) -> None:
        """Nothing is kept: what is taken are the targets of the batch."""

    def sample_by_user_ids(self, user_ids: np.ndarray, item_ids: np.ndarray, num: int) -> Tensor:
        """Items (num * B,), entry i for row ``i % B``."""
        taken = np.tile(np.asarray(item_ids), num)
        return _draw(self, len(taken), lambda places, values: taken[places] == values)


def _draw(sampler: Any, size: int, is_used: Any) -> Tensor:
    """Draw, and draw anew what is taken, in the order in which RecBole asks for random numbers."""
    values, places = np.zeros(size, dtype=np.int64), np.arange(size)
    while len(places):
        values[places] = sampler.sampling(len(places))
        places = places[is_used(places, values[places])]
    return torch.from_numpy(values)

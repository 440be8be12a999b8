"""The dataset that models train on: how it is split, what is hidden from training, its item fields."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nestrec_recbole.data.draws import share_of
from nestrec_recbole.data.features import FeatureStore, ItemField
from nestrec_recbole.data.indexed import IndexedDataset
from nestrec_recbole.data.rows import RowIndex
from nestrec_recbole.data.splits import split_rows
from nestrec_recbole.errors import NestRecError


class SequenceDataset(IndexedDataset):
    """Sequences as indices, split as RecBole's documentation says; a split is the same data with some of its rows.

    Attributes
    ----------
    feature_paths : dict of str to Path
        The feature store of each item field, where the model has any.
    hidden_items, hidden_users : numpy.ndarray of shape (n_items,) and (n_users,), bool
        What training never sees.
    """

    feature_paths: dict[str, Path]
    _aligned: dict[Path, ItemField]  # by feature store
    _settled: list[np.ndarray] | None = None  # the rows of each split, where the config no longer says

    def __init__(self, config: Any) -> None:
        self.feature_paths, self._aligned = {}, {}
        super().__init__(config)

    def build(self) -> list[SequenceDataset]:
        """Split into training, validation and test as ``eval_args`` (or the benchmark files) say.

        Training goes without hidden users and items; validation and test are what they would be.
        """
        self.index()
        train, *others = self.split()
        return [self._without_hidden(train), *(self.select(rows) for rows in others)]

    def split(self) -> list[np.ndarray]:
        """The row numbers of the training, validation and test rows."""
        if self._settled is not None:
            return self._settled
        if self.benchmark_filename_list is not None:
            cuts = np.cumsum(self.file_size_list)
            parts = np.split(np.arange(len(self)), cuts[:-1])
        elif self.domains is not None:
            parts = self.domains.split(self.owners, self.items, self.ends)
        else:
            assert self.times is not None
            target_times = self.times[self.ends]
            parts = split_rows(self.users, target_times, self.config["eval_args"], self._calcu_split_ids)
        if not len(parts[0]):
            raise NestRecError(
                f"dataset {self.dataset_name!r}: no user has two interactions, so there is nothing to train on"
            )
        return parts

    def without_test(self) -> SequenceDataset:
        """The same data without its test rows, their items, times and other columns: nothing is left to look at.

        Its :meth:`build` gives the training and the validation rows of this one, and no test rows. Item and user ids
        are the same.
        """
        self.index()
        train, valid, _ = self.split()
        kept = np.sort(np.r_[train, valid])
        rest = self._over(self.rows.select(kept).blanked())
        rest._settled = [np.searchsorted(kept, train), np.searchsorted(kept, valid), np.zeros(0, dtype=np.int64)]
        return rest

    def under(self, config: Any) -> SequenceDataset:
        """The same data for a model of other settings, which must not differ in what is read or split."""
        self.index()  # once for all
        other = copy.copy(self)
        other.config, other.max_item_list_len = config, config["MAX_ITEM_LIST_LENGTH"]
        other._time_unit = other._read_unit()
        return other

    @cached_property
    def hidden_items(self) -> np.ndarray:
        """Items that training never sees, (n_items,) bool: a share of ``hidden_items``, drawn by ``hidden_seed``."""
        return self._hidden(self.iid_field, "hidden_items")

    @cached_property
    def hidden_users(self) -> np.ndarray:
        """Users that are new after training, (n_users,) bool: a share of ``hidden_users``, drawn by ``hidden_seed``."""
        return self._hidden(self.uid_field, "hidden_users")

    def _hidden(self, field: str, share: str) -> np.ndarray:
        return share_of(self.field2id_token[field], self.config[share] or 0.0, self.config["hidden_seed"] or 0, share)

    def _without_hidden(self, rows: np.ndarray) -> SequenceDataset:
        """The training split, its histories closed up where hidden items stood."""
        part = self._over(
            self.rows.select(rows).without(self.hidden_items[self.items] | self.hidden_users[self.owners])
        )
        if not len(part):
            raise NestRecError(
                f"dataset {self.dataset_name!r}: nothing is left to train on without the hidden users and items; lower "
                "hidden_users or hidden_items"
            )
        return part

    def select(self, rows: np.ndarray) -> SequenceDataset:
        """The same data with these of its rows only, (n,) row numbers, in this order."""
        return self._over(self.rows.select(rows))

    def _over(self, rows: RowIndex) -> SequenceDataset:
        part = copy.copy(self)
        part.rows, part._split_feat = rows, None
        return part

    def copy(self, new_inter_feat: Any) -> SequenceDataset:
        """Refuse: a split here is a choice of rows, made by :meth:`build`."""
        raise NotImplementedError("SequenceDataset is split by build()")

    def sort(self, by: Any, ascending: Any = True) -> None:
        """Do nothing: rows are sorted by (user, time) for good, which is every order RecBole asks for."""

    # -- what models and evaluation need besides ----------------------------------------------------------------

    def interactions(self, in_order: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of every interaction this split may be trained on: its targets and what came before them.

        Parameters
        ----------
        in_order : bool
            Those of a user together and in order of time.

        Returns
        -------
        users, items : numpy.ndarray of shape (n,), int64
        """
        return self.rows.interactions(in_order)

    def item_counts(self) -> np.ndarray:
        """Interactions of each item in this split: (n_items,) int64; the padding item has none."""
        return np.bincount(self.interactions()[1], minlength=self.item_num)

    def training_items(self) -> np.ndarray:
        """Tokens of the items that have an interaction in the training split."""
        return self.field2id_token[self.iid_field][self.build()[0].item_counts() > 0]

    def item_fields(self) -> list[ItemField]:
        """The item fields named in ``item_fields``, as arrays aligned to RecBole's item ids.

        Raises
        ------
        NestRecError
            When a feature is not there, damaged, or belongs to another dataset.
        """
        return [self._aligned.get(path) or self._align(path) for path in self.feature_paths.values()]

    def keep_item_fields(self) -> None:
        """Align the item fields now, for all that are made from this dataset: else each call makes arrays anew."""
        self._aligned = {path: self._align(path) for path in self.feature_paths.values()}

    def _align(self, path: Path) -> ItemField:
        return FeatureStore.open(path).align(self.field2id_token[self.iid_field])

"""Sequences as indices: what RecBole's ``SequentialDataset`` holds as text-book rows, in a fortieth of the space."""

from __future__ import annotations

import json
from collections import Counter
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from nestrec_recbole.data.domains import Domains, warn_of_original
from nestrec_recbole.data.draws import mix
from nestrec_recbole.data.identity import interaction_keys
from nestrec_recbole.data.reading import AtomicDataset
from nestrec_recbole.data.rows import RowIndex, gather
from nestrec_recbole.errors import NestRecError, unknown


class IndexedDataset(AtomicDataset):
    """RecBole's sequential dataset, index-only and in true time order.

    RecBole sorts by timestamps that it has already rounded to float32 (128 s apart in 2020) and then writes every
    prefix of every history out. Here interactions are sorted once by (user, int64 timestamp, file order), kept as
    columns, and a row is three numbers: ``items[start:end]`` is the history, ``items[end]`` the target.
    ``dataset[index]`` still gives the row as RecBole would have written it, so that RecBole's own loaders, metrics and
    models work on it. Filters and benchmark files mean what RecBole's documentation says.

    Attributes
    ----------
    rows : RowIndex
        The rows; ``items``, ``owners``, ``times``, ``users``, ``starts`` and ``ends`` are its arrays.
    columns : dict of str to numpy.ndarray of shape (n_interactions, ...)
        The other columns of the ``.inter`` file, but for those in ``unused_col``.
    rankable : numpy.ndarray of shape (n_items,), bool, or None
        Items that may be recommended; None: all.
    taken : numpy.ndarray of shape (n_items,), bool, or None
        Items that somebody took; None: all. Others have a number where ``.item`` or another file names them.
    domains : Domains or None
        Which item is of which domain, where ``target_domain`` is set.

    Raises
    ------
    NestRecError
        Missing or ill-typed columns, missing times, or nothing left after filtering.
    """

    rows: RowIndex
    rankable: np.ndarray | None = None
    taken: np.ndarray | None = None
    domains: Domains | None = None
    _table: Any
    _time_unit: str | None = None  # by `dataset.json`, where times are used and it is there

    def __init__(self, config: Any) -> None:
        self._indexed = False
        self._split_feat: Interaction | None = None
        self._exact_times: np.ndarray | None = None
        super().__init__(config)

    # -- indexing -----------------------------------------------------------------------------------------------

    def _remap_ID_all(self) -> None:
        # The last moment at which times are what the file says: `normalize_all` and float32 come after this.
        if self.time_field in self.inter_feat:
            self._exact_times = self.inter_feat[self.time_field].to_numpy()
        super()._remap_ID_all()
        self.domains = Domains.of(self.config, self.field2id_token[self.iid_field])
        self.rankable = None if self.domains is None else self.domains.rankable

    def index(self) -> None:
        """Put the interactions in order, where that is still to be done: only then there are ``rows``."""
        self._change_feat_format()

    def _change_feat_format(self) -> None:
        if self._indexed:
            return
        for file in self.config["unused_col"] or {}:
            if f"{file}_feat" not in self.feat_name_list:
                raise NestRecError(f"unused_col.{file}: no such file is read; load_col names those that are")
        for name in self.feat_name_list:
            if name != "inter_feat":
                feature = self._dataframe_to_interaction(getattr(self, name))
                for field in self._unused(name.removesuffix("_feat"), feature.columns):
                    self._del_col(feature, field)
                setattr(self, name, feature)
        table = self.inter_feat
        if self.benchmark_filename_list is None:
            self._index_interactions(table)
            self._aug_presets()
        else:
            self._index_benchmark(table)
        if self.items.max(initial=0) < self.item_num - 1:
            self.taken = np.bincount(self.items, minlength=self.item_num) > 0
        self._time_unit = self._read_unit()
        self._indexed = True
        self._table = None

    def _index_interactions(self, table: pd.DataFrame) -> None:
        users = table[self.uid_field].to_numpy(dtype=np.int32)
        assert self._exact_times is not None
        times = _as_integers(self._exact_times)
        items = table[self.iid_field].to_numpy(dtype=np.int32)
        keys: list[np.ndarray] = [times, users]
        if self.config["shuffle_ties"]:
            keys.insert(0, self._tie_keys(users, items, times))
        order = np.lexsort(keys)
        if self.domains is not None and self.config["protocol"] == "original":
            warn_of_original()
            order = order[self.domains.original_order(users[order], items[order])]
        table, users, items, times = table.iloc[order], users[order], items[order], times[order]
        if self.config["shuffle_ties"] and not ((users[1:] == users[:-1]) & (times[1:] == times[:-1])).any():
            getLogger().warning(
                "dataset %r: no two interactions of a user share their time, so shuffle_ties changes nothing",
                self.dataset_name,
            )
        self._exact_times = None
        extra = table.drop(columns={self.uid_field, self.iid_field, *self._unused("inter", table.columns)})
        others = self._dataframe_to_interaction(extra).interaction if len(extra.columns) else {}
        columns = {name: column.numpy() for name, column in others.items()}
        self.rows = RowIndex.of_users(items, users, times, columns)

    def _tie_keys(self, users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
        """By what interactions of one time are ordered: drawn for each by its tokens, whatever else is in the files."""
        tokens = (self.field2id_token[field] for field in (self.uid_field, self.iid_field))
        seed = np.array([self.config["tie_seed"] or 0], dtype=np.int64).view(np.uint64)
        return mix(interaction_keys(users, items, times, *tokens) ^ mix(seed))

    def _unused(self, file: str, columns: Any) -> list[str]:
        """The columns of a file that ``unused_col`` names."""
        unused = list((self.config["unused_col"] or {}).get(file, []))
        for field in unused:
            if field not in columns:
                raise NestRecError(unknown(f"column in unused_col.{file}", field, columns))
        return unused

    def _index_benchmark(self, table: pd.DataFrame) -> None:
        """Rows whose histories are written out in the files: each becomes a stretch of its own."""
        history = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
        if history not in table:
            raise NestRecError(
                f"benchmark files of {self.dataset_name!r}: no column {history}:token_seq is read, of "
                f"{', '.join(table)}; sequential benchmark files hold user, history and target, and load_col.inter "
                "names all three or is left out"
            )
        lengths = table[history].map(len).to_numpy()
        if (lengths == 0).any():
            line = int(np.flatnonzero(lengths == 0)[0])
            raise NestRecError(f"benchmark files of {self.dataset_name!r}: row {line + 1} has an empty {history}")
        users, targets = (table[name].to_numpy(dtype=np.int32) for name in (self.uid_field, self.iid_field))
        if not (users.all() and targets.all()):
            line = int(np.flatnonzero((users == 0) | (targets == 0))[0])
            raise NestRecError(f"benchmark files of {self.dataset_name!r}: row {line + 1} lacks its user or its item")
        self.rows = RowIndex.of_histories(users, table[history].to_numpy(), targets)

    @property
    def items(self) -> np.ndarray:
        """Item ids of all interactions, user after user, in time order: (n_interactions,) int32."""
        return self.rows.items

    @property
    def owners(self) -> np.ndarray:
        """The user of each interaction: (n_interactions,) int32."""
        return self.rows.owners

    @property
    def times(self) -> np.ndarray | None:
        """When each interaction was: (n_interactions,) int64, float64 where times are no whole numbers, or None."""
        return self.rows.times

    @property
    def users(self) -> np.ndarray:
        """The user of each row: (n_rows,) int32."""
        return self.rows.users

    @property
    def starts(self) -> np.ndarray:
        """Where in ``items`` the history of each row begins: (n_rows,)."""
        return self.rows.starts

    @property
    def ends(self) -> np.ndarray:
        """Where its history ends and its target stands: (n_rows,)."""
        return self.rows.ends

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The other columns of the interactions, by name: (n_interactions, ...)."""
        return self.rows.columns

    @property
    def ranked(self) -> np.ndarray:
        """Whether evaluation ranks an item, (n_items,) bool: those ``rankable`` and ``taken``, not the padding item.

        How many items that nobody took have a number depends on the files that a model reads; what is ranked does not.
        """
        ranked = np.arange(self.item_num) > 0
        for among in (self.rankable, self.taken):
            ranked = ranked if among is None else ranked & among
        return ranked

    @property
    def inter_feat(self) -> Any:
        """The raw table while loading; afterwards the target rows of this split, without their histories."""
        if not self._indexed:
            return self._table
        if self._split_feat is None:
            fields = {
                self.uid_field: torch.from_numpy(self.users.astype(np.int64)),
                self.iid_field: torch.from_numpy(self.items[self.ends].astype(np.int64)),
            }
            fields |= {name: torch.from_numpy(column[self.ends]) for name, column in self.rows.columns.items()}
            self._split_feat = Interaction(fields)
        return self._split_feat

    @inter_feat.setter
    def inter_feat(self, table: Any) -> None:
        self._table = table

    # -- RecBole's interface ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.rows) if self._indexed else len(self._table)

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        batch = self.histories(np.atleast_1d(np.asarray(index)))
        return self.join(batch) if join else batch

    def counter(self, field: str) -> Counter[int]:
        """As RecBole's, of users and of targets without a loop over all of them."""
        if not self._indexed or field not in (self.uid_field, self.iid_field):
            return super().counter(field)
        values = self.users if field == self.uid_field else self.items[self.ends]
        return Counter(dict(zip(*(array.tolist() for array in np.unique(values, return_counts=True)), strict=True)))

    def histories(self, rows: np.ndarray, width: int | None = None) -> Interaction:
        """Write rows out as RecBole does, right-padded with 0.

        Parameters
        ----------
        rows : numpy.ndarray of shape (B,)
            Row numbers of this split.
        width : int, optional
            Columns of the lists; ``MAX_ITEM_LIST_LENGTH`` by default.

        Returns
        -------
        recbole.data.interaction.Interaction
            user, target, ``item_length`` (B,) and every ``*_list`` (B, width): the last ``width`` items before the
            target, oldest first.
        """
        width = width or self.max_item_list_len
        starts, ends = self.rows.windows(rows, width)
        fields = {
            self.uid_field: torch.from_numpy(self.users[rows].astype(np.int64)),
            self.iid_field: torch.from_numpy(self.items[ends].astype(np.int64)),
            self.item_list_length_field: torch.from_numpy(ends - starts),
            self.iid_field + self.config["LIST_SUFFIX"]: torch.from_numpy(
                gather(self.items, starts, ends, width).astype(np.int64)
            ),
        }
        for name, column in self.rows.columns.items():
            fields[name] = torch.from_numpy(column[ends])
            fields[name + self.config["LIST_SUFFIX"]] = torch.from_numpy(gather(column, starts, ends, width))
        return Interaction(fields | self.exact_times(starts, ends, width))

    def exact_times(self, starts: np.ndarray, ends: np.ndarray, width: int) -> dict[str, torch.Tensor]:
        """``exact_time_list`` (B, width), int64, where ``use_times`` asks for it; other columns are float32."""
        if not self.config["use_times"]:
            return {}
        if self.times is None or self.times.dtype.kind != "i":
            raise NestRecError(f"use_times: {self.dataset_name!r} has no times, or none in whole numbers of their unit")
        self._check_unit()
        return {"exact_time_list": torch.from_numpy(gather(self.times, starts, ends, width))}

    def _read_unit(self) -> str | None:
        """What ``nestrec convert`` has written down, read once: a list of every image is in that file too."""
        path = Path(self.dataset_path) / "dataset.json"
        if not self.config["use_times"] or not path.is_file():
            return None
        return json.loads(path.read_text(encoding="utf-8")).get("time_unit", "s")

    def _check_unit(self) -> None:
        """Compare ``times_per_second`` with what ``nestrec convert`` has written down."""
        path, unit = Path(self.dataset_path) / "dataset.json", self._time_unit
        expected = {"s": 1, "ms": 1000, None: self.config["times_per_second"]}.get(unit)
        if expected is None:
            raise NestRecError(f"use_times: {path} says that times are the {unit}; set it to False")
        if expected != self.config["times_per_second"]:
            raise NestRecError(f"use_times: {path} says that times are in {unit}; set times_per_second: {expected}.0")

    def _benchmark_presets(self) -> None:
        suffix = self.config["LIST_SUFFIX"]
        setattr(self, f"{self.iid_field}_list_field", self.iid_field + suffix)
        self.set_field_property(self.item_list_length_field, FeatureType.TOKEN, FeatureSource.INTERACTION, 1)


def _as_integers(times: np.ndarray) -> np.ndarray:
    """Times as int64 where that loses nothing; float64 holds every whole number of seconds, ms or us exactly."""
    whole = times.astype(np.int64)
    return whole if (whole == times).all() else times

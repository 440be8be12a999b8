"""Atomic files read strictly and fast, and filtered, under RecBole's settings for both."""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import SequentialDataset
from recbole.utils import FeatureSource, FeatureType

from nestrec_recbole.data.atomic import line_of, read_columns, read_header
from nestrec_recbole.data.counts import within_counts
from nestrec_recbole.data.domains import keep_domains
from nestrec_recbole.errors import NestRecError, unknown

_NUMBER = r"[-+]?(?:inf|\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)"


class _Pool(dict[str, str]):
    """Gives for a text the one that is equal to it and was asked for first."""

    def __missing__(self, text: str) -> str:
        self[text] = text
        return text


class AtomicDataset(SequentialDataset):
    """The part of RecBole's dataset that reads and filters, with the C parser and with errors that name the line.

    Raises
    ------
    NestRecError
        Missing or ill-typed columns, missing times or places, or nothing left after filtering.
    """

    inter_feat: Any

    def _load_data(self, token: str, dataset_path: str) -> None:
        if not Path(dataset_path).is_dir():
            raise NestRecError(no_such_dataset(token, Path(dataset_path)))
        for part in self.benchmark_filename_list or [""]:
            path = Path(dataset_path, ".".join(filter(None, (token, part, "inter"))))
            if not path.is_file():
                there = ", ".join(sorted(file.name for file in path.parent.glob("*.inter"))) or "no .inter file"
                raise NestRecError(f"{path}: no such file; there is {there}. A file has the name of its folder")
        super()._load_data(token, dataset_path)
        table: Any = self.inter_feat
        if table is None:
            raise NestRecError("load_col.inter is missing or empty: no column of the .inter file is read")
        needed = [self.uid_field, self.iid_field]
        needed += [] if self.benchmark_filename_list else [self.time_field]
        for field in needed:
            if field not in table:
                raise NestRecError(
                    f"{dataset_path}/{token}.inter: no column {field!r}; it has {', '.join(table)}. "
                    "Set USER_ID_FIELD, ITEM_ID_FIELD or TIME_FIELD, or add it to load_col.inter"
                )
        for field in (self.uid_field, self.iid_field):
            if self.field2type[field] is not FeatureType.TOKEN:
                kind = self.field2type[field].value
                raise NestRecError(f"{dataset_path}/{token}.inter: line 1: {field}:{kind} must be {field}:token")
        self.inter_feat = keep_domains(table, self.config)
        if self.benchmark_filename_list and len(self.inter_feat) < len(table):
            raise NestRecError(
                f"dataset {token!r}: domains drops rows of its benchmark files, so that it would not be known any more "
                "which are test rows; leave it out, and keep what is wanted before the split"
            )

    def _set_alias(self, alias_name: str, default_value: list[str]) -> None:
        """Count histories that benchmark files write out among the columns that hold items."""
        for field in self.config[f"alias_of_{alias_name}"] or []:
            if field not in self.field2type:
                raise NestRecError(unknown(f"column in alias_of_{alias_name}", field, self.field2type))
        history = f"{self.iid_field}{self.config['LIST_SUFFIX']}"
        is_written_out = self.benchmark_filename_list and history in self.field2type
        own = [history] if alias_name == "item_id" and is_written_out else []
        super()._set_alias(alias_name, [*default_value, *own])

    def _get_load_and_unload_col(self, source: Any) -> Any:
        file = source.value if isinstance(source, FeatureSource) else source
        columns = {key: (self.config[key] or {}).get(file) for key in ("load_col", "unload_col")}
        for key, given in columns.items():
            if given not in (None, "*") and not isinstance(given, (list, tuple, set)):
                raise NestRecError(f"{key}.{file} is {given!r}; expected a list of columns, or '*'")
        if columns["unload_col"] and columns["load_col"] not in (None, "*"):
            raise NestRecError(f"load_col.{file} names the columns that are read; for unload_col set it to '*'")
        return super()._get_load_and_unload_col(source)

    def _load_feat(self, filepath: str, source: Any) -> pd.DataFrame | None:
        load, unload = self._get_load_and_unload_col(source)
        if load == set():
            return None
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        kinds = {
            name: FeatureType(kind)
            for name, kind in read_header(filepath, separator, encoding).items()
            if (load is None or name in load) and (unload is None or name not in unload)
        }
        if not kinds:
            return None
        for name, kind in kinds.items():
            if source != "link":
                self.field2source[name], self.field2type[name] = source, kind
                if not kind.value.endswith("seq"):
                    self.field2seqlen[name] = 1
                if "float" in kind.value:
                    self.field2bucketnum[name] = 2
        numbers = {name: np.float64 for name, kind in kinds.items() if kind is FeatureType.FLOAT}
        table = read_columns(filepath, kinds, types=numbers, separator=separator, encoding=encoding)
        for name, kind in kinds.items():
            if kind.value.endswith("seq"):
                table[name] = self._split_sequences(name, kind, table[name])
        if source is FeatureSource.INTERACTION:
            self._check_interactions(filepath, table)
        return table

    def _split_sequences(self, name: str, kind: FeatureType, cells: pd.Series) -> list[np.ndarray]:
        """Parse a ``token_seq`` or ``float_seq`` column, cut to ``seq_len`` where that is set."""
        separator = self.config["seq_separator"]
        is_number, pool = kind is FeatureType.FLOAT_SEQ, _Pool()  # a token is held once, however often it is there
        dtype = np.float64 if is_number else object
        parts = ([v for v in cell.split(separator) if v] for cell in cells.fillna(""))
        try:
            sequences = [np.array(part if is_number else [pool[v] for v in part], dtype=dtype) for part in parts]
        except ValueError as error:
            raise NestRecError(f"dataset {self.dataset_name!r}: {name}:{kind.value}: {error}") from None
        longest = max(map(len, sequences), default=0)
        limit = (self.config["seq_len"] or {}).get(name, longest)
        self.field2seqlen[name] = min(limit, longest)
        return [sequence[:limit] for sequence in sequences]

    def _check_interactions(self, filepath: str, table: pd.DataFrame) -> None:
        if self.time_field in table:
            self._check_times(filepath, table[self.time_field])
        if self.config["coordinates"]:
            self._check_places(filepath, table)

    def _check_times(self, filepath: str, times: pd.Series) -> None:
        if times.dtype.kind != "f":
            raise NestRecError(f"{filepath}: line 1: {times.name} is not of type float; write it as {times.name}:float")
        bad = np.flatnonzero(~np.isfinite(times.to_numpy()))
        if len(bad):
            line = line_of(filepath, int(bad[0]), self.config["encoding"])
            raise NestRecError(f"{filepath}: line {line}: {times.name} is missing or not finite; expected a time")

    def _check_places(self, filepath: str, table: pd.DataFrame) -> None:
        """Every interaction must have a place: RecBole would put those without one in the middle of all."""
        for name, most in zip(self.config["coordinates"], (90, 360), strict=True):
            if name not in table or table[name].dtype.kind != "f":
                raise NestRecError(
                    f"coordinates: {filepath} has no column {name}:float that is loaded; it has {', '.join(table)}. "
                    "Add it to load_col.inter, or name another"
                )
            bad = np.flatnonzero(~(np.abs(table[name].to_numpy()) <= most))
            if len(bad):
                line = line_of(filepath, int(bad[0]), self.config["encoding"])
                raise NestRecError(f"{filepath}: line {line}: {name} is {table[name][bad[0]]}; expected degrees")

    # -- filtering ----------------------------------------------------------------------------------------------

    def _data_filtering(self) -> None:
        if self.inter_feat.empty:
            raise NestRecError(f"{self.dataset_path}/{self.dataset_name}.inter has no interactions below its header")
        super()._data_filtering()

    def _filter_by_inter_num(self) -> None:
        """As RecBole, which counts every id in Python."""
        table: Any = self.inter_feat
        sides = []
        for field, kind in ((self.uid_field, "user"), (self.iid_field, "item")):
            intervals = self._parse_intervals_str(self.config[f"{kind}_inter_num_interval"])
            if not _allows_any(intervals):
                sides.append((field, getattr(self, f"{kind}_feat"), intervals, *pd.factorize(table[field])))
        if not sides:
            return
        allowed = [functools.partial(self._within_intervals, intervals=intervals) for _, _, intervals, _, _ in sides]
        rows, left_out = within_counts([codes for *_, codes, _ in sides], allowed)
        for (field, feat, intervals, codes, ids), out in zip(sides, left_out, strict=True):
            if feat is not None:
                place = pd.Index(ids).get_indexer(feat[field])  # -1: in no interaction
                counts = np.r_[np.bincount(codes[rows], minlength=len(ids)), 0][place]
                gone = np.r_[out, False][place] | (counts < intervals[0][1])  # RecBole, too, asks the first interval
                feat.drop(feat.index[gone], inplace=True)
        self.inter_feat = table.take(rows)

    def _parse_intervals_str(self, intervals_str: Any) -> Any:
        if intervals_str is None:
            return None
        intervals = [part.strip() for part in str(intervals_str).split(";")]  # "[3,8]" may have become a list
        for interval in intervals:
            ends = re.fullmatch(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]", interval)
            if ends is None or float(ends[1]) > float(ends[2]):
                raise NestRecError(f"interval {interval!r}: expected such as [3,8] or (0,inf), several apart by ';'")
        return super()._parse_intervals_str(intervals_str)

    def _filter_by_field_value(self) -> None:
        for field, wanted in (self.config["val_interval"] or {}).items():
            if field not in self.field2type:
                raise NestRecError(
                    f"val_interval: {unknown('field', field, self.field2type)}; a column must be in load_col to be read"
                )
            if not self.field2type[field].value.startswith("float") and not isinstance(wanted, (list, tuple, set)):
                raise NestRecError(f"val_interval.{field} is {wanted!r}; expected a list of the tokens to keep")
        super()._filter_by_field_value()

    def _remove_duplication(self) -> None:
        """As RecBole, but with a stable sort: interactions of one second keep their file order."""
        if self.config["rm_dup_inter"] is not None:
            if self.config["rm_dup_inter"] not in ("first", "last"):
                raise NestRecError(f"rm_dup_inter is {self.config['rm_dup_inter']!r}; expected first or last")
            self.inter_feat.sort_values(self.time_field, kind="stable", inplace=True)
            pair = [self.uid_field, self.iid_field]
            self.inter_feat.drop_duplicates(subset=pair, keep=self.config["rm_dup_inter"], inplace=True)

    def _reset_index(self) -> None:
        for name in self.feat_name_list:
            if getattr(self, name).empty:
                raise NestRecError(
                    f"dataset {self.dataset_name!r}: nothing of {name} is left after filtering; loosen val_interval, "
                    "user_inter_num_interval or item_inter_num_interval"
                )
        super()._reset_index()


def no_such_dataset(name: str, folder: Path) -> str:
    """Say that ``folder``, where a dataset should lie, is not there."""
    beside = [file.stem for file in folder.parent.glob("*/*.inter") if file.stem == file.parent.name]
    hint = f"if the name is right, put {name}.inter into {folder}, or set `data_path`"
    return f"{unknown('dataset', name, ['ml-100k', *beside])}; {hint}"


def _allows_any(intervals: list[tuple[str, float, float, str]] | None) -> bool:
    """Whether one of RecBole's intervals, such as ``("[", 0.0, inf, ")")``, holds every number of interactions."""
    return intervals is None or any(
        (low < 0 or (low == 0 and left == "[")) and high == math.inf for left, low, high, _ in intervals
    )

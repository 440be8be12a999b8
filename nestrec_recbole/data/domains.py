"""Datasets of several domains: which item is of which, and a split whose targets are all of one of them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.data.atomic import read_columns
from nestrec_recbole.data.rows import gather
from nestrec_recbole.errors import NestRecError, unknown

PROTOCOLS = ("strict", "original")
FEWEST = 3  # interactions in the target domain of a user that is tested: a history, one to validate, one to test


@dataclass(frozen=True)
class Domains:
    """The domain of every item, and the one that is recommended from.

    Attributes
    ----------
    names : tuple of str
        In the order of their numbers, which begin at 1.
    of_item : numpy.ndarray of shape (n_items,), int64
        The number of each item's domain; 0 for the padding item.
    target : int
        The number of ``target_domain``.
    """

    names: tuple[str, ...]
    of_item: np.ndarray
    target: int

    @classmethod
    def of(cls, config: Any, tokens: np.ndarray) -> Domains | None:
        """Read the domains of a dataset's items, where ``target_domain`` is set.

        Parameters
        ----------
        config : recbole.config.Config
        tokens : numpy.ndarray of shape (n_items,)
            ``dataset.field2id_token[item field]``; entry 0 is the padding item.

        Raises
        ------
        NestRecError
            An item without domain, a target that is no domain, or evaluation that is not leave-one-out.
        """
        if not has_target(config):
            return None
        split = config["eval_args"]["split"]
        if config["benchmark_filename"] or split != {"LS": "valid_and_test"}:
            found = "benchmark files" if config["benchmark_filename"] else f"eval_args.split {split!r}"
            raise NestRecError(f"target_domain: its split is leave-one-out, not {found}; set LS: valid_and_test")
        found = pd.Series(_read(config)).reindex(tokens[1:])
        if found.isna().any():
            item = found.index[found.isna().argmax()]
            raise NestRecError(f"{_item_file(config)}: item {item!r} has no {config['domain_field']!r}; give it one")
        names, numbers = np.unique(found.to_numpy(dtype=str), return_inverse=True)
        target = str(config["target_domain"])  # RecBole reads a number in its place
        if target not in names:
            raise NestRecError(unknown("target_domain", target, map(str, names)))
        _refuse_unknown_order(config, target)
        return cls(tuple(map(str, names)), np.r_[0, numbers + 1].astype(np.int64), list(names).index(target) + 1)

    @property
    def rankable(self) -> np.ndarray:
        """Whether an item may be recommended, (n_items,) bool: those of the target domain."""
        return self.of_item == self.target

    def held_out(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """0 for what trains, 1 and 2 for the last but one and the last interaction of each user in the target domain.

        Parameters
        ----------
        users, items : numpy.ndarray of shape (n,)
            User after user, each in time order. Users with fewer than ``FEWEST`` in the target domain are not tested.
        """
        part = np.zeros(len(users), dtype=np.int8)
        # Where the end of a history is blanked out (`without_test`), so that nobody sees it, it begins with a target.
        blank = items == 0
        goes_on = np.r_[False, blank[:-1] & (users[1:] == users[:-1])]
        place = np.flatnonzero((self.of_item[items] == self.target) | (blank & ~goes_on))
        if not len(place):
            return part
        _, counts = np.unique(users[place], return_counts=True)
        last = np.cumsum(counts)[counts >= FEWEST] - 1
        part[place[last]], part[place[last - 1]] = 2, 1
        return part

    def original_order(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """The order in which each user's held-out interactions come last: (n,) places.

        So TriGRec's authors give a user's whole source domain to the model, and with it what came after the target.
        """
        return np.lexsort((self.held_out(users, items), users))

    def split(self, users: np.ndarray, items: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
        """Row numbers of training, validation and test, of rows whose targets are ``items[ends]``.

        Nothing of a user after the validation target trains.

        Parameters
        ----------
        users, items : numpy.ndarray of shape (n,)
            All interactions.
        ends : numpy.ndarray of shape (n_rows,)
            Targets, ascending.
        """
        part = self.held_out(users, items)
        first = np.searchsorted(users, users)
        started = (part == 1).cumsum()
        before = started - started[first] + (part[first] == 1) == 0  # no validation target of this user so far
        row = part[ends]
        return [np.flatnonzero((row == 0) & before[ends]), np.flatnonzero(row == 1), np.flatnonzero(row == 2)]

    def training_histories(self, users: np.ndarray, items: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """What is known of each user while training: all that comes before its validation target.

        Parameters
        ----------
        users, items : numpy.ndarray of shape (n,)
            All interactions, as for :meth:`held_out`.
        width : int

        Returns
        -------
        users : numpy.ndarray of shape (n_users,)
        histories : numpy.ndarray of shape (n_users, width), int64
            The last ``width`` of those items, oldest first, right-padded with 0.
        """
        part = self.held_out(users, items)
        everyone, first, counts = np.unique(users, return_index=True, return_counts=True)
        ends = first + counts
        validated = np.flatnonzero(part == 1)
        ends[np.searchsorted(everyone, users[validated])] = validated
        return everyone, gather(items, np.maximum(first, ends - width), ends, width).astype(np.int64)


def keep_domains(table: pd.DataFrame, config: Any) -> pd.DataFrame:
    """Keep the interactions of the domains that ``domains`` names, if it names any.

    Raises
    ------
    NestRecError
        When it names a domain that no item has.
    """
    given = config["domains"]
    if given in (None, "", [], ()):
        return table
    domain_of = pd.Series(_read(config)).astype(str)
    for name in (wanted := [str(one) for one in (given if isinstance(given, (list, tuple)) else [given])]):
        if name not in set(domain_of):
            raise NestRecError(unknown("domain in `domains`", name, domain_of.unique()))
    return table[table[config["ITEM_ID_FIELD"]].map(domain_of).isin(wanted)].reset_index(drop=True)


def has_target(config: Any) -> bool:
    """Whether ``target_domain`` is set; a domain may be called 0."""
    return config["target_domain"] not in (None, "")


def warn_of_original() -> None:
    """Say that ``protocol: original`` lets the source domain's future be seen."""
    logging.getLogger().warning(
        "protocol: original: histories hold the whole source domain, also what came after the target (a leak)"
    )


def _item_file(config: Any) -> Path:
    return Path(config["data_path"]) / f"{config['dataset']}.item"


def _read(config: Any) -> dict[str, str]:
    """Item token to domain."""
    columns = [config["ITEM_ID_FIELD"], config["domain_field"]]
    table = read_columns(
        _item_file(config), columns, separator=config["field_separator"], encoding=config["encoding"]
    ).drop_duplicates(columns[0])  # the first line of an item counts, as in RecBole
    return dict(zip(*(table.dropna()[name] for name in columns), strict=True))


def _refuse_unknown_order(config: Any, target: str) -> None:
    """Refuse pickles whose domains' last items are in no known order, where that might show a target its future."""
    path = Path(config["data_path"]) / "dataset.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    domains = about.get("options", {}).get("domains") or [target]
    number = about.get("notes", {}).get("users whose last items of the two domains are in no known order", 0)
    if number and domains[0] != target and not config["domains"] and config["protocol"] != "original":
        raise NestRecError(
            f"{path}: of {number} users it is not known which domain's last items came later, and {domains[0]!r} was "
            f"put first; for target_domain {target!r} convert the pickles again with {target!r} as first domain"
        )

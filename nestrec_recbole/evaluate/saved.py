"""Metrics user by user, from the ranks a run has saved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nestrec_recbole.errors import NestRecError, first_line, unknown
from nestrec_recbole.evaluate.metrics import RANK_METRICS, row_values

_RANK_OF = {"": "rank", "_f": "rank_unseen", "_c": "rank_candidates"}
_NEEDS = {"cold": "hidden_items", "warm": "hidden_items", "new": "hidden_users", "known": "hidden_users"}


def ranks_beside(checkpoint: str | Path) -> Path:
    """Where the ranks of a run lie: ``<checkpoint without its suffix>-ranks.parquet``."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-ranks.parquet")


def read_ranks(path: str | Path) -> pd.DataFrame:
    """Read what ``write_ranks`` wrote, one row per held-out target.

    Raises
    ------
    NestRecError
        When the file is missing, no Parquet, or lacks a column.
    """
    if not Path(path).is_file():
        raise NestRecError(f"{path}: missing; without the ranks of every user there is nothing to test, run it again")
    try:
        ranks = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # of pyarrow
        raise NestRecError(f"{path}: not a Parquet file ({first_line(error)}); run it again") from None
    for column in ("user", "item", "rank", "rank_unseen"):
        if column not in ranks:
            raise NestRecError(f"{path}: no column {column!r}; expected what `nestrec benchmark` writes")
    return ranks.astype({"user": str, "item": str})


def parse_metric(name: str) -> tuple[str, int, str, str]:
    """``ndcg@10_f_cold`` as (``ndcg``, 10, the column of ranks it is computed from, the column of rows that count).

    The last is empty where all rows count.

    Raises
    ------
    NestRecError
        When it is no metric of a single user's rank.
    """
    found = re.fullmatch(rf"([a-z]+)@([1-9]\d*)(_f|_c|)(?:_({'|'.join(_NEEDS)})|)", name.lower())
    if not found:
        raise NestRecError(f"metric {name!r} has no value per user; expected one such as ndcg@10 (U) or ndcg@10_f (F)")
    if found[1] not in RANK_METRICS:
        raise NestRecError(unknown("metric of single users", found[1], RANK_METRICS))
    return found[1], int(found[2]), _RANK_OF[found[3]], found[4] or ""


def rows_of_metric(ranks: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows that count in a metric: of ``ndcg@10_cold`` those whose target was hidden from training."""
    *_, group = parse_metric(name)
    if not group:
        return ranks
    if group not in ranks:
        raise NestRecError(f"metric {name!r}: these runs do not say which rows are {group}; set `{_NEEDS[group]}`")
    return ranks[ranks[group].to_numpy(dtype=bool)]


def metric_of_rows(ranks: pd.DataFrame, name: str) -> np.ndarray:
    """The value of ``ndcg@10_f`` and its like in every row that counts in it: (n_rows,)."""
    metric, k, column, _ = parse_metric(name)
    if column not in ranks:
        raise NestRecError(f"metric {name!r} needs ranks among candidates, which these runs lack: set `candidates`")
    return row_values(metric, rows_of_metric(ranks, name)[column].to_numpy(), k)


def metric_of_users(runs: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
    """Each user's mean over held-out targets in each run, which differ in their seeds: (n_runs, n_users).

    Raises
    ------
    NestRecError
        When the runs were not tested on the same targets, or none of those counts in the metric.
    """
    if not all(same_targets(run, runs[0]) for run in runs[1:]):
        raise NestRecError("seeds of one row were not tested on the same users and items; run them on the same data")
    users = [rows_of_metric(run, name)["user"].to_numpy() for run in runs]
    if not len(users[0]):
        raise NestRecError(f"metric {name!r}: no row counts in it")
    values = [
        pd.Series(metric_of_rows(run, name)).groupby(its_users).mean()
        for run, its_users in zip(runs, users, strict=True)
    ]
    return pd.DataFrame(values).reset_index(drop=True)


def same_targets(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two runs were tested on the same (user, item) pairs, in whatever order."""
    pairs = [run[["user", "item"]].reset_index(drop=True) for run in (a, b)]
    if pairs[0].equals(pairs[1]):
        return True
    first, second = (one.sort_values(["user", "item"], ignore_index=True) for one in pairs)
    return first.equals(second)

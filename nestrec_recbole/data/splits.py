"""RecBole's splits of target rows into training, validation and test, vectorised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nestrec_recbole.errors import NestRecError


def split_rows(
    users: np.ndarray,
    times: np.ndarray,
    eval_args: dict[str, Any],
    cut_points: Callable[[int, Sequence[float]], Sequence[int]],
) -> list[np.ndarray]:
    """Assign each row to training, validation or test as RecBole's ``eval_args`` say.

    Parameters
    ----------
    users, times : numpy.ndarray of shape (n_rows,)
        User and target time of each row, sorted by (user, time).
    eval_args : dict
        RecBole's ``split`` (``LS``, ``RS`` or ``TS``), ``group_by`` and ``order``.
    cut_points : callable
        RecBole's own ``Dataset._calcu_split_ids``: (number of rows, ratios) -> cut points.

    Returns
    -------
    list of numpy.ndarray
        The row numbers of each part, ascending.

    Raises
    ------
    NestRecError
        When the order is not ``TO``, the split is not one of RecBole's, or its ratios are not three, the first above 0.
    """
    if eval_args["order"] != "TO":
        raise NestRecError(f"eval_args.order is {eval_args['order']!r}: sequential models need 'TO' (time order)")
    split = eval_args["split"]
    if not isinstance(split, dict) or len(split) != 1:
        raise NestRecError(f"eval_args.split is {split!r}: expected one of LS, RS or TS, as {{'LS': 'valid_and_test'}}")
    ((mode, argument),) = split.items()
    if mode == "LS":
        part = _leave_one_out(users, argument)
        return [np.flatnonzero(part == p) for p in range(3)]
    if mode not in ("RS", "TS") or not isinstance(argument, list):
        raise NestRecError(f"eval_args.split is {split!r}: expected LS with a mode, or RS or TS with a list of ratios")
    if len(argument) != 3 or not all(isinstance(r, (int, float)) and 0 <= r < np.inf for r in argument):
        raise NestRecError(f"eval_args.split is {split!r}: expected three ratios, of training, validation and test")
    if not argument[0]:
        raise NestRecError(f"eval_args.split is {split!r}: nothing would train")
    total = sum(argument)
    ratios = [ratio / total for ratio in argument]
    if mode == "TS":
        part = _temporal(users, times, ratios)
    elif str(eval_args["group_by"]).lower() == "none":
        part = np.empty(len(users), dtype=np.int8)
        by_time = np.argsort(times, kind="stable")
        part[by_time] = np.searchsorted(cut_points(len(users), ratios), np.arange(len(users)), side="right")
    elif eval_args["group_by"] == "user":
        part = _ratio_by_user(users, ratios, cut_points)
    else:
        raise NestRecError(f"eval_args.group_by is {eval_args['group_by']!r}: expected 'user' or 'none'")
    return [np.flatnonzero(part == p) for p in range(len(argument))]


def _place_in_user(users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each row, its place among its user's rows and how many rows that user has."""
    _, first, counts = np.unique(users, return_index=True, return_counts=True)
    group = np.repeat(np.arange(len(first)), counts)
    return np.arange(len(users)) - first[group], counts[group]


def _leave_one_out(users: np.ndarray, mode: str) -> np.ndarray:
    """0, 1, 2 for training, validation, test. A user's first row always trains; test is served before validation."""
    place, count = _place_in_user(users)
    from_last = count - 1 - place
    part = np.zeros(len(users), dtype=np.int8)
    if mode == "valid_and_test":
        part[(from_last == 0) & (count >= 2)] = 2
        part[(from_last == 1) & (count >= 3)] = 1
    elif mode in ("valid_only", "test_only"):
        part[(from_last == 0) & (count >= 2)] = 1 if mode == "valid_only" else 2
    else:
        raise NestRecError(f"eval_args.split LS is {mode!r}: expected valid_and_test, valid_only or test_only")
    return part


def _ratio_by_user(
    users: np.ndarray, ratios: Sequence[float], cut_points: Callable[[int, Sequence[float]], Sequence[int]]
) -> np.ndarray:
    place, count = _place_in_user(users)
    sizes, which = np.unique(count, return_inverse=True)
    cuts = np.array([cut_points(int(size), ratios) for size in sizes])  # (n_sizes, n_parts - 1)
    return (place[:, None] >= cuts[which]).sum(axis=1).astype(np.int8)


def _temporal(users: np.ndarray, times: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """One global time cuts test off; each user's rows before it are shared out between training and validation."""
    boundary = np.percentile(times, 100 * (1 - ratios[-1]))
    part = np.full(len(users), 2, dtype=np.int8)
    before = times <= boundary
    place, count = _place_in_user(users[before])
    part[before] = place >= (count * (ratios[0] / (1 - ratios[2]))).astype(np.int64)
    return part

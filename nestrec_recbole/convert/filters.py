"""Which interactions stay: RecBole's own order of filters, on integers and inside DuckDB."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from nestrec_recbole.convert.corpus import PLACE
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.convert.windows import without_windows
from nestrec_recbole.errors import NestRecError, unknown

DEDUPLICATE = ("none", "exact", "first", "last")
_MONTH = r"(19|20)\d\d(0[1-9]|1[0-2])"
_BARE_DATES = {"year": r"\d{4}", "month": _MONTH, "date": _MONTH + r"(0[1-9]|[12]\d|3[01])"}


@dataclass(frozen=True)
class Filters:
    """What to keep, applied in the order of the attributes.

    Attributes
    ----------
    deduplicate : str
        Of a user's interactions with one item keep the ``first``, the ``last``, one of each time (``exact``), or all
        (``none``).
    min_rating : float, optional
        Lowest rating that counts as an interaction.
    since, until : str, optional
        Time range, ``until`` excluded: a date such as ``2018-01-01`` (UTC), or a number in the corpus' own unit.
    sample_users : int, optional
        Draw that many users by ``seed``.
    distinct_runs : int
        Of users whose histories share so many consecutive items, keep the longest history; 0: all. For data whose
        users are windows of one history, see :mod:`~nestrec_recbole.convert.windows`.
    k_core_users, k_core_items : int
        Fewest interactions of a user and of an item, iterated until both hold.
    min_history : int
        Fewest interactions of a user, looked at once, at the very end; items may fall below their core by it.
    seed : int
        For everything drawn: users here, parts of a split.

    Raises
    ------
    NestRecError
        A value out of range.
    """

    deduplicate: str = "none"
    min_rating: float | None = None
    since: str | None = None
    until: str | None = None
    sample_users: int | None = None
    distinct_runs: int = 0
    k_core_users: int = 0
    k_core_items: int = 0
    min_history: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.deduplicate not in DEDUPLICATE:
            raise NestRecError(unknown("deduplication", self.deduplicate, DEDUPLICATE))
        for option in ("k_core_users", "k_core_items", "min_history"):
            if getattr(self, option) < 0:
                raise NestRecError(f"{option} is {getattr(self, option)}; expected a whole number from 0")
        if self.distinct_runs < 0 or self.distinct_runs == 1:
            raise NestRecError(f"distinct_runs is {self.distinct_runs}; expected 0, or a number of items from 2")
        if self.min_rating is not None and not math.isfinite(self.min_rating):
            raise NestRecError(f"min_rating is {self.min_rating}; expected a finite number")
        if self.sample_users is not None and self.sample_users < 1:
            raise NestRecError(f"sample_users is {self.sample_users}; expected a whole number from 1")


def apply_filters(staging: Staging, filters: Filters, time_unit: str) -> dict[str, int]:
    """Filter the table ``interactions`` in place.

    Returns
    -------
    dict of str to int
        Interactions left after each step that was asked for.

    Raises
    ------
    NestRecError
        Nothing left, a rating threshold without ratings, or dates without times.
    """
    steps: dict[str, Callable[[], None]] = {}
    if filters.deduplicate != "none":
        steps[f"deduplicate ({filters.deduplicate})"] = lambda: _deduplicate(staging, filters.deduplicate)
    if filters.min_rating is not None:
        steps[f"rating >= {filters.min_rating:g}"] = lambda: _min_rating(staging, filters.min_rating)
    if filters.since is not None or filters.until is not None:
        steps["time range"] = lambda: _time_range(staging, filters, time_unit)
    if filters.sample_users is not None:
        steps["sample of users"] = lambda: _sample_users(staging, filters)
    if filters.distinct_runs:
        steps["distinct runs"] = lambda: _keep(staging, f"WHERE {without_windows(staging, filters.distinct_runs)}")
    if max(filters.k_core_users, filters.k_core_items) > 1:
        steps["k-core"] = lambda: _k_core(staging, filters.k_core_users, filters.k_core_items)
    if filters.min_history > 1:
        steps["minimum history"] = lambda: _keep(staging, _frequent("u", filters.min_history))
    left = {"read": _count(staging)}
    for step, apply in steps.items():
        apply()
        left[step] = _count(staging)
        if not left[step]:
            raise NestRecError(f"no interaction is left after the filter {step!r}; loosen it")
    return left


def _count(staging: Staging) -> int:
    return staging.value("SELECT count(*) FROM interactions")


def _keep(staging: Staging, condition: str) -> None:
    staging.run(f"CREATE TABLE kept AS SELECT * FROM interactions {condition}")
    staging.run("DROP TABLE interactions")
    staging.run("ALTER TABLE kept RENAME TO interactions")


def _deduplicate(staging: Staging, which: str) -> None:
    order = "timestamp DESC, place DESC" if which == "last" else "timestamp, place"
    same = "u, i, timestamp" if which == "exact" else "u, i"
    _keep(staging, f"QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY {order}) = 1")


def _min_rating(staging: Staging, lowest: float | None) -> None:
    if "rating" not in staging.columns("interactions"):
        raise NestRecError("min_rating: this corpus has no ratings; leave the threshold out")
    _keep(staging, f"WHERE rating >= {lowest!r}")


def _time_range(staging: Staging, filters: Filters, unit: str) -> None:
    since = "-infinity" if filters.since is None else _moment("since", filters.since, unit)
    until = "infinity" if filters.until is None else _moment("until", filters.until, unit)
    _keep(staging, f"WHERE timestamp >= '{since}'::DOUBLE AND timestamp < '{until}'::DOUBLE")


def _moment(option: str, text: str, unit: str) -> int:
    """A date or a number in the corpus' unit."""
    bare = next((what for what, digits in _BARE_DATES.items() if re.fullmatch(digits, text)), None)
    if bare and unit != PLACE:
        date = f"{text[:4]}-{text[4:6] or '01'}-{text[6:] or '01'}"
        why = f"which is a moment of 1970; for the {bare} give {date}, for the number 0{text}"
        raise NestRecError(f"{option} is {text!r}, {why}")
    try:
        return int(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise NestRecError(f"{option} is {text!r}; expected a date such as 2018-01-01, or a whole number") from None
    if unit == PLACE:
        raise NestRecError(f"{option} is {text!r}, but this corpus has no times, only places in histories")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * (1000 if unit == "ms" else 1))


def _sample_users(staging: Staging, filters: Filters) -> None:
    """Users in the order of a hash: the same ones on every machine, and fewer of them are a subset of more."""
    drawn = (
        "SELECT u FROM users WHERE u IN (SELECT u FROM interactions) "
        f"ORDER BY md5('{filters.seed}:' || user_id), u LIMIT {filters.sample_users}"
    )
    _keep(staging, f"WHERE u IN ({drawn})")


def _frequent(column: str, least: int) -> str:
    return f"WHERE {column} IN (SELECT {column} FROM interactions GROUP BY {column} HAVING count(*) >= {least})"


def _k_core(staging: Staging, users: int, items: int) -> None:
    """Drop what is too rare until nothing is; the k-core is unique, so the order of dropping does not matter."""
    before = -1
    while (now := _count(staging)) not in (before, 0):
        before = now
        _keep(staging, _frequent("u", users))
        _keep(staging, _frequent("i", items))

"""Splits beyond RecBole's own, written as benchmark files and read back to be searched for leaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.corpus import PLACE
from nestrec_recbole.convert.leaks import refuse_leaks
from nestrec_recbole.convert.staging import Staging, name
from nestrec_recbole.data.atomic import copy_statement
from nestrec_recbole.errors import NestRecError, unknown

SPLITS = ("leave_one_out", "temporal", "stratified_temporal", "user", "new_users", "item", "stratified_by_column")
ROWS = ("sequences", "pairs")
# Parts drawn without regard to time: a history then holds training interactions only.
_DRAWN = ("item", "stratified_by_column")
_HISTORY = """SELECT *, row_number() OVER (PARTITION BY u ORDER BY timestamp, place) - 1 AS step,
    count(*) OVER (PARTITION BY u) AS n FROM interactions"""


@dataclass(frozen=True)
class Split:
    """Which interactions are trained on, validated on and tested on.

    Attributes
    ----------
    kind : str
        ``leave_one_out``: each user's last is test, the last but one validation.
        ``temporal``: two moments cut everybody's interactions; those of one time stay together.
        ``stratified_temporal``: each user's interactions are cut by their order.
        ``user``: users are drawn; of the held-out ones the last interaction is predicted from those before it.
        ``new_users``: a drawn share of users (the last ratio) is ``test_new``, predicted as under ``user``; the others
        are known users, split as ``leave_one_out``.
        ``item``: items are drawn; held-out ones are in no training history.
        ``stratified_by_column``: within each value of ``column`` (user, item) pairs are drawn.
    ratios : tuple of float
        Of training, validation and test.
    column : str, optional
        ``rating``, or an item or user field.
    rows : str
        ``sequences``: user, history, target, as RecBole's sequential models want them. ``pairs``: user, item.
    max_history : int
        Items of a written history.

    Raises
    ------
    NestRecError
        An unknown kind, ratios that are not positive, or a column where there must be none.
    """

    kind: str
    ratios: tuple[float, ...] = (0.8, 0.1, 0.1)
    column: str | None = None
    rows: str = "sequences"
    max_history: int = 50

    def __post_init__(self) -> None:
        for what, given, known in (("split", self.kind, SPLITS), ("split rows", self.rows, ROWS)):
            if given not in known:
                raise NestRecError(unknown(what, given, known))
        if len(self.ratios) != 3 or not all(0 < ratio < float("inf") for ratio in self.ratios):
            raise NestRecError(f"split ratios are {self.ratios}; expected three positive numbers, such as 0.8 0.1 0.1")
        if (self.column is not None) != (self.kind == "stratified_by_column"):
            raise NestRecError(f"split {self.kind!r} with column {self.column!r}; stratified_by_column takes one")
        if self.max_history < 1:
            raise NestRecError(f"split max_history is {self.max_history}; expected a whole number from 1")

    @property
    def parts(self) -> tuple[str, ...]:
        """The files that are written."""
        return ("train", "valid", "test") + (("test_new",) if self.kind == "new_users" else ())

    def cut(self, place: str, total: str) -> str:
        """SQL of the part that comes of a place among so many."""
        share = [sum(self.ratios[: k + 1]) / sum(self.ratios) for k in range(2)]
        ends = [f"floor({total} * {s!r} + 1e-9)" for s in share]  # .8 + .1 is a little less than .9
        return f"CASE WHEN {place} < {ends[0]} THEN 'train' WHEN {place} < {ends[1]} THEN 'valid' ELSE 'test' END"


def label_parts(staging: Staging, split: Split, seed: int, time_unit: str) -> None:
    """Create the table ``history``: ``interactions`` with ``step`` (place among the user's ``n``) and ``part``.

    ``part`` is NULL for what is known of a user but neither trained on nor predicted.
    """
    label: dict[str, Callable[[Staging, Split, int], str]] = {
        "leave_one_out": _leave_one_out,
        "temporal": _temporal,
        "stratified_temporal": lambda *_: f"SELECT *, {split.cut('step', 'n')} AS part FROM ({_HISTORY})",
        "user": _user,
        "new_users": _new_users,
        "item": _item,
        "stratified_by_column": _by_column,
    }
    if split.kind == "temporal" and time_unit == PLACE:
        raise NestRecError("split 'temporal': this corpus has no times, only places; use stratified_temporal")
    staging.run(f"CREATE TABLE history AS {label[split.kind](staging, split, seed)}")


_LAST_TWO = "CASE WHEN step = n - 1 AND n >= 2 THEN 'test' WHEN step = n - 2 AND n >= 3 THEN 'valid' ELSE 'train' END"


def _leave_one_out(*_: Any) -> str:
    return f"SELECT *, {_LAST_TWO} AS part FROM ({_HISTORY})"


def _temporal(staging: Staging, split: Split, seed: int) -> str:
    """Cut at the times of two ranks; what shares a cut's time falls behind it."""
    total = staging.value("SELECT count(*) FROM interactions")
    ranks = [int(total * sum(split.ratios[: k + 1]) / sum(split.ratios) + 1e-9) for k in range(2)]
    one = "SELECT timestamp FROM interactions ORDER BY timestamp LIMIT 1 OFFSET"
    cuts = [staging.value(f"{one} {min(rank, total - 1)}") for rank in ranks]
    part = f"CASE WHEN timestamp < {cuts[0]} THEN 'train' WHEN timestamp < {cuts[1]} THEN 'valid' ELSE 'test' END"
    return f"SELECT *, {part} AS part FROM ({_HISTORY})"


def _drawn(split: Split, key: str, seed: int) -> str:
    """Users or items with their parts, by rank in the order of a hash."""
    number, table = key[0], f"{key}s"
    among = f"SELECT * FROM {table} WHERE {number} IN (SELECT {number} FROM interactions)"
    rank = f"row_number() OVER (ORDER BY md5('{seed}:{key}:' || {key}_id), {number}) - 1"
    return f"SELECT {number}, {split.cut(rank, 'count(*) OVER ()')} AS drawn FROM ({among})"


def _user(staging: Staging, split: Split, seed: int) -> str:
    part = "CASE WHEN drawn = 'train' THEN 'train' WHEN step = n - 1 THEN drawn END"
    return f"SELECT h.*, {part} AS part FROM ({_HISTORY}) h JOIN ({_drawn(split, 'user', seed)}) USING (u)"


def _new_users(staging: Staging, split: Split, seed: int) -> str:
    part = f"CASE WHEN drawn <> 'test' THEN {_LAST_TWO} WHEN step = n - 1 THEN 'test_new' END"
    return f"SELECT h.*, {part} AS part FROM ({_HISTORY}) h JOIN ({_drawn(split, 'user', seed)}) USING (u)"


def _item(staging: Staging, split: Split, seed: int) -> str:
    return f"SELECT h.*, drawn AS part FROM ({_HISTORY}) h JOIN ({_drawn(split, 'item', seed)}) USING (i)"


def _by_column(staging: Staging, split: Split, seed: int) -> str:
    """Draw (user, item) pairs within each value of the column, so that a repeated pair stays in one part."""
    tables = {"interactions": "", "raw_items": "JOIN items USING (i) LEFT JOIN raw_items USING (item_id)"}
    tables["raw_users"] = "JOIN users USING (u) LEFT JOIN raw_users USING (user_id)"
    assert split.column is not None
    columns = {table: staging.columns(table) for table in tables if staging.has(table)}
    found = next((table for table in columns if split.column in columns[table]), None)
    if found is None or split.column in ("u", "i", "place", "timestamp"):
        known = {c for table in columns.values() for c in table} - {"u", "i", "place", "timestamp"}
        raise NestRecError(unknown("column to stratify by", split.column, known))
    pairs = (
        f"SELECT DISTINCT u, i, min({found}.{name(split.column)}) AS stratum FROM interactions {tables[found]} "
        "GROUP BY u, i"
    )
    hashed = f"SELECT *, md5('{seed}:' || user_id || chr(0) || item_id) AS hash FROM ({pairs}) "
    hashed += "JOIN users USING (u) JOIN items USING (i)"
    rank = "row_number() OVER (PARTITION BY stratum ORDER BY hash, u, i) - 1"
    parts = f"SELECT u, i, {split.cut(rank, 'count(*) OVER (PARTITION BY stratum)')} AS part FROM ({hashed})"
    return f"SELECT h.*, part FROM ({_HISTORY}) h JOIN ({parts}) USING (u, i)"


def write_split(staging: Staging, split: Split, folder: Path, dataset: str) -> dict[str, Any]:
    """Write ``<dataset>.<part>.inter`` for every part, read them back and refuse them if anything leaks.

    Returns
    -------
    dict
        ``kind``, ``files`` (part -> rows) and what to set in RecBole, for ``dataset.json``.

    Raises
    ------
    NestRecError
        A part without rows, an item id that a list cannot hold, or a leak.
    """
    sequences = split.rows == "sequences"
    if sequences and staging.value("SELECT count(*) FROM catalogue WHERE contains(item_id, ' ')"):
        raise NestRecError("split rows 'sequences': an item id holds a space, which parts RecBole's lists; use 'pairs'")
    fields = {"user_id": "token", "item_id_list": "token_seq", "item_id": "token", "timestamp": "float"}
    if not sequences:
        del fields["item_id_list"]
    rows = _sequences(split) if sequences else "SELECT * FROM history"
    files = {part: folder / f"{dataset}.{part}.inter" for part in split.parts}
    counts = {}
    for part, path in files.items():
        query = f"SELECT * FROM ({rows}) JOIN users USING (u) JOIN items USING (i) WHERE part = '{part}'"
        counts[part] = staging.value(copy_statement(query, path, fields, order="u, step"))
        if not counts[part]:
            raise NestRecError(f"split {split.kind!r}: no row is left for {part!r}; give it a larger ratio")
    refuse_leaks(staging, split.kind, files)
    settings: dict[str, Any] = {"benchmark_filename": list(split.parts[:3])}
    settings["load_col"] = {"inter": [field for field in fields if field != "timestamp"]}
    settings |= {"alias_of_item_id": ["item_id_list"]} if sequences else {}
    return {"kind": split.kind, "rows": counts, "settings": settings}


def _sequences(split: Split) -> str:
    """Rows with their histories: the last items before the target that may be known."""
    visible = "part = 'train'" if split.kind in _DRAWN else "true"
    earlier = f"count(*) FILTER ({visible}) OVER (PARTITION BY u ORDER BY step ROWS UNBOUNDED PRECEDING)"
    before = f"{earlier} - ({visible})::INTEGER"
    histories = f"SELECT u, list(item_id ORDER BY step) FILTER ({visible}) AS items FROM history JOIN items USING (i)"
    last = f"list_slice(h.items, greatest(before - {split.max_history} + 1, 1), before)"
    return f"""SELECT r.*, array_to_string({last}, ' ') AS item_id_list
        FROM (SELECT *, {before} AS before FROM history) r
        JOIN ({histories} GROUP BY u) h USING (u) WHERE before > 0"""

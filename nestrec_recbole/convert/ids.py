"""Users and items become numbers once, and what is no interaction is refused by file, line and field."""

from __future__ import annotations

from typing import Any

from nestrec_recbole.convert.corpus import DROPPED, Corpus, Locate
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.convert.text import CONTROL
from nestrec_recbole.errors import NestRecError

LARGEST_TIME = 2**53  # RecBole reads times as float64
_BAD_TIME = f"timestamp IS NULL OR abs(timestamp) > {LARGEST_TIME}"
_NO_ID = rf"^$|^[\[{{]|{CONTROL}"  # RecBole keeps [PAD] for itself; { is a JSON object


def number_ids(staging: Staging, corpus: Corpus, locate: Locate, drop_bad_rows: bool = False) -> None:
    """Make of ``raw`` the tables ``users`` (u, user_id), ``items`` (i, item_id) and ``interactions`` on their numbers.

    Numbers follow the ids' order as text, so that whatever is sorted by number is sorted by id. Rows without a time, an
    id or a rating are refused or, with ``drop_bad_rows``, left out and noted.
    """
    has_rating = "rating" in staging.columns("raw")
    bad_rating = "rating IS NULL OR NOT isfinite(rating)"
    if drop_bad_rows:
        bad_ids = [f"{key} IS NULL OR regexp_matches({key}, '{_NO_ID}')" for key in ("user_id", "item_id")]
        unusable = " OR ".join([_BAD_TIME, *bad_ids, *([bad_rating] if has_rating else [])])
        corpus.notes[DROPPED] = staging.value(f"SELECT count(*) FROM raw WHERE {unusable}")
        if corpus.notes[DROPPED] == staging.value("SELECT count(*) FROM raw"):
            drop_bad_rows = False  # nothing would be left: say what is wrong with the first
    if drop_bad_rows:
        # A table anew: DuckDB may number rows otherwise after a DELETE, and reviews are found by these numbers.
        staging.run(f"CREATE TABLE usable AS SELECT * FROM raw WHERE NOT ({unusable})")
        staging.run("DROP TABLE raw")
        staging.run("ALTER TABLE usable RENAME TO raw")
    _refuse(staging, corpus, locate, "timestamp", _BAD_TIME)
    if has_rating:
        _refuse(staging, corpus, locate, "rating", bad_rating)
    for table, number, key in (("users", "u", "user_id"), ("items", "i", "item_id")):
        _refuse(staging, corpus, locate, key, f"{key} IS NULL")
        distinct = f"SELECT DISTINCT {key} FROM raw"
        numbered = f"SELECT {key}, (row_number() OVER (ORDER BY {key}) - 1)::INTEGER AS {number} FROM ({distinct})"
        staging.run(f"CREATE TABLE {table} AS {numbered}")
        bad = staging.run(
            f"SELECT {key} FROM {table} WHERE regexp_matches({key}, '{_NO_ID}') ORDER BY {number} LIMIT 1"
        )
        if bad:
            _refuse(staging, corpus, locate, key, f"{key} = ?", bad[0])
    columns = "u, i, timestamp, raw.rowid AS place" + (", rating" if has_rating else "")
    joined = "raw JOIN users USING (user_id) JOIN items USING (item_id)"
    staging.run(f"CREATE TABLE interactions AS SELECT {columns} FROM {joined}")
    if not staging.value("SELECT count(*) FROM interactions"):
        raise NestRecError(f"{', '.join(map(str, corpus.sources))}: holds no interactions; check that it is complete")


_EXPECTED = {
    "timestamp": "a whole number below 2^53, or in a table a date",
    "rating": "a number",
    "user_id": "a text or number that does not begin with [ or {, and has no tab or line break",
}
_EXPECTED["item_id"] = _EXPECTED["user_id"]


def _refuse(
    staging: Staging, corpus: Corpus, locate: Locate, column: str, bad: str, parameters: tuple[Any, ...] = ()
) -> None:
    """Name the first row of ``raw`` for which ``bad`` holds."""
    row = staging.value(f"SELECT min(rowid) FROM raw WHERE {bad}", parameters)
    if row is None:
        return
    where, record = locate(row)
    field = corpus.columns.get(column, column)
    value = record.get(field)
    found = "missing" if value in (None, "") else repr(value)[:80]
    n = staging.value(f"SELECT count(*) FROM raw WHERE {bad}", parameters)
    others = f", or leave out all {n:,} such rows with --drop-bad-rows" if n > 1 else ", or use --drop-bad-rows"
    raise NestRecError(f"{where}: {field} is {found}, expected {_EXPECTED[column]}; fix or remove the line{others}")

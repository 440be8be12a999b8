"""Any CSV, TSV or Parquet files, given which column means what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nestrec_recbole.convert.attributes import attribute_source
from nestrec_recbole.convert.corpus import ROUNDED, Corpus, Locate, record_of
from nestrec_recbole.convert.delimited import Delimited, SeveralDelimited
from nestrec_recbole.convert.fields import fields_reader
from nestrec_recbole.convert.lines import check_files, extension
from nestrec_recbole.convert.sources import Parquet, Source
from nestrec_recbole.convert.staging import Staging, name, token
from nestrec_recbole.errors import NestRecError, unknown

EXTENSIONS = (".csv", ".tsv", ".parquet")


def table(
    paths: Sequence[str | Path],
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str = "timestamp",
    rating: str | None = None,
    items: str | Path | None = None,
    items_key: str | None = None,
    users: str | Path | None = None,
    users_key: str | None = None,
    time_unit: str = "s",
    quoted: bool = False,
    delimiter: str | None = None,
) -> Corpus:
    """Read tables of interactions, and perhaps one of items and one of users.

    Parameters
    ----------
    paths : sequence of str or Path
        ``.csv``, ``.tsv`` (perhaps ``.gz``) or ``.parquet``, all of one kind; columns that are not named here are not
        read, and may differ. Text is UTF-8.
    user, item, time, rating : str
        Columns of the interactions. A time is a number, rounded to a whole one, or a date with or without a time of
        day (UTC, unless it says its offset), which becomes whole seconds since 1970, or milliseconds.
    items, users : str or Path, optional
        All their columns become fields. As tables of interactions are, or ``.jsonl``.
    items_key, users_key : str, optional
        Their id columns; called as in the interactions by default.
    time_unit : str
        ``s`` or ``ms``: what numbers are, and what dates become.
    quoted : bool
        Cells of a ``.tsv`` may stand in quotes, as those of a ``.csv`` may; by default a quote is a character.
    delimiter : str, optional
        What stands between the cells of text tables, such as ``;``, where it is not that of the extension.

    Raises
    ------
    NestRecError
        A missing file, or a column that is not there.
    """
    source = table_source(paths, quoted, delimiter)
    item_source, user_source = (
        attribute_source(path, None, quoted, delimiter) if path else None for path in (items, users)
    )
    item_key, user_key = items_key or item, users_key or user
    sources = [found for found in (source, item_source, user_source) if found]
    columns = {"user_id": user, "item_id": item, "timestamp": time} | ({"rating": rating} if rating else {})
    if time_unit not in ("s", "ms"):
        raise NestRecError(f"time unit {time_unit!r}: expected s or ms")
    notes: dict[str, int] = {}
    return Corpus(
        name="table",
        sources=tuple(file for found in sources for file in found.files),
        time_unit=time_unit,
        read_interactions=lambda staging: read_interactions(staging, source, columns, time_unit, notes),
        read_items=fields_reader(item_source, "item", item_key),
        read_users=fields_reader(user_source, "user", user_key),
        columns=columns,
        notes=notes,
        options={
            "columns": columns,
            "items_key": item_key,
            "users_key": user_key,
            "quoted": quoted,
            "delimiter": delimiter,
        },
    )


def table_source(paths: Sequence[str | Path], quoted: bool = False, delimiter: str | None = None) -> Source:
    """Choose how to read tables by their extension; ``quoted`` and ``delimiter`` as in :func:`table`."""
    files = check_files(paths)
    kinds = set(map(extension, files))
    if len(kinds) > 1 or not kinds <= {*EXTENSIONS}:
        raise NestRecError(f"{files[0]}: expected .csv, .tsv (perhaps .gz) or .parquet, and all files of the same kind")
    if kinds == {".parquet"}:
        return Parquet(files)
    return SeveralDelimited.of([Delimited.of(file, None, quoted, delimiter) for file in files])


def read_interactions(
    staging: Staging, source: Source, columns: dict[str, str], time_unit: str, notes: dict[str, int]
) -> Locate:
    """Create ``raw`` of the mapped columns of a table, and note how many times were rounded.

    Raises
    ------
    NestRecError
        A column that is not there.
    """
    known = staging.source_columns(source)
    for column in columns.values():
        if column not in known:
            apart = any(mark in "".join(known) for mark in ";|\t,") and len(known) == 1
            how = "choose what its cells are apart by, --delimiter" if apart else "map it to the right one"
            raise NestRecError(f"{source.without(column)}: {unknown('column', column, known)}; {how}")
    texts = {field: f"{name(column)}::VARCHAR" for field, column in columns.items()}
    texts |= {field: token(name(columns[field]), known[columns[field]]) for field in ("user_id", "item_id")}
    moment = f"TRY_CAST({texts['timestamp']} AS TIMESTAMPTZ)"
    since_1970 = f"epoch_ms({moment})" if time_unit == "ms" else f"floor(epoch({moment}))::BIGINT"
    select = [f"{texts['user_id']} AS user_id", f"{texts['item_id']} AS item_id"]
    select.append(f"coalesce(TRY_CAST({texts['timestamp']} AS BIGINT), {since_1970}) AS timestamp")
    if "rating" in texts:
        select.append(f"TRY_CAST({texts['rating']} AS DOUBLE) AS rating")
    whole = 1000 if time_unit == "ms" else 1_000_000  # microseconds
    parts = f"TRY_CAST({texts['timestamp']} AS DOUBLE) % 1 <> 0, epoch_us({moment}) % {whole} <> 0"
    select.append(f"coalesce({parts}, false) AS is_rounded")
    staging.load("raw", ", ".join(select), source)
    if rounded := staging.value("SELECT count(*) FROM raw WHERE is_rounded"):
        notes[ROUNDED] = rounded
    staging.run("ALTER TABLE raw DROP COLUMN is_rounded")
    return record_of(source)

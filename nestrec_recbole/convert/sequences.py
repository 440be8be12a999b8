"""Histories written out: ``user item item ...`` or ``user item|time ...``, a user a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nestrec_recbole.convert.attributes import attribute_source
from nestrec_recbole.convert.corpus import PLACE, Corpus, Locate, record_of
from nestrec_recbole.convert.fields import fields_reader
from nestrec_recbole.convert.lines import check_files
from nestrec_recbole.convert.sources import Lines
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.errors import NestRecError


def sequences(
    path: str | Path,
    *,
    items: str | Path | None = None,
    item_columns: tuple[str, ...] | None = None,
    users: str | Path | None = None,
    user_columns: tuple[str, ...] | None = None,
    item_key: str = "item_id",
    user_key: str = "user_id",
    quoted: bool = False,
) -> Corpus:
    """Read histories in time order.

    Without times the place in the history takes the time's place, from 0, and ``dataset.json`` says so.

    Parameters
    ----------
    path : str or Path
        Words parted by white space: the user, then its items, oldest first, each perhaps with ``|`` and a whole number.
    items, users : str or Path, optional
        What :func:`~nestrec_recbole.convert.attributes.attribute_source` reads, such as ``.jsonl`` or ``.csv``.
    item_columns, user_columns : tuple of str, optional
        Names of a table's columns where it has no header.
    item_key, user_key : str
        The column of the ids.
    quoted : bool
        Cells of other tables than ``.csv`` may stand in quotes too; by default a quote is a character there.

    Raises
    ------
    NestRecError
        A missing file.
    """
    source = Lines(check_files([path]))
    item_source = attribute_source(items, item_columns, quoted) if items else None
    user_source = attribute_source(users, user_columns, quoted) if users else None
    has_times = _has_times(source)
    sources = [source, *(s for s in (item_source, user_source) if s)]
    return Corpus(
        name="sequences",
        sources=tuple(file for s in sources for file in s.files),
        time_unit="s" if has_times else PLACE,
        read_interactions=lambda staging: _read_histories(staging, source, has_times),
        read_items=fields_reader(item_source, "item", item_key),
        read_users=fields_reader(user_source, "user", user_key),
        options={
            "item_columns": item_columns,
            "item_key": item_key,
            "user_columns": user_columns,
            "user_key": user_key,
            "quoted": quoted,
        },
    )


def _has_times(source: Lines) -> bool:
    """Look at the first history."""
    for _, record in source.walk():
        if len(words := record["line"].split()) > 1:
            return "|" in words[1]
    return False


def _read_histories(staging: Staging, source: Lines, has_times: bool) -> Locate:
    staging.load("lines", "line, rest", source)
    record = record_of(source)
    for (row,) in staging.run("SELECT rowid FROM lines WHERE rest IS NOT NULL ORDER BY rowid LIMIT 1"):
        raise NestRecError(f"{record(row)[0]}: holds a control character; remove it")
    words = "SELECT rowid AS line, regexp_split_to_array(trim(line, ' \t'), '[ \t]+') AS words FROM lines"
    events = "SELECT line, words[1] AS user_id, unnest(words[2:]) AS event FROM histories"
    if has_times:  # what stands behind the last bar
        item, time = (
            "regexp_extract(event, '^(.+)\\|[^|]*$', 1)",
            "TRY_CAST(regexp_extract(event, '\\|([^|]+)$', 1) AS BIGINT)",
        )
    else:
        item, time = "event", "row_number() OVER (PARTITION BY user_id ORDER BY row) - 1"
    staging.run(f"CREATE TABLE histories AS {words} WHERE trim(line, ' \t') <> ''")
    staging.run(f"CREATE TABLE events AS {events}")
    mixed = "SELECT line, event FROM events WHERE regexp_matches(event, '.\\|\\d+$') ORDER BY rowid LIMIT 1"
    for line, event in [] if has_times else staging.run(mixed):
        why = f"{event!r} has a time, the first history has none; give all items times, or none"
        raise NestRecError(f"{record(line)[0]}: {why}")
    staging.run(
        f"CREATE TABLE raw AS SELECT user_id, {item} AS item_id, {time} AS timestamp, line, event "
        "FROM (SELECT *, rowid AS row FROM events) ORDER BY row"
    )

    def locate(row: int) -> tuple[str, dict[str, Any]]:
        line, user, item, event = staging.run("SELECT line, user_id, item_id, event FROM raw WHERE rowid = ?", [row])[0]
        return record(line)[0], {"user_id": user, "item_id": item, "timestamp": event}

    return locate

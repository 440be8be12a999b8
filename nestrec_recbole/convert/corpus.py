"""What every corpus becomes before the shared pipeline takes over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.sources import Record, Source
from nestrec_recbole.convert.staging import Staging

PLACE = "place in the history"  # the time unit of corpora that have no times
ROUNDED = "times rounded to whole ones, which may have lost their order"  # a note
REPEATED = "repeated records left out, of"  # a note, of items and of users
NO_NUMBERS = "values are no numbers and count as missing, of field"  # a note
DROPPED = "rows left out, without a time, an id or a rating"
UNITS = ("s", "ms", PLACE)
RESERVED = ("user_id", "item_id", "rating", "timestamp")  # columns of .inter: no other field may have their names

Locate = Callable[[int], Record]  # row of the table `raw` -> "file: line n" and what stands there
Fields = dict[str, str]  # field -> RecBole's type


@dataclass(frozen=True)
class Corpus:
    """Interactions, items and users of a corpus, read when the pipeline asks for them.

    Attributes
    ----------
    name : str
        Of the corpus, such as ``amazon2023``.
    sources : tuple of Path
        All files that are read.
    time_unit : str
        One of :data:`UNITS`.
    read_interactions : callable
        Creates the table ``raw`` in the order of the sources: ``user_id, item_id`` VARCHAR, ``timestamp`` BIGINT, and
        where there is one ``rating`` DOUBLE and ``review`` VARCHAR. What is missing or ill-typed is NULL there; the
        callable that is returned says where a row stands, so that the pipeline can name its line.
    read_items, read_users : callable, optional
        Create ``raw_items`` or ``raw_users`` of those in the table ``catalogue`` (``item_id``) or ``audience``
        (``user_id``), and return their fields. Text columns may be dirty; an ``image`` column of ``raw_items`` that is
        no field holds a URL.
    verbatim : tuple of str
        Item fields that are names or places, no text: they are not cleaned.
    columns : dict
        ``user_id``, ``item_id``, ``timestamp``, ``rating`` -> what the source calls it, for errors.
    options : dict
        The reader's own options, for ``dataset.json``.
    notes : dict
        What the reader finds worth saying in ``dataset.json``; filled while it reads.
    """

    name: str
    sources: tuple[Path, ...]
    time_unit: str
    read_interactions: Callable[[Staging], Locate]
    read_items: Callable[[Staging], Fields] | None = None
    read_users: Callable[[Staging], Fields] | None = None
    verbatim: tuple[str, ...] = ("image",)
    columns: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def record_of(source: Source) -> Locate:
    """Find the n-th record of a source by reading up to it."""
    return lambda row: next(islice(source.walk(), row, None))


def keep_first(staging: Staging, table: str, key: str) -> int:
    """Keep the first record of each key in source order; return how many were dropped."""
    first = f"(SELECT min(rowid) FROM {table} GROUP BY {key})"
    before = staging.value(f"SELECT count(*) FROM {table}")
    staging.run(f"DELETE FROM {table} WHERE rowid NOT IN {first}")
    return before - staging.value(f"SELECT count(*) FROM {table}")

"""Two datasets of atomic files, joined on their users into one of two domains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.corpus import PLACE, RESERVED, UNITS, Corpus, Fields, Locate
from nestrec_recbole.convert.delimited import Delimited, check_columns
from nestrec_recbole.convert.fields import field_names
from nestrec_recbole.convert.lines import check_files
from nestrec_recbole.convert.staging import Staging, literal, name
from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.errors import NestRecError

COLUMNS = ("user_id", "item_id", "timestamp")
DOMAIN = "domain"


@dataclass(frozen=True)
class _Side:
    """One of the datasets: its domain, its files, and what their columns hold."""

    domain: str
    folder: Path
    interactions: Delimited
    items: Delimited | None
    fields: Fields
    unit: str

    @classmethod
    def of(cls, folder: Path, domain: str) -> _Side:
        """Look at a folder of atomic files: ``<name>.inter``, perhaps ``<name>.item`` and ``dataset.json``.

        Raises
        ------
        NestRecError
            When there is no ``.inter`` file, no user, item or timestamp in it, or no item in the ``.item`` file.
        """
        if not folder.is_dir() and ("dataset_atomic" / folder).is_dir():  # a name, as other verbs take it
            folder = "dataset_atomic" / folder
        (path,) = check_files([folder / f"{folder.name}.inter"])
        item_file = folder / f"{folder.name}.item"
        interactions = _atomic(path, read_header(path), COLUMNS)
        fields = read_header(item_file) if item_file.is_file() else {}
        items = _atomic(item_file, fields, ("item_id",)) if fields else None
        about = _read_about(folder / "dataset.json")
        others = [*RESERVED, DOMAIN]
        if about["options"].get("review_text"):  # chosen for the split of this side alone
            others.append("review")
        kept = {field: kind for field, kind in fields.items() if field not in others}
        return cls(domain, folder, interactions, items, kept, about["time_unit"])


def _atomic(path: Path, header: Fields, expected: tuple[str, ...]) -> Delimited:
    for column in expected:
        if column not in header:
            raise NestRecError(f"{path}: line 1: no column {column!r}; expected {', '.join(expected)}")
    check_columns(path, tuple(header))
    return Delimited((path,), tuple(header), "\t", quote="")


def _read_about(about: Path) -> dict[str, Any]:
    """What ``dataset.json`` says; times are seconds where there is none."""
    if not about.is_file():
        return {"time_unit": "s", "options": {}}
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
        unit, _ = found["time_unit"], found.setdefault("options", {})
    except (ValueError, TypeError, KeyError, AttributeError):
        unit = None
    if unit not in UNITS:
        raise NestRecError(f"{about}: says no time_unit out of {', '.join(UNITS)}; convert that dataset anew")
    return found


def join(folders: Sequence[str | Path], *, domains: Sequence[str] | None = None) -> Corpus:
    """Read two datasets as one, with an item field ``domain``; a user token is the same user in both.

    Users of one dataset only stay. Item ids that occur in both are told apart as ``domain:id``. Item fields are those
    of both; users' fields are left behind.

    Parameters
    ----------
    folders : sequence of str or Path
        Two folders, each with ``<name>.inter`` and perhaps ``<name>.item``.
    domains : sequence of str, optional
        Their names; the folders' by default.

    Raises
    ------
    NestRecError
        Not two datasets of different names, a missing file or column, item fields whose names differ in case only, or
        times that cannot be compared.
    """
    paths = tuple(Path(folder) for folder in folders)
    names = tuple(domains) if domains else tuple(path.name for path in paths)
    if len(paths) != 2 or len(set(names)) != 2 or len(names) != 2:
        raise NestRecError(f"{len(paths)} datasets and the domains {', '.join(names)}; expected two, a name each")
    sides = [_Side.of(path, domain) for path, domain in zip(paths, names, strict=True)]
    units = [side.unit for side in sides]
    if units[0] != units[1] or PLACE in units:
        raise NestRecError(
            f"{paths[0]} has times in {units[0]}, {paths[1]} in {units[1]}: they cannot be merged in time"
        )
    renamed = _renamed(sides)
    return Corpus(
        name="join",
        sources=tuple(file for side in sides for s in (side.interactions, side.items) if s for file in s.files),
        time_unit=units[0],
        read_interactions=lambda staging: _read(staging, sides),
        read_items=lambda staging: _read_items(staging, sides, renamed),
        verbatim=("image", DOMAIN),
        options={"domains": names},
    )


def _renamed(sides: Sequence[_Side]) -> dict[str, str]:
    """Item fields of both sides, and what the joined dataset calls them."""
    files = [str(file) for side in sides if side.items for file in side.items.files]
    return field_names(" and ".join(files), list({DOMAIN: None} | sides[0].fields | sides[1].fields))


def _read(staging: Staging, sides: Sequence[_Side]) -> Locate:
    for number, side in enumerate(sides):
        whole = "TRY_CAST(timestamp AS DOUBLE) % 1 = 0"  # rounding would put others out of order
        time = f"CASE WHEN {whole} THEN TRY_CAST(timestamp AS BIGINT) END AS timestamp"
        rating = "TRY_CAST(rating AS DOUBLE)" if "rating" in side.interactions.columns else "NULL::DOUBLE"
        staging.load(f"side_{number}", f"user_id, item_id, {time}, {rating} AS rating", side.interactions)
    both = "(SELECT item_id FROM side_0 INTERSECT SELECT item_id FROM side_1)"
    shared = staging.value(f"SELECT count(*) FROM {both}")
    staging.run(f"CREATE TABLE joined AS SELECT {shared} > 0 AS prefixed")
    rated = all("rating" in side.interactions.columns for side in sides)
    parts = [
        f"SELECT user_id, {_item(side, bool(shared))} AS item_id, timestamp{', rating' if rated else ''} "
        f"FROM side_{number} ORDER BY rowid"
        for number, side in enumerate(sides)
    ]
    staging.run(f"CREATE TABLE raw AS {' UNION ALL '.join(f'({part})' for part in parts)}")
    first = staging.value("SELECT count(*) FROM side_0")

    def locate(row: int) -> tuple[str, dict[str, Any]]:
        side, place = (sides[0], row) if row < first else (sides[1], row - first)
        return next(islice(side.interactions.walk(), place, None))

    return locate


def _item(side: _Side, prefixed: bool) -> str:
    return f"{literal(side.domain + ':')} || item_id" if prefixed else "item_id"


def _picture(side: _Side) -> str:
    """The column ``image``: paths inside a side's folder from where the joined dataset finds them too."""
    folder = literal(f"{side.folder.resolve()}/")
    found = "image = '' OR starts_with(image, '/') OR contains(image, '://')"
    return f"CASE WHEN {found} THEN image ELSE {folder} || image END"


def _read_items(staging: Staging, sides: Sequence[_Side], renamed: dict[str, str]) -> Fields:
    prefixed = staging.value("SELECT prefixed FROM joined")
    tables = []
    for number, side in enumerate(sides):
        item = _item(side, prefixed)
        if side.items is None:
            staging.run(f"CREATE TABLE items_{number} AS SELECT DISTINCT item_id FROM side_{number}")
        else:
            staging.load(f"items_{number}", "*", side.items)
        columns = [f"{item} AS item_id", f"{literal(side.domain)} AS {DOMAIN}"]
        for field in side.fields:
            columns.append(f"{_picture(side) if field == 'image' else name(field)} AS {name(renamed[field])}")
        tables.append(f"SELECT {', '.join(columns)} FROM items_{number}")
    union = " UNION ALL BY NAME ".join(tables)
    staging.run(f"CREATE TABLE raw_items AS SELECT * FROM ({union}) WHERE item_id IN (FROM catalogue)")
    kinds = sides[0].fields | sides[1].fields
    mixed = {f for f in kinds if len({side.fields[f] for side in sides if f in side.fields}) > 1}
    return {DOMAIN: "token"} | {renamed[f]: "token_seq" if f in mixed else kind for f, kind in kinds.items()}

"""Item and user fields: read from tables of any columns, cleaned, and written as atomic files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from nestrec_recbole.convert.corpus import RESERVED, Fields
from nestrec_recbole.convert.delimited import Delimited
from nestrec_recbole.convert.jsonlines import JsonObjects
from nestrec_recbole.convert.sources import Source
from nestrec_recbole.convert.staging import Staging, literal, name, token
from nestrec_recbole.convert.text import CONTROL
from nestrec_recbole.data.atomic import copy_statement
from nestrec_recbole.errors import NestRecError, unknown

KINDS = ("token", "token_seq", "float")
MOST_FIELDS = 200
_KINDS_OF = {"catalogue": "an item", "audience": "a user"}  # whose ids a table holds
_ROWID = "rowid"  # a column of this name would hide DuckDB's own, which says which record came first
_NUMBERS = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
)


def choose(fields: Fields, wanted: tuple[str, ...] | None) -> Fields:
    """Keep the fields that are wanted, each ``name`` or ``name:type``; all of them by default.

    Raises
    ------
    NestRecError
        An unknown field or type.
    """
    if wanted is None:
        return fields
    chosen = {}
    for word in wanted:
        field, _, kind = word.partition(":")
        if field not in fields:
            raise NestRecError(unknown("field", field, fields))
        if kind not in ("", *KINDS):
            raise NestRecError(f"field {word!r}: expected one of the types {', '.join(KINDS)}")
        chosen[field] = kind or fields[field]
    return chosen


def read_fields(staging: Staging, source: Source, table: str, key: str, new_key: str, among: str) -> Fields:
    """Create ``table`` of all columns of a source, for the keys in ``among``, and find out what they hold.

    A column of numbers becomes ``float``, one of single words ``token``, any other ``token_seq``; lists are joined by
    a comma, and lists of lists too. Where a file says what is text and what a number, it is believed.

    Raises
    ------
    NestRecError
        No such key column, names that are the same but for case, or more than 200 fields.
    """
    if isinstance(source, JsonObjects):
        columns = _load_objects(staging, source, key, among)
    else:
        columns = _load_columns(staging, source, key, among)
    names = field_names(str(source.files[0]), [column for column in columns if column != key])
    selected = [f"{columns[key]} AS {new_key}"] + [f"{columns[c]} AS {name(f)}" for c, f in names.items()]
    staging.run(f"CREATE TABLE {table} AS SELECT {', '.join(selected)} FROM untyped")
    staging.run("DROP TABLE untyped")
    untyped = isinstance(source, Delimited)
    return {field: _kind(staging, table, field, untyped) for field in names.values()}


def fields_reader(source: Source | None, kind: str, key: str) -> Callable[[Staging], Fields] | None:
    """What :class:`~nestrec_recbole.convert.corpus.Corpus` wants: a reader of all fields of items, or of users."""
    if source is None:
        return None
    among = {"item": "catalogue", "user": "audience"}[kind]
    return lambda staging: read_fields(staging, source, f"raw_{kind}s", key, f"{kind}_id", among)


def _load_columns(staging: Staging, source: Source, key: str, among: str) -> dict[str, str]:
    """Columns of ``untyped``, each with the SQL that makes it text or a number."""
    kinds = staging.source_columns(source)
    if key not in kinds:
        raise NestRecError(f"{source.files[0]}: {unknown('column', key, kinds)}; name the column of the ids")
    read_key = token(name(key), kinds[key])
    staging.load("untyped", "*", source, f"WHERE {read_key} IN (FROM {among})")
    if not staging.value("SELECT count(*) FROM untyped"):
        staging.load(f"any_{among}", f"{read_key} AS key", source, f"WHERE {name(key)} IS NOT NULL LIMIT 1")
        _refuse_strangers(staging, source, key, among)
    return {column: _as_text_or_number(name(column), kind) for column, kind in kinds.items()} | {key: read_key}


def _refuse_strangers(staging: Staging, source: Source, key: str, among: str) -> None:
    """Say that no id of a source is known; ``any_<among>`` has one of them, where there are any."""
    for (found,) in staging.run(f"SELECT key FROM any_{among}"):
        kind, known = _KINDS_OF[among], staging.value(f"FROM {among} LIMIT 1")
        raise NestRecError(
            f"{source.files[0]}: no {key} in it is that of {kind}: it has {found!r}, the interactions have {known!r}; "
            "name the right column of ids, or write them alike"
        )


def _as_text_or_number(column: str, kind: str) -> str:
    if kind.endswith("[]"):
        return f"array_to_string({column}, ', ')"
    return f"{column}::DOUBLE" if kind.startswith(_NUMBERS) else f"{column}::VARCHAR"


def _load_objects(staging: Staging, source: JsonObjects, key: str, among: str) -> dict[str, str]:
    pointer = _pointer(key)
    staging.load("untyped", f"json, json ->> {pointer} AS {name(key)}", source)
    if staging.value("SELECT count(*) FROM untyped WHERE json_type(json) <> 'OBJECT'"):
        for _ in source.walk():  # names the line
            pass
    one = f"SELECT {name(key)} AS key FROM untyped WHERE {name(key)} IS NOT NULL LIMIT 1"
    staging.run(f"CREATE TABLE any_{among} AS {one}")
    staging.run(f"DELETE FROM untyped WHERE {name(key)} IS NULL OR {name(key)} NOT IN (FROM {among})")
    if not staging.value("SELECT count(*) FROM untyped"):
        _refuse_strangers(staging, source, key, among)
    keys = staging.run(
        "SELECT key FROM (SELECT unnest(json_keys(json)) AS key, rowid AS row, "
        "generate_subscripts(json_keys(json), 1) AS place FROM untyped) GROUP BY key ORDER BY min((row, place))"
    )
    columns = {key: name(key)} | {found: _json_value(staging, found) for (found,) in keys if found != key}
    return columns


def _pointer(key: str) -> str:
    return literal("/" + key.replace("~", "~0").replace("/", "~1"))


def _json_value(staging: Staging, key: str) -> str:
    """SQL of a JSON value: a number where all of them are, else text, with lists joined."""
    at = f"json -> {_pointer(key)}"
    kinds = {kind for (kind,) in staging.run(f"SELECT DISTINCT json_type({at}) FROM untyped")} - {None, "NULL"}
    if kinds and kinds <= {"DOUBLE", "BIGINT", "UBIGINT", "HUGEINT"}:
        return f"(json ->> {_pointer(key)})::DOUBLE"
    # Lists of lists, such as paths of categories, are made one.
    parts = f"CASE json_type({at}, '$[0]') WHEN 'ARRAY' THEN ({at}) ->> '$[*][*]' ELSE ({at}) ->> '$[*]' END"
    items = f"array_to_string({parts}, ', ')"
    return f"CASE json_type({at}) WHEN 'ARRAY' THEN {items} ELSE json ->> {_pointer(key)} END"


def field_names(where: str, columns: Sequence[str]) -> dict[str, str]:
    """Names that atomic files can hold: no colon, tab or quote, and none that ``.inter`` or DuckDB has already.

    Raises
    ------
    NestRecError
        Names that are the same but for case, or more than 200 fields.
    """
    if len(columns) > MOST_FIELDS:
        raise NestRecError(f"{where}: {len(columns)} different fields, expected {MOST_FIELDS} at most")
    names: dict[str, str] = {}
    for column in columns:
        field = re.sub(r"\W+", "_", column).strip("_") or "field"
        field = f"item_{field}" if field.lower() in (*RESERVED, _ROWID) else field
        twin = next((other for other, taken in names.items() if taken.lower() == field.lower()), None)
        if twin is not None:
            raise NestRecError(f"{where}: fields {twin!r} and {column!r} have the same name; rename one")
        names[column] = field
    return names


def _kind(staging: Staging, table: str, field: str, untyped: bool) -> str:
    if staging.columns(table)[field] == "DOUBLE":
        return "float"
    values, numbers, phrases = staging.run(
        f"SELECT count({name(field)}), count(TRY_CAST({name(field)} AS DOUBLE)), "
        f"count(*) FILTER (regexp_matches({name(field)}, '\\s')) FROM {table}"
    )[0]
    if untyped and values and values == numbers:
        return "float"
    return "token_seq" if phrases else "token"


def values_that_are_no_numbers(staging: Staging, kind: str, fields: Fields) -> dict[str, tuple[int, str]]:
    """Of the ``float`` among the fields of ``item`` or ``user``: how many values are lost, where some are, and one."""
    found = {}
    for field in (field for field, type_ in fields.items() if type_ == "float"):
        value = f"{name(field)}::VARCHAR"
        lost = f"trim({value}) <> '' AND NOT coalesce(isfinite(TRY_CAST({value} AS DOUBLE)), false)"
        n, example = staging.run(f"SELECT count(*), min({value}) FROM raw_{kind}s WHERE {lost}")[0]
        if n:
            found[field] = (n, example)
    return found


def write_fields(
    staging: Staging,
    kind: str,
    fields: Fields,
    path: Path,
    clean: Callable[[str], str],
    verbatim: tuple[str, ...] = (),
) -> dict[str, float]:
    """Clean the fields and write them, one line per item or user that occurs; none that nobody has.

    Where there is a table ``pictures``, the field ``image`` is what it says, uncleaned.

    Parameters
    ----------
    staging : Staging
        Has ``raw_items`` or ``raw_users``, and who occurs, ``catalogue`` or ``audience``.
    kind : str
        ``item`` or ``user``: which of them.
    fields : dict of str to str
        Columns of the raw table that are written, to RecBole's types.
    path : Path
        The ``.item`` or ``.user`` file; without any field there is none.
    clean : callable
        Text -> text, applied to every distinct one once.
    verbatim : tuple of str
        Fields that are written as they are, but for line breaks and other control characters, which become spaces.

    Returns
    -------
    dict of str to float
        Field to the share of items (users) that have it.
    """
    if not fields:
        return {}
    key, raw, everyone = (f"{kind}_id", f"raw_{kind}s", {"item": "catalogue", "user": "audience"}[kind])
    columns, joins = [f"{everyone}.{key}"], [f"LEFT JOIN {raw} USING ({key})"]
    staging.apply_function(lambda text: clean(text), f"clean_{kind}_text")
    for number, (field, type_) in enumerate(fields.items()):
        column = f"{raw}.{name(field)}"
        if field == "image" and staging.has("pictures"):
            columns.append("pictures.image")
            joins.append(f"LEFT JOIN pictures USING ({key})")
        elif type_ == "float":
            value = f"TRY_CAST({column} AS DOUBLE)"
            columns.append(f"CASE WHEN isfinite({value}) THEN {value} END AS {name(field)}")
        elif field in verbatim:
            columns.append(
                f"nullif(trim(regexp_replace({column}::VARCHAR, '{CONTROL}', ' ', 'g')), '') AS {name(field)}"
            )
        else:  # each distinct text is cleaned once
            distinct = f"SELECT DISTINCT {column}::VARCHAR AS text FROM {raw} WHERE {column} IS NOT NULL"
            cleaned = f"{kind}_text_{number}"
            staging.run(f"CREATE TABLE {cleaned} AS SELECT text, clean_{kind}_text(text) AS clean FROM ({distinct})")
            joins.append(f"LEFT JOIN {cleaned} ON {column}::VARCHAR = {cleaned}.text")
            columns.append(f"nullif({cleaned}.clean, '') AS {name(field)}")
    table = f"clean_{kind}s"
    staging.run(f"CREATE TABLE {table} AS SELECT {', '.join(columns)} FROM {everyone} {' '.join(joins)}")
    shares = ", ".join(f"count({name(field)}) / count(*)" for field in fields)
    coverage = dict(zip(fields, staging.run(f"SELECT {shares} FROM {table}")[0], strict=True))
    held = {field: type_ for field, type_ in fields.items() if coverage[field]}
    if held:
        staging.run(copy_statement(f"SELECT * FROM {table}", path, {key: "token", **held}, order=key))
    return coverage

"""RecBole's atomic files: tab-separated, one ``name:type`` header per column (https://recbole.io/atomic_files.html)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.errors import NestRecError

CHUNK = 1 << 24  # bytes of a file looked at together
FIELD_TYPES = ("token", "token_seq", "float", "float_seq")


def read_header(path: str | Path, separator: str = "\t", encoding: str | None = None) -> dict[str, str]:
    """Read the columns of an atomic file.

    Returns
    -------
    dict of str to str
        Field name to field type, in file order.

    Raises
    ------
    NestRecError
        When the file is missing, empty, not text, or a column is not ``name:type``.
    """
    path = Path(path)
    try:
        with open(path, encoding=encoding or "utf-8-sig") as file:
            head = file.readline().rstrip("\r\n")
    except FileNotFoundError:
        raise NestRecError(f"{path}: file not found; check `data_path` and the dataset name") from None
    except UnicodeDecodeError as error:
        raise _no_text(path, encoding, error) from None
    except LookupError:
        raise NestRecError(f"encoding {encoding!r} is none that Python knows; try utf-8") from None
    if not head:
        raise NestRecError(f"{path}: line 1: the file is empty; expected a header such as 'user_id:token<TAB>...'")
    fields: dict[str, str] = {}
    for column in head.split(separator):
        name, _, kind = column.partition(":")
        if kind not in FIELD_TYPES:
            raise NestRecError(
                f"{path}: line 1: column {column!r} is not 'name:type' with a type of {', '.join(FIELD_TYPES)}"
            )
        if name in fields:
            raise NestRecError(f"{path}: line 1: column {name!r} appears twice; rename one of the two")
        fields[name] = kind
    return fields


def read_columns(
    path: str | Path,
    columns: Iterable[str] | None = None,
    *,
    types: dict[str, Any] | None = None,
    separator: str = "\t",
    encoding: str | None = None,
) -> pd.DataFrame:
    """Read columns of an atomic file with pandas' C parser; sequences stay strings.

    RecBole asks for pandas' Python parser, which takes ten times as long, and lets a quote that opens a title swallow
    the lines after it. Here a quote is a character like any other.

    Parameters
    ----------
    path : str or Path
        The file.
    columns : iterable of str, optional
        The fields wanted; all of them by default.
    types : dict, optional
        Field to numpy dtype. Fields not named are read as strings.

    Returns
    -------
    pandas.DataFrame
        One column per field, named without its type; an empty cell is NaN.

    Raises
    ------
    NestRecError
        On a missing column, a line of too many cells, or a value that does not parse: file, line and field are named.
    """
    fields = read_header(path, separator, encoding)
    wanted = list(fields) if columns is None else list(columns)
    missing = [name for name in wanted if name not in fields]
    if missing:
        raise NestRecError(f"{path}: line 1: no column {missing[0]!r}; the file has {', '.join(fields)}")
    _refuse_long_lines(path, separator, encoding, len(fields))
    types = types or {}
    options = _layout(list(fields), wanted, separator, encoding)
    try:
        return pd.read_csv(path, dtype={name: types.get(name, str) for name in wanted}, **options)[wanted]
    except pd.errors.EmptyDataError:
        return pd.DataFrame({name: pd.Series(dtype=types.get(name, str)) for name in wanted})
    except pd.errors.ParserError as error:
        raise NestRecError(f"{path}: {str(error).strip()}; fix or remove that line") from None
    except UnicodeDecodeError as error:
        raise _no_text(path, encoding, error) from None
    except (ValueError, OverflowError):
        raise _first_bad_value(path, pd.read_csv(path, dtype=str, **options), types, encoding) from None


def _layout(columns: list[str], wanted: list[str], separator: str, encoding: str | None) -> dict[str, Any]:
    """What pandas is told of an atomic file."""
    return {
        "sep": separator if len(separator) == 1 else re.escape(separator),
        "names": columns,
        "usecols": wanted,
        "header": None,
        "skiprows": 1,
        "encoding": encoding or "utf-8-sig",
        "quoting": csv.QUOTE_NONE,
        "na_values": [""],
        "keep_default_na": False,
        "engine": "c" if len(separator.encode()) == 1 else "python",
        "index_col": False,
    }


def _no_text(path: str | Path, encoding: str | None, error: UnicodeDecodeError) -> NestRecError:
    return NestRecError(f"{path}: not valid {encoding or 'UTF-8'} text ({error.reason}); set `encoding`")


def _refuse_long_lines(path: str | Path, separator: str, encoding: str | None, n_columns: int) -> None:
    """Name the first line with more cells than the header: given the columns wanted, pandas drops the others unsaid."""
    if len(separator.encode()) != 1 or f"{separator}\n".encode(encoding or "utf-8") != f"{separator}\n".encode():
        for number, text in _lines(path, encoding):
            if (n_cells := text.count(separator) + 1) > n_columns:
                raise NestRecError(f"{path}: line {number}: {n_cells} columns, expected {n_columns}; fix it")
        return
    with open(path, "rb") as file:
        file.readline()
        n_lines = 1
        while chunk := file.read(CHUNK) + file.readline():
            codes = np.frombuffer(chunk, dtype=np.uint8)
            starts = np.r_[0, np.flatnonzero(codes == ord("\n")) + 1]
            starts = starts[starts < len(codes)]
            cells = 1 + np.add.reduceat(codes == ord(separator), starts, dtype=np.int64)
            if cells.max() > n_columns:
                place = int(np.argmax(cells > n_columns))
                line = n_lines + place + 1
                raise NestRecError(f"{path}: line {line}: {cells[place]} columns, expected {n_columns}; fix it")
            n_lines += len(starts)


def _lines(path: str | Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    with open(path, encoding=encoding or "utf-8-sig", errors="replace") as file:
        yield from enumerate(file, start=1)


def line_of(path: str | Path, row: int, encoding: str | None = None) -> int:
    """The line, from 1, of a row of what :func:`read_columns` has read: blank lines are no rows."""
    filled = (number for number, line in _lines(path, encoding) if number > 1 and line.strip(" \r\n"))
    return next(islice(filled, row, None), row + 2)


def _first_bad_value(
    path: str | Path, table: pd.DataFrame, types: dict[str, Any], encoding: str | None
) -> NestRecError:
    """Name the first value that is not a number, after a read with types has failed."""
    for name in types:
        if name in table:
            values = table[name]
            bad = values.index[values.notna() & pd.to_numeric(values, errors="coerce").isna()]
            if len(bad):
                line = line_of(path, int(bad[0]), encoding)
                return NestRecError(f"{path}: line {line}: {name} is {values[bad[0]]!r}, expected a number")
    return NestRecError(f"{path}: a number is missing or too large; check {', '.join(types)}")


def copy_statement(query: str, path: str | Path, fields: dict[str, str], order: str) -> str:
    """DuckDB's statement that writes a query as an atomic file, streaming.

    Parameters
    ----------
    query : str
        SQL that returns the columns of ``fields``; texts without tabs and line breaks.
    path : str or Path
    fields : dict of str to str
        Column to RecBole's type, in file order.
    order : str
        What the lines are sorted by.
    """
    quoted = {name.replace('"', '""'): kind for name, kind in fields.items()}
    columns = ", ".join(f'"{name}" AS "{name}:{kind}"' for name, kind in quoted.items())
    target = str(path).replace("'", "''")
    # Nothing is quoted: to RecBole and to `read_columns` a quote is a character like any other.
    layout = "FORMAT csv, DELIMITER '\t', HEADER true, QUOTE '', ESCAPE '', NULLSTR ''"
    return f"COPY (SELECT {columns} FROM ({query}) ORDER BY {order}) TO '{target}' ({layout})"

"""The DuckDB file that a conversion works in: out of core, within a memory limit, and with errors of one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from nestrec_recbole.convert.sources import Source
from nestrec_recbole.errors import NestRecError, first_line


def name(identifier: str) -> str:
    """Quote a column or table name for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def token(column: str, kind: str) -> str:
    """SQL of an id as text: whole numbers of a floating type, which pandas makes of integers with gaps, as integers."""
    text = f"{column}::VARCHAR"
    if kind not in ("FLOAT", "DOUBLE"):
        return text
    return f"CASE WHEN {column} % 1 = 0 AND abs({column}) < 9e15 THEN {column}::BIGINT::VARCHAR ELSE {text} END"


class Staging:
    """Tables on disk between the raw files and the atomic ones.

    The result of every statement here depends on its input only: neither on ``threads`` nor on ``memory_limit``.
    DuckDB keeps the order of insertion, so a table's ``rowid`` says which record came first in the sources.

    Parameters
    ----------
    folder : Path
        Empty; holds the database and what DuckDB spills.
    memory_limit : str
        What DuckDB may hold in memory, such as ``1GB``.
    threads : int, optional
        As many as there are cores by default.

    Raises
    ------
    NestRecError
        A memory limit that is none, a full disk, or too little memory.
    """

    def __init__(self, folder: Path, memory_limit: str, threads: int | None = None) -> None:
        settings: dict[str, Any] = {"temp_directory": str(folder / "spill")}
        settings |= {"threads": threads} if threads else {}
        try:
            self._connection = duckdb.connect(str(folder / "staging.duckdb"), config=settings)
            self._connection.execute(f"SET memory_limit = {literal(memory_limit)}")
        except duckdb.Error as error:
            raise NestRecError(f"memory limit {memory_limit!r}: {first_line(error)}; give one such as 1GB") from None
        self._connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        self.folder, self.memory_limit = folder, memory_limit

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement and fetch what it returns."""
        try:
            return self._connection.execute(sql, list(parameters)).fetchall()
        except duckdb.OutOfMemoryException:
            raise NestRecError(f"the memory limit of {self.memory_limit} is too small; give more") from None
        except duckdb.IOException as error:
            raise NestRecError(f"reading or writing failed: {first_line(error)}") from None

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The one value that a query returns."""
        return self.run(sql, parameters)[0][0]

    def columns(self, table: str) -> dict[str, str]:
        """Names and DuckDB types of a table's columns, in order."""
        return {row[0]: row[1] for row in self.run(f"DESCRIBE {table}")}

    def has(self, table: str) -> bool:
        """Tell whether a table exists."""
        return bool(self.run("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", [table]))

    def source_columns(self, source: Source) -> dict[str, str]:
        """Names and DuckDB types of a source's columns.

        Raises
        ------
        NestRecError
            See :meth:`load`.
        """
        with self._complaints(source):
            return self.columns(f"SELECT * FROM {source.sql()}")

    def load(self, table: str, select: str, source: Source, where: str = "") -> None:
        """Create a table of ``SELECT {select} FROM {source} {where}``, its rows in the source's order.

        Raises
        ------
        NestRecError
            What is wrong with the source's first bad record, with its line.
        """
        with self._complaints(source):
            readable = source.prepared(self.folder).sql()
            self._connection.execute(f"CREATE TABLE {table} AS SELECT {select} FROM {readable} {where}")

    @contextmanager
    def _complaints(self, source: Source) -> Iterator[None]:
        """Turn what DuckDB says about a file into one line with the place."""
        try:
            yield
        except duckdb.OutOfMemoryException:
            raise NestRecError(f"the memory limit of {self.memory_limit} is too small; give more") from None
        except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException):
            raise  # the statement's fault, not the file's
        except duckdb.Error as error:
            for _ in source.walk():  # names the file and the line, where DuckDB often cannot
                pass
            files = ", ".join(map(str, source.files))
            raise NestRecError(f"{files}: cannot be read: {first_line(error)}") from None

    def insert(self, table: str, columns: dict[str, Any]) -> None:
        """Create a table of columns that are in memory."""
        import pyarrow

        self._connection.register("given", pyarrow.table(columns))
        self.run(f"CREATE TABLE {table} AS FROM given")
        self._connection.unregister("given")

    def apply_function(self, function: Any, label: str) -> None:
        """Make a function of one text known to SQL under the name ``label``; it returns text."""
        self._connection.create_function(label, function, ["VARCHAR"], "VARCHAR")

"""Text tables: columns apart by a delimiter, with a header or without."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from nestrec_recbole.convert.lines import LONGEST_LINE, byte_lines, check_line_ends, decode, extension
from nestrec_recbole.convert.sources import Record, Source, file_list, struct
from nestrec_recbole.errors import NestRecError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".dat": "::"}  # of text tables, by extension


@dataclass(frozen=True)
class Delimited(Source):
    """Text tables, every column read as text.

    ``columns`` is what the header says, or, where ``header`` is False, what the caller knows. Where ``quote`` is empty,
    a quote is a character like any other.
    """

    columns: tuple[str, ...]
    delimiter: str
    header: bool = True
    quote: str = '"'
    encoding: str = "utf-8"

    @classmethod
    def of(
        cls, path: Path, columns: tuple[str, ...] | None = None, quoted: bool = False, delimiter: str | None = None
    ) -> Delimited:
        """Read a table as its extension says.

        Parameters
        ----------
        path : Path
            Its extension is a key of ``DELIMITERS``.
        columns : tuple of str, optional
            Where there is no header; by default the first line says them.
        quoted : bool
            Cells may stand in quotes. In a ``.csv`` they always may; RecBole's files, and those that are made for it
            or written line by line, hold titles that begin with a quotation mark, and no quoted cells.
        delimiter : str, optional
            One character, where it is not that of the extension.

        Raises
        ------
        NestRecError
            An empty file, or a column that is there twice.
        """
        kind = extension(path)
        if delimiter is not None and (len(delimiter) != 1 or not delimiter.isprintable() or delimiter in "'\""):
            raise NestRecError(f"delimiter {delimiter!r}: expected one character, such as ;")
        delimiter, quote = delimiter or DELIMITERS[kind], '"' if quoted or kind == ".csv" else ""
        if columns is not None:
            return cls((path,), columns, delimiter, header=False, quote=quote)
        return cls((path,), _read_header(path, delimiter, quote), delimiter, quote=quote)

    def sql(self) -> str:
        """See :class:`Source`."""
        quote = "'" + self.quote.replace("'", "''") + "'"
        return (
            f"read_csv({file_list(self.files)}, columns = {struct(self.columns)}, delim = '{self.delimiter}', "
            f"quote = {quote}, escape = {quote}, header = false, skip = {int(self.header)}, auto_detect = false, "
            f"encoding = '{self.encoding}', max_line_size = {LONGEST_LINE}, buffer_size = {2 * LONGEST_LINE})"
        )

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`."""
        for path in self.files:
            for number, cells in self._rows(path):
                if (number == 1 and self.header) or not cells:
                    continue
                if len(cells) != len(self.columns):
                    why = f"{len(cells)} columns, expected {len(self.columns)} ({', '.join(self.columns)})"
                    raise NestRecError(f"{path}: line {number}: {why}; fix or remove the line")
                yield f"{path}: line {number}", dict(zip(self.columns, cells, strict=True))
            check_line_ends(path)

    def _rows(self, path: Path) -> Iterator[tuple[int, list[str]]]:
        lines = ((number, decode(path, number, line, self.encoding)) for number, line in byte_lines(path))
        if not self.quote:
            yield from ((number, line.split(self.delimiter) if line else []) for number, line in lines)
            return
        csv.field_size_limit(LONGEST_LINE)
        reader = csv.reader((line + "\n" for _, line in lines), delimiter=self.delimiter, strict=True)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except csv.Error as error:
            why = f"line {reader.line_num}: not a valid row ({error}); fix or remove the line"
            raise NestRecError(f"{path}: {why}") from None


@dataclass(frozen=True)
class SeveralDelimited(Source):
    """Text tables one after the other, of the columns that all of them have, wherever they stand."""

    parts: tuple[Delimited, ...]

    @classmethod
    def of(cls, tables: Sequence[Delimited]) -> Source:
        """Tables that follow each other and have the same columns are read as one.

        Raises
        ------
        NestRecError
            When they have no column in common.
        """
        alike = [list(group) for _, group in groupby(tables, key=lambda one: one.columns)]
        parts = tuple(replace(group[0], files=tuple(file for one in group for file in one.files)) for group in alike)
        found = parts[0] if len(parts) == 1 else cls(tuple(file for one in parts for file in one.files), parts)
        if isinstance(found, cls) and not found.columns:
            raise NestRecError(f"{parts[1].files[0]}: has no column in common with {parts[0].files[0]}")
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that all have, as the first has them."""
        return tuple(name for name in self.parts[0].columns if all(name in part.columns for part in self.parts))

    def without(self, column: str) -> Path:
        """See :class:`Source`."""
        return next(part.files[0] for part in self.parts if column not in part.columns)

    def sql(self) -> str:
        """See :class:`Source`."""
        select = ", ".join('"' + column.replace('"', '""') + '"' for column in self.columns)
        return f"({' UNION ALL '.join(f'SELECT {select} FROM {part.sql()}' for part in self.parts)})"

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`."""
        for part in self.parts:
            yield from part.walk()


def _read_header(path: Path, delimiter: str, quote: str) -> tuple[str, ...]:
    first = next(byte_lines(path), None)
    text = decode(path, *first) if first else ""
    try:
        cells = next(csv.reader([text], delimiter=delimiter, strict=True), []) if quote else text.split(delimiter)
    except csv.Error as error:
        raise NestRecError(f"{path}: line 1: not a valid header ({error}); fix it") from None
    if not any(cells):
        raise NestRecError(f"{path}: line 1: the file is empty; expected a header of column names")
    check_columns(path, cells)
    return tuple(cells)


def check_columns(path: Path, cells: Sequence[str]) -> None:
    """Refuse a header whose columns DuckDB, which ignores case, could not tell apart or name.

    Raises
    ------
    NestRecError
        A column without a name, with a control character in it, or that is there twice.
    """
    lower = [cell.lower() for cell in cells]
    for place, cell in enumerate(lower):
        if not cell:
            raise NestRecError(f"{path}: line 1: column {place + 1} has no name; give it one")
        if not cell.isprintable():
            raise NestRecError(f"{path}: line 1: column {cells[place]!r} holds a control character; rename it")
        if cell in lower[:place]:
            raise NestRecError(f"{path}: line 1: column {cells[place]!r} appears twice; rename one of the two")

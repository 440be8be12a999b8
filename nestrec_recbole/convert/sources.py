"""Raw files as DuckDB reads them, and a slow second reading that finds the line when something is wrong."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import NestRecError, first_line

LONGEST_LINE = 16 << 20  # bytes; DuckDB holds two of them per thread
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".dat": "::"}  # of text tables, by extension
Record = tuple[str, dict[str, Any]]  # "file: line n", and what the record holds


@dataclass(frozen=True)
class Source:
    """Files of one format, read as one, in the order given."""

    files: tuple[Path, ...]

    def sql(self) -> str:
        """What stands behind ``FROM``."""
        raise NotImplementedError

    def walk(self) -> Iterator[Record]:
        """Read record by record in Python; raise a NestRecError that names file and line at the first bad one."""
        raise NotImplementedError

    def prepared(self, folder: Path) -> Source:
        """A source of the same records that DuckDB can read: copies in ``folder`` where it cannot read the files."""
        return self


def check_files(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """Refuse what is not there or is no file.

    Raises
    ------
    NestRecError
        A path that is missing or a folder, or no path at all.
    """
    for path in map(Path, paths):
        if path.is_dir():
            raise NestRecError(f"{path}: is a folder; expected a file")
        if not path.is_file():
            raise NestRecError(f"{path}: file not found; check the path")
    if not paths:
        raise NestRecError("no source file was given")
    return tuple(map(Path, paths))


def extension(path: Path) -> str:
    """The extension of a file, or of what is packed in a ``.gz``."""
    return Path(path.name.removesuffix(".gz")).suffix


def open_bytes(path: Path) -> Any:
    """Open a file, unpacked if its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a file with their numbers from 1, without line ends and byte order mark.

    Raises
    ------
    NestRecError
        A line longer than 16 MiB, or a gzip stream that is cut off or damaged.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise NestRecError(f"{path}: line {number}: longer than {LONGEST_LINE >> 20} MiB; cut or remove it")
                yield number, line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = f"the gzip stream is cut off or damaged ({error})"
        raise NestRecError(f"{path}: line {number + 1}: {why}; fetch the file again") from None


def decode(path: Path, number: int, line: bytes, encoding: str = "utf-8") -> str:
    """Text of a line."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        why = f"not valid UTF-8 text ({error.reason} at byte {error.start + 1})"
        raise NestRecError(f"{path}: line {number}: {why}; convert the file to UTF-8") from None


def file_list(files: Sequence[Path]) -> str:
    """Files as a list in SQL, in which ``*``, ``?`` and ``[`` mean themselves."""
    escaped = (str(file).translate({ord(c): f"[{c}]" for c in "*?["}) for file in files)
    return "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in escaped) + "]"


def struct(columns: Sequence[str], kind: str = "VARCHAR") -> str:
    """Columns of one type, as DuckDB's readers want them."""
    return "{" + ", ".join("'" + column.replace("'", "''") + f"': '{kind}'" for column in columns) + "}"


@dataclass(frozen=True)
class JsonLines(Source):
    """One JSON object a line, ``.jsonl`` or ``.jsonl.gz``; ``columns`` are read as text, ``nested`` ones as JSON."""

    columns: tuple[str, ...]
    nested: tuple[str, ...] = ()

    def sql(self) -> str:
        """See :class:`Source`."""
        kinds = (
            struct(self.columns)[:-1] + ", " + struct(self.nested, "JSON")[1:] if self.nested else struct(self.columns)
        )
        return (
            f"read_json({file_list(self.files)}, columns = {kinds}, format = 'newline_delimited', records = true, "
            f"maximum_object_size = {LONGEST_LINE})"
        )

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`."""
        return json_records(self.files)

    def prepared(self, folder: Path) -> Source:
        """See :class:`Source`."""
        return replace(self, files=tuple(without_mark(path, folder) for path in self.files))


@dataclass(frozen=True)
class JsonObjects(Source):
    """One JSON object a line, whatever its keys; a single column ``json``."""

    def sql(self) -> str:
        """See :class:`Source`."""
        return f"read_ndjson_objects({file_list(self.files)}, maximum_object_size = {LONGEST_LINE})"

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`."""
        return json_records(self.files)

    def prepared(self, folder: Path) -> Source:
        """See :class:`Source`."""
        return replace(self, files=tuple(without_mark(path, folder) for path in self.files))


def without_mark(path: Path, folder: Path) -> Path:
    """The file, or a copy without its byte order mark, which DuckDB's JSON reader refuses."""
    try:
        with open_bytes(path) as file:
            if file.read(3) != b"\xef\xbb\xbf":
                return path
            copy = copy_in(folder, path)
            with open(copy, "wb") as target:
                shutil.copyfileobj(file, target)
            return copy
    except (EOFError, OSError, zlib.error):
        return path  # DuckDB and the second reading say what is wrong with it


def copy_in(folder: Path, path: Path) -> Path:
    """Where a copy of a file goes."""
    return folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.jsonl"


def json_records(files: Sequence[Path]) -> Iterator[Record]:
    """Parse one line after the other; blank lines are none."""
    for path in files:
        for number, line in byte_lines(path):
            if line.strip(b" \t\r"):
                yield f"{path}: line {number}", _parse_object(path, number, line)


def _parse_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    text = decode(path, number, line)
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats, parse_int=str, parse_float=str)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        why = "holds half of a surrogate pair, which is no text"
    except RecursionError:
        why = "is nested too deeply"
    except ValueError as error:
        why = f"is not valid JSON ({error})"
    else:
        if isinstance(found, dict):
            return found
        why = f"is {text[:40]!r}, expected a JSON object {{...}}"
    raise NestRecError(f"{path}: line {number}: the line {why}; fix or remove it")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = [key for place, key in enumerate(keys) if key in keys[:place]]
    if repeated:
        raise ValueError(f"key {repeated[0]!r} appears twice")
    return dict(pairs)


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
    def of(cls, files: tuple[Path, ...], columns: tuple[str, ...] | None = None, quoted: bool = False) -> Delimited:
        """Read tables as their extension says.

        Parameters
        ----------
        files : tuple of Path
            All of one extension, a key of ``DELIMITERS``.
        columns : tuple of str, optional
            Where there is no header; by default the first line says them, the same in every file.
        quoted : bool
            Cells may stand in quotes. In a ``.csv`` they always may; RecBole's files, and those that are made for it
            or written line by line, hold titles that begin with a quotation mark, and no quoted cells.

        Raises
        ------
        NestRecError
            An empty file, a column that is there twice, or files of different columns.
        """
        kind = extension(files[0])
        delimiter, quote = DELIMITERS[kind], '"' if quoted or kind == ".csv" else ""
        if columns is not None:
            return cls(files, columns, delimiter, header=False, quote=quote)
        headers = [_read_header(path, delimiter, quote) for path in files]
        for path, header in zip(files, headers, strict=True):
            if header != headers[0]:
                raise NestRecError(f"{path}: line 1: the columns are not those of {files[0]}; convert them apart")
        return cls(files, headers[0], delimiter, quote=quote)

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


@dataclass(frozen=True)
class Lines(Source):
    """Plain lines: a column ``line``, and a column ``rest`` that is filled only by a control character in it."""

    def sql(self) -> str:
        """See :class:`Source`."""
        return (
            f"read_csv({file_list(self.files)}, columns = {struct(('line', 'rest'))}, delim = '\x01', quote = '', "
            f"escape = '', header = false, auto_detect = false, strict_mode = false, null_padding = true, "
            f"max_line_size = {LONGEST_LINE}, buffer_size = {2 * LONGEST_LINE})"
        )

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`. DuckDB leaves empty lines out, and ends a line at a carriage return too."""
        for path in self.files:
            for number, line in byte_lines(path):
                for part in filter(None, decode(path, number, line).split("\r")):
                    yield f"{path}: line {number}", {"line": part}


@dataclass(frozen=True)
class Parquet(Source):
    """Parquet files of the same columns."""

    def sql(self) -> str:
        """See :class:`Source`."""
        return f"read_parquet({file_list(self.files)})"

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`."""
        import pyarrow.parquet

        for path in self.files:
            try:
                batches = pyarrow.parquet.ParquetFile(path).iter_batches()
                number = 0
                for batch in batches:
                    for record in batch.to_pylist():
                        number += 1
                        yield f"{path}: row {number}", record
            except (OSError, ValueError) as error:
                why = first_line(error)
                raise NestRecError(f"{path}: not a readable Parquet file ({why}); write it again") from None

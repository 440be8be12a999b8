"""Raw files as DuckDB reads them, and a slow second reading that finds the line when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.lines import LONGEST_LINE, byte_lines, decode
from nestrec_recbole.errors import NestRecError, first_line

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

    def without(self, column: str) -> Path:
        """The file that an error names which misses a column."""
        return self.files[0]


def file_list(files: Sequence[Path]) -> str:
    """Files as a list in SQL, in which ``*``, ``?`` and ``[`` mean themselves."""
    escaped = (str(file).translate({ord(c): f"[{c}]" for c in "*?["}) for file in files)
    return "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in escaped) + "]"


def struct(columns: Sequence[str], kind: str = "VARCHAR") -> str:
    """Columns of one type, as DuckDB's readers want them."""
    return "{" + ", ".join("'" + column.replace("'", "''") + f"': '{kind}'" for column in columns) + "}"


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
